"""What a run says: one row a slide, and events on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsiprep.core.errors import OutputError, WsiprepError
from wsiprep.core.profile import Profile

__all__ = [
    "NO_TISSUE_REMEDY",
    "OUT_OF_FOCUS_REMEDY",
    "Event",
    "OnEvent",
    "OnNote",
    "OnStep",
    "RunLog",
    "RunReport",
    "SlideOutcome",
    "Status",
    "TrainStep",
    "white_note",
]

NO_TISSUE_REMEDY = (
    "Look at the overlay; if there is tissue, try another --segmenter or --preset, or give it "
    "with --mask (each also a column of the manifest, for this slide alone)."
)
"""What to do about a slide without tissue."""

OUT_OF_FOCUS_REMEDY = (
    "--min-focus dropped all of their patches: lower it, or look at the values with --focus alone."
)
"""What to do about a slide that lost all patches to `min_focus`."""

Status = Literal["ok", "empty", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class SlideOutcome:
    """How one slide ended; a row of `run.jsonl` and of the closing table.

    Attributes:
        slide: Slide id.
        path: Where the slide is.
        status: `ok`; `empty` (no tissue, no patch with enough of it, or none in focus); `skipped`
            (all was there already); `failed`.
        stage: Stage that failed, or the last one done.
        error: Class of the error, when failed.
        reason: What failed, or why it was skipped.
        remedy: What to do about it.
        patches: Patches of the grid.
        blurred: Patches dropped as out of focus, where that left none.
        encoded: Patches encoded in this run (the rest were there already).
        bad_tiles: Patches that could not be read and are marked invalid.
        thumbnail_bad_tiles: Stored tiles, or other parts, that could not be read and are white in
            the thumbnail on which tissue was found.
        tissue_mm2: Tissue area.
        plan: The reading plan in words.
        seconds: Wall time.
        store: Path of the slide's store.
        overlay: Path of the overlay picture.
        geojson: Path of the tissue outlines.
        notes: Warnings.
    """

    slide: str
    path: str
    status: Status
    stage: str = ""
    error: str = ""
    reason: str = ""
    remedy: str = ""
    patches: int = 0
    blurred: int = 0
    encoded: int = 0
    bad_tiles: int = 0
    thumbnail_bad_tiles: int = 0
    tissue_mm2: float = 0.0
    plan: str = ""
    seconds: float = 0.0
    store: str = ""
    overlay: str = ""
    geojson: str = ""
    notes: tuple[str, ...] = ()


def white_note(bad: Set[str], picture: str) -> tuple[str, ...]:
    """What is said of a picture of a slide in which something is missing; nothing where not.

    Args:
        bad: What `core.contracts.Slide.thumbnail` could not decode.
        picture: What the picture is called.
    """
    if not bad:
        return ()
    more = f", and {len(bad) - 1} more like it" if len(bad) > 1 else ""
    return (f"White in the {picture}: {min(bad).rstrip('.')}{more}.",)


@dataclass(slots=True)
class RunReport:
    """All rows of a run, in order."""

    rows: list[SlideOutcome] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    problem: WsiprepError | None = None
    """What ended the run before its last slide: a problem of the machine."""
    profile: Profile | None = None
    """Where the time of encoding went; None where the run does not encode."""

    @property
    def failed(self) -> list[SlideOutcome]:
        """Rows that failed."""
        return [row for row in self.rows if row.status == "failed"]

    @property
    def without_tissue(self) -> list[SlideOutcome]:
        """Rows of slides on which no tissue was found, now or by an earlier run."""
        return [row for row in self.rows if row.status == "empty" and not row.tissue_mm2]

    @property
    def out_of_focus(self) -> list[SlideOutcome]:
        """Rows of slides of which all patches were dropped as out of focus, now or before."""
        return [row for row in self.rows if row.status == "empty" and row.blurred]

    @property
    def exit_code(self) -> int:
        """130 interrupted, 3 a problem of the machine, 70 a bug, 1 some slide failed, else 0."""
        if self.interrupted:
            return 130
        if self.problem is not None:
            return self.problem.exit_code
        if any(row.stage == "bug" for row in self.failed):
            return 70
        return 1 if self.failed else 0

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types for `--json`."""
        return {
            "slides": [asdict(row) for row in self.rows],
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "exit_code": self.exit_code,
            **({} if self.profile is None else {"encoding": self.profile.canonical()}),
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened that a progress display may show.

    `kind` is `run` (total = slides), `plan` (text), `stage` (a stage begins; total = its tiles,
    0 if unknown), `tiles` (done = tiles since the last event), `note` (text) or `outcome` (a
    slide ended; without `outcome` there is nothing to say of it).
    """

    kind: Literal["run", "plan", "stage", "tiles", "note", "outcome"]
    slide: str = ""
    text: str = ""
    total: int = 0
    done: int = 0
    outcome: SlideOutcome | None = None


OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """A step of a training that was taken.

    Attributes:
        step: Its number, from 1.
        steps: Of how many.
        loss: Smoothed over the last steps.
        learning_rate: Of this step.
        per_s: Samples a second since the last report.
        unit: What a sample is.
        scores: After a validation, by name.
        tokens_per_s: Tokens that a language model read a second, likewise, or patches that a slide
            encoder did; None where neither learns.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    per_s: float
    unit: str
    scores: dict[str, float] | None = None
    tokens_per_s: float | None = None


OnStep = Callable[[TrainStep], None]
OnNote = Callable[[str], None]
"""Told a sentence that a user should read."""


class RunLog:
    """Append-only `run.jsonl`: a line when a run begins, one for each slide, one at the end.

    Each line is written with one `write` on a file opened for appending, so that several
    processes may share the file; a run that is killed loses at most its last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            OutputError: the file cannot be written.
        """
        line = json.dumps(row, ensure_ascii=False, sort_keys=False) + "\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(handle)
        except OSError as err:
            raise OutputError(
                f"cannot write {self.path}: {err.strerror}.",
                hint="Check permissions and free space of the output folder.",
            ) from err
