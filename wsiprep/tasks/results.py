"""What a command that uses a model leaves: a table, and JSON with all that decided it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsiprep.core.report import SlideOutcome
from wsiprep.store.disk import write_whole

__all__ = ["Asked", "csv_text", "failures", "write_json"]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a command that uses a model ended.

    Attributes:
        report: Results with provenance, plain JSON types.
        rows: How each slide ended.
        files: What was written, by what it is.
    """

    report: dict[str, Any]
    rows: tuple[SlideOutcome, ...]
    files: dict[str, str]

    @property
    def exit_code(self) -> int:
        """70 a bug, 1 some slide failed, else 0."""
        if any(row.stage == "bug" for row in self.rows):
            return 70
        return int(any(row.status == "failed" for row in self.rows))


def failures(rows: Iterable[SlideOutcome]) -> list[dict[str, Any]]:
    """Slides that failed, and why, as plain JSON types."""
    words = ("slide", "path", "stage", "error", "reason", "remedy")
    return [
        {word: value for word, value in asdict(row).items() if word in words}
        for row in rows
        if row.status == "failed"
    ]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV; numbers as they are, absent values empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode("utf-8", "backslashreplace"))
