"""What a Hamamatsu NDPI file holds: its levels, where their restart intervals lie, its scale.

NDPI is classic TIFF bent beyond 4 GiB. Each level is one JPEG with restart markers in one strip;
a private tag tells where each restart interval starts. As OpenSlide, this takes as levels the
directories with a lens power above 0 (-1 is the macro image, -2 a map) and focal plane 0, and the
scale of the first directory.

Source: docs/formats of the OpenSlide project (hamamatsu, "TIFF tags"); TIFF 6.0.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size, Tiling
from wsiprep.slide.readers._jpeg_intervals import JpegFrame, read_frame
from wsiprep.slide.readers._tiled import RefusedError, tiling_of
from wsiprep.slide.resolution import RawResolution

__all__ = ["NdpiLevel", "is_ndpi", "levels_of", "resolution_of"]

TILE_ROWS_PX = 256
"""Height of a tile: enough intervals that decoding outweighs starting a decoder."""
MAX_TILE_PX = 1 << 22
"""Where one interval is very wide, tiles are lower than `TILE_ROWS_PX`."""
MAX_LONE_PX = 4096 * 4096
"""Largest level without restart markers that is read, as one tile."""

_FORMAT, _LENS, _FOCAL_PLANE, _STARTS, _STARTS_HIGH = 65420, 65421, 65424, 65426, 65432
_WIDTH, _HEIGHT, _COMPRESSION, _OFFSET, _ROWS_PER_STRIP, _BYTES = 256, 257, 259, 273, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_INCH, _CENTIMETER = 2, 3
_UNIT_UM = {_INCH: 25400.0, _CENTIMETER: 1e4}
_JPEG = 7
_HEADER_BYTES = 1 << 18
_JPEG_MAX_PX = 65500  # libjpeg's
_ENTRY_BYTES = 12
_MAX_BYTES_PER_PX = 24  # JPEG's worst case, escapes included, is some 20


@dataclass(frozen=True, slots=True, eq=False)
class NdpiLevel:
    """A level as it is stored.

    Attributes:
        size: In pixels.
        tiling: Tiles as this reader makes them, each of one column of intervals.
        frame: Header of its JPEG.
        starts: int64 (intervals + 1,), position in the file of the entropy-coded bytes of each
            interval, rows of intervals from the top; then the end of the JPEG.
        cols: Intervals in a row; 0 where the level has no restart markers and is one tile.
    """

    size: Size
    tiling: Tiling
    frame: JpegFrame
    starts: NDArray[np.int64]
    cols: int

    def intervals(self, tile: int) -> range:
        """Numbers of the intervals that make a tile, top down."""
        row, col = divmod(tile, self.cols)
        per_tile = self.tiling.tile.height // self.frame.interval.height
        first = row * per_tile * self.cols + col
        last = min(first + per_tile * self.cols, self.starts.size - 1)
        return range(first, last, self.cols)


def is_ndpi(path: Path) -> bool:
    """Whether a file is a little-endian TIFF whose first directory has NDPI's tag.

    Raises:
        RefusedError: it is, and a later directory lies beyond the end of the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"II*\0":
            return False
        length = os.fstat(file.fileno()).st_size
        offset, seen = int.from_bytes(file.read(8), "little"), set[int]()
        # Libraries leave out, without a word, what a cut file lacks.
        while offset and offset not in seen:
            tags, after = _directory(file, offset)
            if not seen and _FORMAT not in tags:
                return False
            if after is None:
                raise RefusedError(
                    f"the file is cut short: directory {len(seen)} at byte {offset} of {length}"
                )
            seen.add(offset)
            offset = after
    return bool(seen)


def levels_of(tiff: Any) -> tuple[NdpiLevel, ...]:
    """The levels of an open `tifffile.TiffFile` that is NDPI, level 0 first.

    Raises:
        RefusedError: it holds a level that this reader does not read; says why.
    """
    levels: list[NdpiLevel] = []
    for number, page in enumerate(tiff.pages):
        lens = page.tags.valueof(_LENS)
        if lens is None:
            raise RefusedError(f"directory {number} has no lens power")
        if lens > 0 and page.tags.valueof(_FOCAL_PLANE, 0) == 0:
            level = _level(tiff.filehandle, page, len(levels))
            if levels and level.size.width >= levels[-1].size.width:
                raise RefusedError("its levels are not in order of size")
            levels.append(level)
    if not levels:
        raise RefusedError("it holds no level")
    return tuple(levels)


def resolution_of(page: Any) -> RawResolution:
    """Scale and objective power by the tags of the first directory."""
    um = _UNIT_UM.get(int(page.tags.valueof(_RESOLUTION_UNIT, _INCH)))

    def mpp(code: int) -> float | None:
        over, under = page.tags.valueof(code, (0, 0))
        return um / (over / under) if um and over and under else None

    lens = page.tags.valueof(_LENS)
    return RawResolution(
        mpp(_X_RESOLUTION),
        mpp(_Y_RESOLUTION),
        lens,
        looked_for=("TIFF tag XResolution", "hamamatsu.SourceLens"),
    )


def _level(file: Any, page: Any, number: int) -> NdpiLevel:
    tags = page.tags
    size = Size(int(tags.valueof(_WIDTH, 0)), int(tags.valueof(_HEIGHT, 0)))
    if tags.valueof(_COMPRESSION) != _JPEG:
        name = getattr(page.compression, "name", page.compression)
        raise RefusedError(f"level {number} has compression {name}")
    offset, length = _lone(tags.valueof(_OFFSET)), _lone(tags.valueof(_BYTES))
    if offset is None or length is None or tags.valueof(_ROWS_PER_STRIP) != size.height:
        raise RefusedError(f"level {number} is not one JPEG")
    if offset + length > file.size:
        raise RefusedError(
            f"the file is cut short: level {number} ends at byte {offset + length} of {file.size}"
        )
    file.seek(offset)
    try:
        frame = read_frame(file.read(min(length, _HEADER_BYTES)))
    except ValueError as err:
        raise RefusedError(f"level {number} is {err}") from err
    if not frame.interval_mcus:
        return _lone_level(size, frame, offset, length, number)
    said = (size.width, size.height)
    if max(said) <= _JPEG_MAX_PX and frame.size != said:
        raise RefusedError(
            f"level {number} is {said[0]} x {said[1]} px by its tags and "
            f"{frame.size[0]} x {frame.size[1]} px by its JPEG"
        )
    interval = frame.interval
    mcus_across = -(-size.width // frame.mcu.width)
    if mcus_across % frame.interval_mcus or interval.width > _JPEG_MAX_PX:
        raise RefusedError(f"level {number} has restart intervals that do not fit its width")
    rows = max(1, min(TILE_ROWS_PX, MAX_TILE_PX // interval.width) // interval.height)
    rows = min(rows, -(-size.height // interval.height))
    cols = mcus_across // frame.interval_mcus
    count = cols * -(-size.height // interval.height)
    starts = np.empty(count + 1, np.int64)
    if count > 1:
        starts[:-1] = offset + _starts(page, count, number)
    starts[0], starts[-1] = offset + frame.bytes_read, offset + length
    # A restart marker of two bytes ends every interval.
    lengths = np.diff(starts)
    if lengths.min() <= 2 or lengths.max() > _MAX_BYTES_PER_PX * interval.area + 1024:
        raise RefusedError(f"the restart markers of level {number} are not where they can be")
    tiling = tiling_of(size, Size(interval.width, interval.height * rows))
    return NdpiLevel(size, tiling, frame, starts, cols)


def _lone_level(size: Size, frame: JpegFrame, offset: int, length: int, number: int) -> NdpiLevel:
    if size.area > MAX_LONE_PX or frame.size != (size.width, size.height):
        raise RefusedError(
            f"level {number}, {size.width} x {size.height} px, is a JPEG without restart markers"
        )
    return NdpiLevel(size, Tiling(size, (1, 1)), frame, np.array([offset, offset + length]), 0)


def _starts(page: Any, count: int, number: int) -> NDArray[np.int64]:
    starts = np.atleast_1d(np.asarray(page.tags.valueof(_STARTS, ()), np.int64))
    high = page.tags.valueof(_STARTS_HIGH)
    if high is not None:
        starts = starts + (np.atleast_1d(np.asarray(high, np.int64)) << 32)
    if starts.size != count:
        raise RefusedError(
            f"level {number} tells the place of {starts.size} restart intervals of {count}"
        )
    return starts


def _lone(value: Any) -> int | None:
    """The value of a tag that must have just one."""
    if isinstance(value, int):
        return value
    return int(value[0]) if value is not None and len(value) == 1 else None


def _directory(file: BinaryIO, offset: int) -> tuple[set[int], int | None]:
    """Tags of the directory at `offset`, and where the next one is.

    None for the next where this one does not lie within the file, 0 where it is the last.
    """
    if offset > os.fstat(file.fileno()).st_size:
        return set(), None
    file.seek(offset)
    size = int.from_bytes(file.read(2), "little") * _ENTRY_BYTES
    data = file.read(size + 8)  # offsets have 8 bytes in NDPI
    tags = {int.from_bytes(data[at : at + 2], "little") for at in range(0, size, _ENTRY_BYTES)}
    return tags, int.from_bytes(data[size:], "little") if len(data) == size + 8 else None
