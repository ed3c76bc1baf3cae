"""Which slides an `--overwrite` run has done again, so that it can be stopped and go on."""

from __future__ import annotations

import json

from wsiprep import __version__
from wsiprep.core.config import digest
from wsiprep.core.report import RunLog
from wsiprep.store.disk import output_errors
from wsiprep.store.schema import WORK_FOLDER
from wsiprep.tasks.config import AnyConfig
from wsiprep.tasks.inputs import SlideRef

__all__ = ["RedoLog"]


class RedoLog:
    """Slides that this very command has finished since it was first started with `--overwrite`.

    The file is named by the settings and slides of the command and removed when it ends, so a
    later run of the command does everything again.

    Args:
        cfg: Settings of the command; without `overwrite` nothing is written.
    """

    def __init__(self, cfg: AnyConfig) -> None:
        same = cfg.model_dump(mode="json", exclude={"run": {"workers", "fail_fast", "json_"}})
        work = cfg.run.output / WORK_FOLDER
        self.active = cfg.run.overwrite
        self._path = work / f"overwrite-{digest([__version__, same])[:16]}.jsonl"
        self._done = set(self._read()) if self.active else set()
        if self.active:  # what another command did again may be undone by this one
            for other in work.glob("overwrite-*.jsonl"):
                if other != self._path:
                    other.unlink(missing_ok=True)

    def _read(self) -> list[str]:
        if not self._path.is_file():
            return []
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line)["slide"] for line in whole.splitlines()]

    def is_done(self, ref: SlideRef, own: AnyConfig) -> bool:
        """Whether the slide was done again, with these settings, before the command was stopped."""
        return _name(ref, own) in self._done

    def add(self, ref: SlideRef, own: AnyConfig) -> None:
        """Note that a slide is done.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.active:
            with output_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            RunLog(self._path).write({"slide": _name(ref, own), "path": str(ref.path)})

    def end(self) -> None:
        """The command has tried all slides."""
        if self.active:
            self._path.unlink(missing_ok=True)


def _name(ref: SlideRef, own: AnyConfig) -> str:
    return digest([str(ref.path), ref.id, own.canonical()])
