"""`log.csv` of a training: a row for each step, there as soon as the step was taken."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiprep.store.disk import output_errors, write_whole

__all__ = ["StepLog"]


class StepLog:
    """Rows of numbers, appended; written anew, whole, where one brings names not there before.

    Args:
        path: Of the file; one that is there is replaced with the first row.
        writes: Whether this process writes it, or only remembers.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.rows: list[dict[str, Any]] = []
        self._names: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, numbers by name.

        Raises:
            OutputError: it cannot be written.
        """
        self.rows.append(dict(row))
        if not self.writes:
            return
        if not row.keys() <= set(self._names):
            self._write_whole()
            return
        with output_errors(self.path), self.path.open("ab") as file:
            file.write(self._lines([row]))

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on from these rows; what the file has besides is of steps that are taken again.

        Raises:
            OutputError: it cannot be written.
        """
        self.rows = [dict(row) for row in rows]
        if self.writes:
            self._write_whole()

    def _write_whole(self) -> None:
        self._names = list(dict.fromkeys(name for row in self.rows for name in row))
        head = ",".join(self._names) + "\n"
        write_whole(self.path, head.encode() + self._lines(self.rows))

    def _lines(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        text = io.StringIO()
        table = csv.DictWriter(text, self._names, lineterminator="\n")
        for row in rows:
            table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        return text.getvalue().encode()
