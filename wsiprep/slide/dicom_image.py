"""What one DICOM whole-slide instance holds: its picture, its scale, and where its frames lie.

Explicit little-endian files only, which all that hold compressed pixels are.

Source: DICOM PS3.3 C.7.6.16, C.7.6.17, C.8.12.4 (multi-frame, dimensions, whole slide).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiprep.slide.dicom import WSI_STORAGE, read_header
from wsiprep.slide.dicom_elements import UNDEFINED, Buffer, Tag, elements, items
from wsiprep.slide.dicom_frames import DicomImageError, frame_table

__all__ = ["DicomImage", "read_image"]

_IMPLICIT_LE = "1.2.840.10008.1.2"
_MAX_FRAMES = 1 << 24
_MAX_GROUPS_BYTES = 1 << 29

_IMAGE_TYPE = (0x0008, 0x0008)
_SOP, _SOURCE = (0x0008, 0x0018), (0x0020, 0x0242)
_FIRST_FRAME, _ORGANIZATION = (0x0020, 0x9228), (0x0020, 0x9311)
_FRAMES, _ROWS, _COLUMNS = (0x0028, 0x0008), (0x0028, 0x0010), (0x0028, 0x0011)
_PHOTOMETRIC, _SPACING, _MEASURES = (0x0028, 0x0004), (0x0028, 0x0030), (0x0028, 0x9110)
# samples, planar, bits allocated, bits stored, high bit, signed
_PLAIN = tuple((0x0028, number) for number in (0x0002, 0x0006, 0x0100, 0x0101, 0x0102, 0x0103))
_WIDTH, _HEIGHT, _FOCAL_PLANES = (0x0048, 0x0006), (0x0048, 0x0007), (0x0048, 0x0303)
_OPTICAL_PATHS, _LENS_POWER = (0x0048, 0x0105), (0x0048, 0x0112)
_SHARED, _PER_FRAME = (0x5200, 0x9229), (0x5200, 0x9230)
_OFFSETS, _PIXELS = (0x7FE0, 0x0001), (0x7FE0, 0x0010)
_STOPS = frozenset({_PER_FRAME, _PIXELS})

_AFTER_GROUPS = re.compile(rb"\xfe\xff\xdd\xe0\0\0\0\0(?=\xe0\x7f(?:\x01\0OV|\x10\0O[BW])\0\0)")
_POSITION = re.compile(
    rb"\x48\0\x1e\x02SL\x04\0(....)\x48\0\x1f\x02SL\x04\0(....)", re.DOTALL
)  # column, row


@dataclass(frozen=True, slots=True, eq=False)
class DicomImage:
    """A whole-slide instance; empty text, 0 or None where the file does not say.

    Attributes:
        path: The file.
        instance: Its UID, or that of the instance that it is a part of.
        image_type: What kind of picture it is.
        syntax: Transfer syntax, how frames are encoded.
        photometric: What the channels are said to be.
        plain: Whether a pixel is three unsigned interleaved channels of 8 bits.
        width: Of the level that it is, or is part of, in pixels.
        height: Of that level.
        columns: Width of a frame.
        rows: Height of a frame.
        focal_planes: How many.
        spacing_mm: Pixel spacing as text, vertical and horizontal.
        objective: Power of the objective, as text.
        first_frame: Number in the level of the first frame of this part.
        positions: int64 (frames, 2), column and row of each frame's first pixel, from 1; None
            where frames fill the level row by row.
        offsets: int64 (frames,), place in the file of each frame.
        counts: int64 (frames,), length in bytes, with the headers of its fragments.
        encapsulated: Whether frames are made of fragments; see `dicom_frames.py`.
    """

    path: Path
    instance: str
    image_type: tuple[str, ...]
    syntax: str
    photometric: str
    plain: bool
    width: int
    height: int
    columns: int
    rows: int
    focal_planes: int
    spacing_mm: tuple[str, ...]
    objective: str | None
    first_frame: int
    positions: NDArray[np.int64] | None
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    encapsulated: bool


def read_image(path: Path, kinds: Container[tuple[str, ...]]) -> DicomImage | None:
    """Read the header of an instance and find its frames.

    Args:
        path: The file.
        kinds: Image types that are wanted, the first four values.

    Returns:
        None where it is a picture of another kind.

    Raises:
        DicomImageError: it is no whole-slide instance, is damaged or cut short, or its frames
            cannot be told apart.
        OSError: the file cannot be read.
    """
    header = read_header(path)
    if header is None or header.sop_class != WSI_STORAGE:
        raise DicomImageError("not a DICOM whole-slide image that can be walked")
    if header.transfer_syntax == _IMPLICIT_LE:
        raise DicomImageError("its elements are implicit")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            return _read(path, data, header.transfer_syntax, kinds)
        except (IndexError, RecursionError, ValueError) as err:
            raise DicomImageError("cut short or damaged") from err


def _read(
    path: Path, data: Buffer, syntax: str, kinds: Container[tuple[str, ...]]
) -> DicomImage | None:
    places = {tag: (start, end) for tag, start, end in elements(data, 132, len(data), _STOPS)}

    def text(tag: Tag) -> tuple[str, ...]:
        return _texts(data[slice(*places[tag])]) if tag in places else ()

    def number(tag: Tag) -> int:
        return int.from_bytes(data[slice(*places[tag])][:4], "little") if tag in places else 0

    if text(_IMAGE_TYPE)[:4] not in kinds:
        return None
    groups = _groups(data, places)
    if _PIXELS not in places:
        raise DicomImageError("cut short: it has no pixels")
    frames, rows, columns = int("".join(text(_FRAMES)) or 1), number(_ROWS), number(_COLUMNS)
    if not (0 < frames <= _MAX_FRAMES and rows and columns):
        raise DicomImageError(f"it says that it has {frames} frames of {columns} x {rows} px")
    plain = [number(tag) for tag in _PLAIN] == [3, 0, 8, 8, 7, 0]
    start, end = places[_PIXELS]
    encapsulated = end - start == UNDEFINED
    if encapsulated:
        table = data[slice(*places[_OFFSETS])] if _OFFSETS in places else b""
        offsets, counts = frame_table(data, start, frames, table)
    else:
        size = rows * columns * 3
        if end > len(data) or end - start < frames * size:
            raise DicomImageError("cut short: frames lie beyond its end")
        offsets, counts = start + size * np.arange(frames), np.full(frames, size)
    sparse = text(_ORGANIZATION) != ("TILED_FULL",) and (frames > 1 or bool(groups))
    power = _inside(data, places, _OPTICAL_PATHS, _LENS_POWER)
    return DicomImage(
        path=path,
        instance="".join(text(_SOURCE) or text(_SOP)),
        image_type=text(_IMAGE_TYPE),
        syntax=syntax,
        photometric="".join(text(_PHOTOMETRIC)),
        plain=plain,
        width=number(_WIDTH),
        height=number(_HEIGHT),
        columns=columns,
        rows=rows,
        focal_planes=number(_FOCAL_PLANES) or 1,
        spacing_mm=_inside(data, places, _SHARED, _MEASURES, _SPACING),
        objective=power[0] if power else None,
        first_frame=number(_FIRST_FRAME),
        positions=_positions(groups, frames) if sparse else None,
        offsets=offsets,
        counts=counts,
        encapsulated=encapsulated,
    )


def _groups(data: Buffer, places: dict[Tag, tuple[int, int]]) -> bytes:
    """The per-frame groups; what follows them is added to `places`."""
    if _PER_FRAME not in places:
        return b""
    start, end = places[_PER_FRAME]
    limit = start + _MAX_GROUPS_BYTES
    if end - start == UNDEFINED:
        # They may have a million elements: their end is looked for, not walked to.
        after = _AFTER_GROUPS.search(data, start, limit)
        if after is None:
            raise DicomImageError("the end of its per-frame groups is not found")
        end = after.end()
    if end > min(limit, len(data)):
        raise DicomImageError("cut short within its per-frame groups, or they are too long")
    places.update(
        {tag: (begin, stop) for tag, begin, stop in elements(data, end, len(data), {_PIXELS})}
    )
    return data[start:end]


def _positions(groups: bytes, frames: int) -> NDArray[np.int64]:
    found = _POSITION.findall(groups)
    if len(found) != frames:
        raise DicomImageError(f"it tells the place of {len(found)} of its {frames} frames")
    return np.frombuffer(b"".join(c + r for c, r in found), "<i4").reshape(-1, 2).astype(np.int64)


def _inside(data: Buffer, places: dict[Tag, tuple[int, int]], *path: Tag) -> tuple[str, ...]:
    """Text values of an element in the first item of a sequence, or of nested ones."""
    if path[0] not in places:
        return ()
    place = places[path[0]]
    if len(path) == 1:
        return _texts(data[slice(*place)])
    for start, end in items(data, *place):
        within = {tag: (begin, stop) for tag, begin, stop in elements(data, start, end)}
        return _inside(data, within, *path[1:])
    return ()


def _texts(value: bytes) -> tuple[str, ...]:
    text = value[:1024].decode("ascii", "replace").rstrip("\0 ")
    return tuple(part.strip() for part in text.split("\\")) if text else ()
