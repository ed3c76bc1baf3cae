"""Walking over DICOM data elements without making objects of them.

A whole-slide file may hold 100,000 items of per-frame groups before its pixels; a few header
fields and the place of the frames are all that is wanted. So elements are stepped over in the
bytes, and only what is asked for is looked into.

Source: DICOM PS3.5, chapter 7 (data elements, sequences and items).
"""

from __future__ import annotations

import mmap
from collections.abc import Container, Iterator
from typing import TypeAlias

__all__ = ["ITEM", "SEQUENCE_END", "UNDEFINED", "Buffer", "Tag", "element", "elements", "items",
           "skip_sequence"]  # fmt: skip

Buffer: TypeAlias = bytes | mmap.mmap
Tag: TypeAlias = tuple[int, int]

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG_VR = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
            b"UV"}  # fmt: skip


def elements(
    data: Buffer, at: int, end: int, stop: Container[Tag] = ()
) -> Iterator[tuple[Tag, int, int]]:
    """(tag, start of the value, end of the value) of explicit little-endian elements.

    Sequences are stepped over; of one of undefined length the end is that of its end marker.

    Args:
        data: The bytes.
        at: Start of the first element.
        end: Where they end; an item of undefined length ends earlier, with its marker.
        stop: Tags that end the walk. The element is given, with an end of `UNDEFINED` beyond its
            start where its length is undefined, and whether or not it lies within the data.

    Raises:
        IndexError: the data end within an element.
        RecursionError: sequences are nested absurdly deep.
    """
    while at < end:
        tag, start, length = element(data, at, explicit=True)
        if tag == ITEM_END:
            return
        if tag in stop:
            yield tag, start, start + length
            return
        at = skip_sequence(data, start, True) if length == UNDEFINED else start + length
        if at > end:
            raise IndexError(at)
        yield tag, start, at


def items(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the content of the items of a sequence.

    Args:
        data: The bytes.
        at: Start of the sequence's value.
        end: Its end; one of undefined length ends earlier, with its marker.

    Raises:
        IndexError: the data end within an item.
    """
    while at < end:
        tag, start, length = element(data, at, explicit=True)
        if tag != ITEM:
            return
        at = _skip_item(data, start, True) if length == UNDEFINED else start + length
        if at > end:
            raise IndexError(at)
        yield start, at


def element(data: Buffer, at: int, explicit: bool) -> tuple[Tag, int, int]:
    """Tag, start of the value and its length of the element at `at`."""
    if at + 8 > len(data):
        raise IndexError(at)
    tag = (
        int.from_bytes(data[at : at + 2], "little"),
        int.from_bytes(data[at + 2 : at + 4], "little"),
    )
    if not explicit or tag[0] == 0xFFFE:  # items have no VR in either encoding
        return tag, at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
    if data[at + 4 : at + 6] in _LONG_VR:
        return tag, at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
    return tag, at + 8, int.from_bytes(data[at + 6 : at + 8], "little")


def skip_sequence(data: Buffer, at: int, explicit: bool) -> int:
    """Position after a sequence of undefined length whose value starts at `at`."""
    while True:
        tag, start, length = element(data, at, explicit)
        if tag == SEQUENCE_END:
            return start
        at = _skip_item(data, start, explicit) if length == UNDEFINED else start + length


def _skip_item(data: Buffer, at: int, explicit: bool) -> int:
    """Position after an item of undefined length whose content starts at `at`."""
    while True:
        tag, start, length = element(data, at, explicit)
        if tag == ITEM_END:
            return start
        at = skip_sequence(data, start, explicit) if length == UNDEFINED else start + length
