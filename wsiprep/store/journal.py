"""Features on their way into the store, kept so that a kill loses only what was in flight.

`rows.bin` is an (N, D) array in the dtype of the store; `log.jsonl` holds a header with the key
of the features, then one line for each span of rows that is safely in `rows.bin`, with a CRC of
its bytes and the rows of it that could not be read. Rows are written before their line; a torn
last line, or a span whose bytes do not match its CRC, counts as not there.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.store.disk import output_errors, sync_folder

__all__ = ["Journal", "missing_spans"]

SYNC_SECONDS = 2.0
"""A power cut may lose this much work; a kill of the process loses none that was logged."""


class Journal:
    """Open (and resume, or start afresh when the key differs) the journal in `folder`.

    Args:
        folder: Folder of its two files; made when absent.
        key: Identity of the features; a journal with another key is discarded.
        rows: N.
        dim: D.
        dtype: float16 or float32.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, key: str, rows: int, dim: int, dtype: str) -> None:
        self.folder = folder
        self.header = {"key": key, "rows": rows, "dim": dim, "dtype": dtype}
        self.dtype = np.dtype(dtype)
        self.shape = (rows, dim)
        self.done = np.zeros(rows, np.bool_)
        self.ok = np.ones(rows, np.bool_)
        self._data = folder / "rows.bin"
        self._log = folder / "log.jsonl"
        self._synced = time.monotonic()
        self._rows = self._lines = -1
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not self._resume():
                self._start()
            self._open()

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self.done.all())

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.shape[1] * self.dtype.itemsize

    def append(self, start: int, vectors: NDArray[np.floating[Any]], ok: NDArray[np.bool_]) -> None:
        """Add rows [start, start + B).

        Args:
            start: First row.
            vectors: (B, D) of the journal's dtype.
            ok: bool (B,), False for tiles that could not be read.

        Raises:
            OutputError: no space left, or another fault of the disk.
        """
        stop = start + len(vectors)
        if (
            vectors.shape[1:] != self.shape[1:]
            or vectors.dtype != self.dtype
            or stop > len(self.ok)
        ):
            raise ValueError(f"rows {vectors.shape} {vectors.dtype} do not fit {self.header}")
        content = np.ascontiguousarray(vectors).tobytes()
        line = {
            "start": start,
            "stop": stop,
            "crc32": zlib.crc32(content),
            "bad": (np.flatnonzero(~ok) + start).tolist(),
        }
        with output_errors(self._data):
            _write_all(self._rows, content, start * self.row_bytes)
            os.write(self._lines, (json.dumps(line) + "\n").encode())
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()
        self.done[start:stop] = True
        self.ok[start:stop] = ok

    def sync(self) -> None:
        """Make all rows so far durable: the rows first, then their lines."""
        os.fsync(self._rows)
        os.fsync(self._lines)
        self._synced = time.monotonic()

    def read(self) -> NDArray[np.floating[Any]]:
        """All rows, (N, D), mapped from disk."""
        if not self.shape[0]:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self._data, dtype=self.dtype, mode="r", shape=self.shape)

    def close(self) -> None:
        """Sync and close the files; they stay for the next run."""
        if self._rows >= 0:
            with output_errors(self._data):
                self.sync()
            os.close(self._rows)
            os.close(self._lines)
            self._rows = -1

    def restart(self) -> None:
        """Forget all rows.

        Raises:
            OutputError: the folder cannot be written.
        """
        self.close()
        with output_errors(self.folder):
            self._start()
            self._open()
        self.done[:] = False
        self.ok[:] = True

    def _open(self) -> None:
        self._rows = os.open(self._data, os.O_RDWR)
        self._lines = os.open(self._log, os.O_WRONLY | os.O_APPEND)

    def _start(self) -> None:
        self._log.unlink(missing_ok=True)
        with self._data.open("wb") as file:
            file.truncate(self.shape[0] * self.row_bytes)
        self._log.write_text(json.dumps(self.header) + "\n")
        sync_folder(self.folder)

    def _resume(self) -> bool:
        """Read the log; False when there is none for this key. Drops a torn tail."""
        if not (self._log.exists() and self._data.exists()):
            return False
        whole = self._log.read_bytes().rpartition(b"\n")[0]
        lines = whole.split(b"\n")
        if _parse(lines[0]) != self.header:
            return False
        if self._data.stat().st_size != self.shape[0] * self.row_bytes:
            return False
        with self._data.open("rb") as data:
            for text in lines[1:]:
                line = _parse(text)
                if not isinstance(line, dict) or not {"start", "stop", "crc32", "bad"} <= set(line):
                    continue
                start, stop = line["start"], line["stop"]
                data.seek(start * self.row_bytes)
                if zlib.crc32(data.read((stop - start) * self.row_bytes)) != line["crc32"]:
                    continue
                self.done[start:stop] = True
                self.ok[start:stop] = True
                self.ok[np.asarray(line["bad"], np.int64)] = False
        os.truncate(self._log, len(whole) + 1)
        return True


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _write_all(handle: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view = view[written:]
        offset += written


def missing_spans(done: Sequence[NDArray[np.bool_]], batch: int) -> list[tuple[int, int]]:
    """Spans of rows that some journal lacks, cut at multiples of `batch`.

    The cuts do not depend on what is already there, so a resumed run puts the same patches
    into the same batches as an undisturbed one.
    """
    if not done or not len(done[0]):
        return []
    lacking = ~np.logical_and.reduce(list(done))
    spans: list[tuple[int, int]] = []
    for first in range(0, len(lacking), batch):
        part = lacking[first : first + batch].astype(np.int8)
        edges = np.flatnonzero(np.diff(part, prepend=0, append=0))
        spans += [
            (first + int(a), first + int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]
    return spans
