"""Writing a tiled pyramid TIFF that OpenSlide opens, with memory flat in the height of the slide.

Two dialects. `aperio` is the layout of an SVS file: level 0, a thumbnail in strips, then the other
levels, with mpp and objective power in the description; OpenSlide and TiffSlide take both from
there. `plain` is a TIFF of reduced-resolution pages, with mpp in the resolution tags only.

Sources:
    TIFF 6.0 (Adobe, 1992) and TIFF Technical Note 2 (JPEG).
    OpenSlide, Aperio format and generic tiled TIFF format, openslide.org/formats.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsiprep.core.errors import OutputError
from wsiprep.core.types import Box, Size
from wsiprep.synth.encode import Codec, Compression, codec
from wsiprep.synth.levels import Level, auto_downsamples, check_downsamples, reduce_by

if TYPE_CHECKING:
    from wsiprep.synth.he import SyntheticSlide

__all__ = ["Dialect", "write_pyramid", "write_slide"]

Dialect = Literal["aperio", "plain"]
Render = Callable[[Box], NDArray[np.uint8]]

_SQUARE_PX = 1024
_THUMBNAIL_PX = 1024
_SOFTWARE = "wsiprep"


def write_slide(path: Path, slide: SyntheticSlide) -> None:
    """Write a synthetic slide as a JPEG pyramid in the Aperio dialect.

    Args:
        path: File to write, `.svs` or `.tiff`; replaced if it is there.
        slide: What to write. The same slide gives the same bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    write_pyramid(path, slide.size, slide.mpp, slide.render)


def write_pyramid(
    path: Path,
    size: Size,
    mpp: float | None,
    render: Render,
    *,
    tile_px: int = 256,
    quality: int = 85,
    objective: float | None = 20,
    downsamples: Sequence[int] | None = None,
    compression: Compression = "jpeg",
    dialect: Dialect = "aperio",
) -> None:
    """Write any picture as a pyramid; the file appears under its name when it is complete.

    Level 0 is asked for once, in squares of at most some 1024 px, row by row. A lower level is the
    area average of the one above; what is left over at the right and lower border of a level
    whose size is not a multiple is dropped, as scanners do.

    Args:
        path: File to write; replaced if it is there.
        size: Level-0 size.
        mpp: µm per level-0 pixel; None leaves it unsaid.
        render: Gives level-0 pixels, uint8 (height, width, 3), of a box inside the slide.
        tile_px: Side of a tile, a multiple of 16.
        quality: JPEG quality, 1 to 100.
        objective: Objective power, said in the `aperio` dialect only; None leaves it unsaid.
        downsamples: Level-0 pixels per pixel of each level, from 1, each a multiple of the one
            before; None takes 1, 4, 16 ... until the longest side is at most four tiles.
        compression: `jpeg` (4:2:0), `jpeg2000` (Aperio's, `aperio` dialect only) or `deflate`.
        dialect: Layout of the file.

    Raises:
        OutputError: the file cannot be written.
        ValueError: downsamples, tile size or compression make no pyramid.
    """
    if tile_px <= 0 or tile_px % 16:
        raise ValueError(f"TIFF tiles have sides that are multiples of 16, not {tile_px}")
    if compression == "jpeg2000" and dialect != "aperio":
        raise ValueError("jpeg2000 is Aperio's: only the aperio dialect has it")
    steps = auto_downsamples(size, 4 * tile_px) if downsamples is None else tuple(downsamples)
    check_downsamples(steps, size)
    pyramid = _Pyramid(size, steps, render, tile_px, codec(compression, quality))
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            _write_file(temporary, pyramid, spool, mpp, objective, quality, dialect)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as err:
        raise OutputError(
            f"cannot write {path}: {err.strerror or err}.",
            hint="Check that the folder exists, its permissions and its free space.",
        ) from err
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _write_file(
    temporary: Path,
    pyramid: _Pyramid,
    spool: IO[bytes],
    mpp: float | None,
    objective: float | None,
    quality: int,
    dialect: Dialect,
) -> None:
    head = pyramid.levels[0]
    # Compressed tiles of lower levels wait in the spool until level 0 is complete.
    big = pyramid.raw_bytes * pyramid.codec.expected_ratio > 3.5e9
    with tifffile.TiffWriter(temporary, bigtiff=big, byteorder="<") as tiff:
        for index, level in enumerate(pyramid.levels):
            tiles = pyramid.level0(spool) if index == 0 else level.encoded(spool)
            said = _description(dialect, head, level, pyramid, mpp, objective, quality)
            tiff.write(
                tiles,
                shape=(level.size.height, level.size.width, 3),
                tile=(pyramid.tile_px, pyramid.tile_px),
                subfiletype=1 if index and dialect == "plain" else 0,
                description=said,
                **pyramid.codec.tags,
                **_common_tags(None if mpp is None else mpp * level.downsample),
            )
            if index == 0 and dialect == "aperio":
                picture = pyramid.thumbnail.pixels
                jpeg = codec("jpeg", quality)
                h, w = picture.shape[:2]
                tiff.write(
                    iter([bytes(jpeg.encode(picture))]),
                    shape=picture.shape,
                    rowsperstrip=h,
                    description=(f"{_title(head)} -> {w}x{h} thumbnail|{_facts(mpp, objective)}"),
                    **jpeg.tags,
                    **_common_tags(None),
                )


def _common_tags(mpp: float | None) -> dict[str, Any]:
    tags: dict[str, Any] = {"dtype": np.uint8, "metadata": None, "software": _SOFTWARE}
    if mpp is not None:
        tags |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    return tags


def _title(head: Level) -> str:
    # Readers know the dialect by the first word.
    return f"Aperio dialect, written by wsiprep\r\n{head.size.width}x{head.size.height}"


def _facts(mpp: float | None, objective: float | None) -> str:
    facts = [] if objective is None else [f"AppMag = {objective:g}"]
    return "|".join(facts + ([] if mpp is None else [f"MPP = {mpp:.6g}"]))


def _description(
    dialect: Dialect,
    head: Level,
    level: Level,
    pyramid: _Pyramid,
    mpp: float | None,
    objective: float | None,
    quality: int,
) -> str | None:
    if dialect == "plain":
        return None
    to = f" -> {level.size.width}x{level.size.height}" if level is not head else ""
    tile = pyramid.tile_px
    said = f"{_title(head)} ({tile}x{tile}){to} {pyramid.codec.label}/RGB Q={quality}"
    facts = _facts(mpp, objective)
    return f"{said}|{facts}" if facts else said


class _Pyramid:
    """All levels of a file while level 0 streams through."""

    def __init__(
        self, size: Size, downsamples: tuple[int, ...], render: Render, tile_px: int, codec: Codec
    ) -> None:
        self.size, self.tile_px, self.codec, self._render = size, tile_px, codec, render
        shrink = 1
        while max(size.width, size.height) // (downsamples[-1] * shrink) > _THUMBNAIL_PX:
            shrink *= 2
        shrink = min(shrink, max(1, min(size.width, size.height) // downsamples[-1]))
        unit = math.lcm(tile_px, downsamples[-1] * shrink)
        self._square = unit * max(1, _SQUARE_PX // unit)
        self.levels = [
            # Whole squares and whole tiles: a band is compressed when it is full.
            Level(size, d, tile_px, math.lcm(tile_px, self._square // d))
            for d in downsamples
        ]
        whole = size.height // (downsamples[-1] * shrink)
        self.thumbnail = Level(size, downsamples[-1] * shrink, tile_px, whole)

    @property
    def raw_bytes(self) -> int:
        return sum(level.size.area * 3 for level in self.levels)

    def level0(self, spool: IO[bytes]) -> Iterator[bytes]:
        """Compressed tiles of level 0 in order; the other levels fill up as they are taken."""
        w, h = self.size.width, self.size.height
        for y in range(0, h, self._square):
            for x in range(0, w, self._square):
                box = Box(x, y, min(self._square, w - x), min(self._square, h - y))
                pixels = self._render(box)
                if pixels.shape != (box.height, box.width, 3) or pixels.dtype != np.uint8:
                    raise ValueError(f"render gave {pixels.dtype} {pixels.shape} for {box}")
                done = 1
                for level in (*self.levels, self.thumbnail):
                    pixels = reduce_by(pixels, level.downsample // done)
                    done = level.downsample
                    level.put(pixels, x // done, y // done)
            last = y + self._square >= h
            for level in self.levels[1:]:
                level.flush(self.codec, spool, last=last)
            yield from self.levels[0].tiles(self.codec)
