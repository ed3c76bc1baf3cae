"""Frames of encapsulated DICOM pixel data: found by offset tables, freed of fragment headers.

Source: DICOM PS3.5 A.4 (encapsulated pixel data, basic offset table); PS3.3 C.7.6.3.1.8 (extended
offset table).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsiprep.slide.dicom_elements import ITEM, SEQUENCE_END, Buffer, element

__all__ = ["DicomImageError", "defragment", "frame_table"]


class DicomImageError(Exception):
    """The file is not one whose frames can be found; says why, without full stop."""


def frame_table(
    data: Buffer, at: int, frames: int, extended: bytes
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the frames of encapsulated pixel data are.

    By the extended offset table, else the basic one, else by stepping over the fragments, which
    must then be one a frame.

    Args:
        data: The file.
        at: Start of the value of the pixel data.
        frames: How many there are.
        extended: Value of the extended offset table, or empty.

    Returns:
        int64 (frames,) position of each, int64 (frames,) its length, both with the headers of its
        fragments.

    Raises:
        DicomImageError: they cannot be told apart.
        IndexError: the data end among them.
    """
    tag, start, length = element(data, at, explicit=True)
    first = start + length
    if tag != ITEM or first > len(data):
        raise DicomImageError("damaged where its pixels begin")
    offsets = np.empty(0, np.int64)
    if len(extended) == 8 * frames:
        offsets = first + np.frombuffer(extended, "<u8").astype(np.int64)
    elif length == 4 * frames:
        offsets = first + np.frombuffer(data[start:first], "<u4").astype(np.int64)
    elif frames == 1:
        offsets = np.array([first])
    if not _is_table(data, offsets, first):
        starts = [place for place, _ in _walk_fragments(data, first)]
        if len(starts) != frames:
            raise DicomImageError(
                f"it has {len(starts)} fragments for {frames} frames and no good offset table"
            )
        offsets = np.array(starts)
    *_, (_, end) = _walk_fragments(data, int(offsets[-1]))
    return offsets, np.diff(offsets, append=end)


def _is_table(data: Buffer, offsets: NDArray[np.int64], first: int) -> bool:
    """Whether offsets ascend from the first fragment, and the last is that of a fragment."""
    if not offsets.size or offsets[0] != first or (np.diff(offsets) <= 0).any():
        return False
    last = int(offsets[-1])
    return last + 8 <= len(data) and element(data, last, explicit=True)[0] == ITEM


def _walk_fragments(data: Buffer, at: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the fragments from `at` on, headers included."""
    while True:
        tag, start, length = element(data, at, explicit=True)
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise DicomImageError("damaged among its frames")
        if start + length > len(data):
            raise IndexError(at)
        yield at, start + length
        at = start + length


def defragment(data: bytes) -> bytes:
    """The bytes of a frame, without the headers of its fragments.

    Raises:
        ValueError: there is something else between them.
    """
    parts, at = [], 0
    try:
        while at < len(data):
            tag, start, length = element(data, at, explicit=True)
            at = start + length
            if tag != ITEM or at > len(data):
                raise IndexError(at)
            parts.append(data[start:at])
    except IndexError as err:
        raise ValueError("its fragments are not where the offset table says") from err
    return parts[0] if len(parts) == 1 else b"".join(parts)
