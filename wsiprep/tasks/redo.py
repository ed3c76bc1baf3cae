"""What an `--overwrite` run has done again, so that it can be stopped and go on."""

from __future__ import annotations

import json
from dataclasses import dataclass

from wsiprep import __version__
from wsiprep.core.config import digest
from wsiprep.core.report import RunLog
from wsiprep.store.disk import output_errors
from wsiprep.store.schema import WORK_FOLDER
from wsiprep.tasks.config import AnyConfig
from wsiprep.tasks.inputs import SlideRef

__all__ = ["RedoLog", "Redone"]


class RedoLog:
    """What this very command has done again since it was first started with `--overwrite`.

    The file is named by the settings and slides of the command and removed when it ends, so a
    later run of the command does everything again. Starting another command with `--overwrite`
    in the same folder removes it too: that may undo what was noted.

    Args:
        cfg: Settings of the command; without `overwrite` nothing is written.

    Raises:
        OutputError: a file of another command cannot be removed.
    """

    def __init__(self, cfg: AnyConfig) -> None:
        how = {"workers", "fail_fast", "json_", "profile"}
        same = cfg.model_dump(mode="json", exclude={"run": how})
        work = cfg.run.output / WORK_FOLDER
        self.active = cfg.run.overwrite
        self._path = work / f"overwrite-{digest([__version__, same])[:16]}.jsonl"
        self._done: set[str] = set()
        if self.active:
            self._done = self._read()
            with output_errors(work):
                for other in set(work.glob("overwrite-*.jsonl")) - {self._path}:
                    other.unlink(missing_ok=True)

    def _read(self) -> set[str]:
        if not self._path.is_file():
            return set()
        done = set()
        for line in self._path.read_bytes().splitlines():
            try:
                done.add(json.loads(line)["done"])
            except (ValueError, KeyError, TypeError):
                continue  # a line torn by a full disk: what it told of is done once more
        return done

    def of(self, ref: SlideRef, own: AnyConfig) -> Redone:
        """What is noted of one slide with its settings."""
        return Redone(self, digest([str(ref.path), ref.id, own.canonical()]), str(ref.path))

    def has(self, name: str) -> bool:
        """Whether it was noted."""
        return name in self._done

    def add(self, name: str, path: str) -> None:
        """Note it; `path` is for who reads the file.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.active:
            with output_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            RunLog(self._path).write({"done": name, "path": path})

    def end(self) -> None:
        """The command has tried all slides."""
        if self.active:
            self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Redone:
    """What an `--overwrite` run has done again of one slide; a part of its store, or all of it."""

    log: RedoLog
    slide: str
    path: str

    def has(self, part: str = "") -> bool:
        """Whether the part (or the whole slide) was done before the command was stopped."""
        return self.log.has(self.slide + part)

    def note(self, part: str = "") -> None:
        """The part (or the whole slide) is done.

        Raises:
            OutputError: it cannot be written.
        """
        self.log.add(self.slide + part, self.path)
