"""Reader `tiffslide`: tiled TIFF slides decoded by tifffile and imagecodecs.

What this reader adds to TiffSlide, which pads with black, gives zeros for a missing level and for
a missing tile, and decodes a cut JPEG tile to grey: white outside, an error for a missing level,
white for a tile that the file declares absent (zero bytes), and an error for a tile that is cut
short or lies beyond the end of the file. A JPEG tile whose bytes were altered in the middle may
still decode without complaint; the `openslide` reader is no different there.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import PluginUnavailableError, SlideOpenError, WsiprepError
from wsiprep.core.types import Box, SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.ome import ome_mpp
from wsiprep.slide.readers._base import WHITE, BaseSlide, assemble, one_line
from wsiprep.slide.resolution import RawResolution
from wsiprep.slide.truncation import tiff_cut_at

__all__ = ["EXTENSIONS", "TiffSlideSlide", "create"]

EXTENSIONS = (".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi")

# Without a handler, Python prints a library's warnings about odd files to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_catching = threading.Lock()
"""`catch_warnings` changes the whole process; two threads at once would leave it changed."""

_MPP_KEYS = ("tiffslide.mpp-x", "tiffslide.mpp-y", "OME PhysicalSizeX", "tiffslide.objective-power")
_JPEG = 7
_TAIL_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Where the tiles (or strips) of a level lie in the file."""

    width: int
    height: int
    columns: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    jpeg: bool

    def touched(self, box: Box) -> list[tuple[int, int, int]]:
        """(number, x, y) of the tiles that a box overlaps."""
        return [
            (row * self.columns + col, col * self.width, row * self.height)
            for row in range(box.y // self.height, (box.y + box.height - 1) // self.height + 1)
            for col in range(box.x // self.width, (box.x + box.width - 1) // self.width + 1)
        ]


@dataclass(frozen=True, slots=True)
class _Handle:
    """An open slide, the file it reads, and the tiles of each of its levels."""

    slide: Any
    file: BinaryIO
    tiles: tuple[_Tiles, ...]

    def close(self) -> None:
        self.slide.close()
        self.file.close()


class _RefusedError(Exception):
    """The file is not one that this reader reads right; the message says why."""


class TiffSlideSlide(BaseSlide):
    """A slide read by TiffSlide.

    Args:
        info: What is known of the slide.
        native_levels: TiffSlide's number of each level.
        file: Path of the file.
    """

    def __init__(self, info: SlideInfo, native_levels: tuple[int, ...], file: str) -> None:
        super().__init__(info, native_levels)
        self._file = file

    def _open_handle(self) -> _Handle:
        return _open(self._file)[0]

    def _close_handle(self, handle: _Handle) -> None:
        handle.close()

    def _read_box(self, handle: _Handle, level: int, box: Box) -> NDArray[np.uint8]:
        native = self._native_levels[level]
        scale = handle.slide.level_downsamples[native]
        absent = _check_tiles(handle, native, box)
        size = (box.width, box.height)
        origin0 = (_origin0(box.x, scale), _origin0(box.y, scale))
        region = np.ascontiguousarray(
            handle.slide.read_region(origin0, native, size, as_array=True, padding=False)
        )
        if region.shape != (box.height, box.width, 3) or region.dtype != np.uint8:
            raise _RefusedError(f"got {region.dtype} {region.shape} for {size}")
        tiles = handle.tiles[native]
        for x, y in absent:
            x0, y0 = max(0, x - box.x), max(0, y - box.y)
            region[y0 : y - box.y + tiles.height, x0 : x - box.x + tiles.width] = WHITE
        return region


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> TiffSlideSlide:
    """Open a tiled TIFF slide.

    Raises:
        SlideOpenError: not a TIFF, cut short, or with other pixels than 8-bit RGB; says which.
        ResolutionError: the scale is missing, implausible or not square.
        PluginUnavailableError: TiffSlide does not import.
    """
    if Path(uri).is_dir():
        raise SlideOpenError("a folder, not a TIFF file.", slide=slide_id, stage="slide")
    source = Source(slide_id, uri, "tiffslide", reason, fingerprint(uri))
    try:
        handle, notes = _open(uri)
    except WsiprepError:
        raise
    except _RefusedError as err:
        raise SlideOpenError(f"{err}.", slide=slide_id, stage="slide") from err
    except Exception as err:  # tifffile and TiffSlide raise whatever they like
        raise SlideOpenError(f"{one_line(err)}.", slide=slide_id, stage="slide") from err
    found = handle.slide.properties
    ome_x, ome_y = ome_mpp(found.get("tiff.ImageDescription"))
    raw = RawResolution(
        mpp_x=ome_x or found.get("tiffslide.mpp-x"),
        mpp_y=ome_y or found.get("tiffslide.mpp-y"),
        objective=found.get("tiffslide.objective-power"),
        looked_for=_MPP_KEYS,
    )
    facts = Facts(
        sizes=handle.slide.level_dimensions,
        raw=raw,
        vendor=found.get("tiffslide.vendor"),
        notes=notes,
    )
    return assemble(
        lambda info, levels: TiffSlideSlide(info, levels, uri), handle, source, facts, cfg
    )


def _open(uri: str) -> tuple[_Handle, tuple[str, ...]]:
    """A checked handle, and what TiffSlide warned of."""
    cut = tiff_cut_at(Path(uri))
    if cut is not None:
        raise _RefusedError(f"the TIFF is cut short: {cut}")
    library = _library()
    # Opened here, not by TiffSlide: it takes a path with "::" or "://" for a remote address.
    file = open(uri, "rb")  # noqa: SIM115 - closed by the handle
    slide = None
    try:
        with _catching, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            slide = library.TiffSlide(file)
            found = slide.properties
        tiles = _checked_levels(slide, found, os.fstat(file.fileno()).st_size)
    except BaseException:
        if slide is not None:
            slide.close()
        file.close()
        raise
    notes = tuple(f"TiffSlide: {one_line(w.message)}." for w in caught if _tells(w))
    return _Handle(slide, file, tiles), notes


def _tells(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is about the slide, not about the libraries themselves."""
    return issubclass(warning.category, UserWarning) and "tiffslide" in warning.filename


def _checked_levels(slide: Any, found: dict[str, Any], length: int) -> tuple[_Tiles, ...]:
    """Tiles of every level of a slide that is read right."""
    if slide.ts_tifffile.is_bif:
        raise _RefusedError("a Ventana slide, whose tiles overlap in a way this reader ignores")
    if "tiffslide.series-composition" in found:
        raise _RefusedError("a slide of several scanned regions, which this reader cannot place")
    series = slide.ts_tifffile.series[found["tiffslide.series-index"]]
    levels = []
    for level, pages in enumerate(series.levels):
        page = pages[0]
        kind = f"{page.samplesperpixel} channel(s) of {page.dtype}, {page.photometric.name}"
        if found["tiffslide.series-axes"] != "YXS" or page.samplesperpixel != 3:
            raise _RefusedError(f"not an RGB slide: {kind}, axes {series.axes}")
        if page.dtype != np.uint8 or page.photometric.name not in ("RGB", "YCBCR"):
            raise _RefusedError(f"not an RGB slide of 8 bits a channel: {kind}")
        _check_compression(page)
        tiles = _tiles(page)
        beyond = int(np.count_nonzero(tiles.offsets + tiles.counts > length))
        if beyond:
            raise _RefusedError(
                f"the TIFF is cut short: {beyond} of {tiles.counts.size} tiles of level {level} "
                "lie beyond its end"
            )
        levels.append(tiles)
    return tuple(levels)


def _check_compression(page: Any) -> None:
    import tifffile

    try:
        tifffile.COMPRESSION(page.compression)
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except (ValueError, KeyError, ImportError) as err:
        raise _RefusedError(f"compression {page.compression} has no decoder") from err


def _tiles(page: Any) -> _Tiles:
    width = page.tilewidth if page.is_tiled else page.imagewidth
    height = page.tilelength if page.is_tiled else page.rowsperstrip
    columns = -(-page.imagewidth // width)
    count = columns * -(-page.imagelength // height)
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    if offsets.size != count or counts.size != count:
        raise _RefusedError(f"{offsets.size} tiles where {count} are needed")
    # NDPI keeps one JPEG for the whole level; its parts do not end with an end marker.
    jpeg = page.compression == _JPEG and page.jpegheader is None
    return _Tiles(width, height, columns, offsets, counts, jpeg)


def _check_tiles(handle: _Handle, level: int, box: Box) -> list[tuple[int, int]]:
    """Corners of absent tiles in a box.

    Raises:
        _RefusedError: a JPEG tile there lacks its end marker.
    """
    tiles = handle.tiles[level]
    absent = []
    for number, x, y in tiles.touched(box):
        offset, count = int(tiles.offsets[number]), int(tiles.counts[number])
        if count == 0:
            absent.append((x, y))
        elif tiles.jpeg:
            tail = min(_TAIL_BYTES, count)
            handle.file.seek(offset + count - tail)
            if b"\xff\xd9" not in handle.file.read(tail):
                raise _RefusedError(f"JPEG tile at ({x}, {y}) of level {level} is cut short")
    return absent


def _origin0(x: int, scale: float) -> int:
    """The level-0 coordinate that TiffSlide truncates to level pixel `x`."""
    origin0 = int(x * scale)
    while int(origin0 / scale) < x:
        origin0 += 1
    return origin0


def _library() -> Any:
    try:
        import tiffslide
    except ImportError as err:
        raise PluginUnavailableError(
            f"TiffSlide does not import: {one_line(err)}.",
            hint="Install it with `pip install tiffslide`.",
        ) from err
    return tiffslide
