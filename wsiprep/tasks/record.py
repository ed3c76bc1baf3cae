"""What a run leaves on record: `run.jsonl`, and `config.yaml` to repeat it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import yaml

from wsiprep import __version__
from wsiprep.core.profile import Profile
from wsiprep.core.report import RunLog, RunReport, SlideOutcome, Status
from wsiprep.store.disk import write_whole
from wsiprep.tasks.config import AnyConfig
from wsiprep.tasks.inputs import Inputs

__all__ = ["Record"]

NOT_REPEATED = {"dry_run", "json_", "overwrite", "profile"}
"""Settings that say what to do this time, not how."""


class Record:
    """Writes the lines of one run.

    Args:
        out: The output folder, which exists.

    Raises:
        OutputError: the file cannot be written (each method).
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._log = RunLog(out / "run.jsonl")
        self._began = time.monotonic()

    def begin(self, cfg: AnyConfig, inputs: Inputs) -> None:
        """A run begins."""
        self._log.write(
            {
                "event": "begin",
                "time": _now(),
                "version": __version__,
                "settings": cfg.canonical(),
                "slides": len(inputs.slides),
                "notes": list(inputs.notes),
            }
        )

    def slide(self, row: SlideOutcome, began: float, trace: str = "") -> SlideOutcome:
        """A slide ended; returns the row with its time."""
        row = replace(row, seconds=round(time.monotonic() - began, 3))
        more = {"traceback": trace} if trace else {}
        self._log.write({"event": "slide", "time": _now(), **asdict(row), **more})
        return row

    def end(self, report: RunReport, slides: int) -> None:
        """The run ended, one way or another."""
        report.seconds = time.monotonic() - self._began
        counts = {s: sum(row.status == s for row in report.rows) for s in get_args(Status)}
        self._log.write(
            {
                "event": "end",
                "time": _now(),
                "slides": slides,
                **counts,
                "interrupted": report.interrupted,
                "seconds": round(report.seconds, 3),
            }
        )

    def profile(self, profile: Profile) -> None:
        """Where the time of encoding went."""
        content = json.dumps(profile.canonical(), indent=2, ensure_ascii=False)
        write_whole(self._out / "profile.json", content.encode("utf-8", "backslashreplace"))

    def config(self, cfg: AnyConfig) -> None:
        """The settings as a file that `--config` takes."""
        parts = ["# Settings of the last run; --config takes this file.\n"]
        for name in type(cfg).model_fields:
            section = getattr(cfg, name)
            if name == "inputs":
                continue
            values = {
                key.rstrip("_"): value
                for key, value in section.model_dump(mode="json").items()
                if value is not None and key not in NOT_REPEATED
            }
            if values:
                parts.append(f"\n# {section.panel}\n")
                parts.append(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        write_whole(self._out / "config.yaml", "".join(parts).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
