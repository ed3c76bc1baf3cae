"""Whether a TIFF file was cut short, told from its chain of directories.

Tolerant TIFF libraries drop a directory that lies beyond the end of the file and go on with the
others: a cut slide then opens, with levels missing. The chain itself says what should be there.

Source: TIFF 6.0, section 2; the BigTIFF design (AWare Systems).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Literal

__all__ = ["is_tiff", "tiff_cut_at"]

_MAX_DIRECTORIES = 100_000
_NDPI_TAG = 65420  # Hamamatsu bends classic TIFF beyond 4 GiB; its offsets cannot be judged


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts with `head` is TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_cut_at(path: Path) -> str | None:
    """What lies beyond the end of the TIFF file `path`, in words; None where nothing does.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if not is_tiff(head):
            return None
        return _walk(file, head, os.fstat(file.fileno()).st_size)


def _walk(file: BinaryIO, head: bytes, length: int) -> str | None:
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = 43 in (head[2], head[3])
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)

    def number(data: bytes) -> int:
        return int.from_bytes(data, order)

    offset = number(head[8:16] if big else head[4:8])
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _MAX_DIRECTORIES:
        place = f"directory {len(seen)} at byte {offset} of a file of {length} bytes"
        seen.add(offset)
        if offset >= length:
            return place
        file.seek(offset)
        head = file.read(count_bytes)
        size = number(head) * entry_bytes
        if len(head) < count_bytes or offset + count_bytes + size + offset_bytes > length:
            return place
        entries = file.read(size)
        tags = {number(entries[i : i + 2]) for i in range(0, size, entry_bytes)}
        if _NDPI_TAG in tags:
            return None
        offset = number(file.read(offset_bytes))
    return None
