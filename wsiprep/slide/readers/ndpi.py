"""Reader `ndpi`: Hamamatsu NDPI, restart intervals fetched and decoded straight to RGB.

Each level of an NDPI file is one JPEG whose restart intervals can be decoded by themselves. A tile
of this reader is a column of them, some 256 rows high; see `_jpeg_intervals.py`. Pixels are those
of OpenSlide to the byte, at level 0 and at levels whose downsample is whole.

Two differences from OpenSlide. It lists levels between the stored ones and below the last, made by
scaling within the JPEG decoder; here the levels are those that are stored, and what lies between
is averaged over areas by whoever needs it. And it leaves out a last row of intervals (or mixes up
the picture for a last column) that is only partly inside the level; here these are read.

Stricter than OpenSlide with damaged files: JPEG data that libjpeg complains about are an error.
Levels without a list of restart intervals, JPEG XR, 16-bit fluorescence are left to others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wsiprep.core.errors import SlideKindError
from wsiprep.core.types import SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.readers._base import assemble
from wsiprep.slide.readers._jpeg import JpegCodec
from wsiprep.slide.readers._jpeg_intervals import EOI, IntervalCodec
from wsiprep.slide.readers._ndpi_levels import NdpiLevel, is_ndpi, levels_of, resolution_of
from wsiprep.slide.readers._tiled import RefusedError, TiledBase, TileTable, opening
from wsiprep.slide.resolution import RawResolution

__all__ = ["EXTENSIONS", "NdpiSlide", "create"]

EXTENSIONS = (".ndpi",)

# Without a handler, Python prints a library's warnings about odd files to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class NdpiSlide(TiledBase):
    """An NDPI slide.

    Args:
        info: What is known of the slide.
        native_levels: For each level of `info`, the index into `levels`.
        path: The file.
        levels: Levels as they are stored.
    """

    def __init__(
        self,
        info: SlideInfo,
        native_levels: tuple[int, ...],
        path: str,
        levels: Sequence[NdpiLevel],
    ) -> None:
        super().__init__(info, native_levels, (path,), [_table(level) for level in levels])
        self._levels = tuple(levels)

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """A JPEG of a column of intervals; see `core.contracts.TiledSlide.fetch_tile`.

        Where the level ends within the tile, its last interval is repeated to fill it.
        """
        self._check_level(level)
        stored = self._levels[self._native_levels[level]]
        if not stored.cols:
            return super().fetch_tile(level, tile)
        self._check_open()
        segments = []
        for data, last in self._intervals(level, tile, stored):
            stop = data.rfind(EOI) if last else len(data) - 2
            if stop < 0 or (not last and not _ends_in_restart_marker(data)):
                marker = "end marker" if last else "restart marker"
                raise self._tile_error(level, tile, f"has no {marker} where one must be")
            segments.append(data[:stop])
        rows = stored.tiling.tile.height // stored.frame.interval.height
        segments += segments[-1:] * (rows - len(segments))
        return stored.frame.stack(segments)

    def _intervals(self, level: int, tile: int, stored: NdpiLevel) -> Iterator[tuple[bytes, bool]]:
        """Bytes of each interval of a tile, and whether it is the last of the level."""
        numbers, starts = stored.intervals(tile), stored.starts
        begins = starts[numbers.start : numbers.stop : numbers.step].tolist()
        ends = starts[numbers.start + 1 : numbers.stop + 1 : numbers.step].tolist()
        last = int(starts[-1])
        if stored.cols == 1:  # neighbours in the file too
            first = begins[0]
            data = self._bytes_at(level, tile, first, ends[-1] - first)
            for begin, end in zip(begins, ends, strict=True):
                yield data[begin - first : end - first], end == last
            return
        for begin, end in zip(begins, ends, strict=True):
            yield self._bytes_at(level, tile, begin, end - begin), end == last


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> NdpiSlide:
    """Open an NDPI file.

    Raises:
        SlideKindError: not an NDPI file.
        SlideOpenError: cut short, or an NDPI file that is left to others; says why.
        ResolutionError: the scale is missing, implausible or not square.
        PluginUnavailableError: a library it needs does not import.
    """
    path = Path(uri)
    with opening(slide_id, "ndpi"):
        if path.is_dir() or not is_ndpi(path):
            raise SlideKindError("not an NDPI file.", slide=slide_id, stage="slide")
        levels, raw = _read(path)
    facts = Facts(
        sizes=[(level.size.width, level.size.height) for level in levels],
        raw=raw,
        vendor="hamamatsu",
    )
    source = Source(slide_id, uri, "ndpi", reason, fingerprint(uri))
    return assemble(
        lambda info, native: NdpiSlide(info, native, uri, levels), None, source, facts, cfg
    )


def _read(path: Path) -> tuple[tuple[NdpiLevel, ...], RawResolution]:
    import tifffile

    with tifffile.TiffFile(path, is_ndpi=True) as tiff:
        first = tiff.pages.first
        if first.samplesperpixel != 3 or first.dtype != np.uint8:
            raise RefusedError(f"{first.samplesperpixel} channel(s) of {first.dtype}")
        return levels_of(tiff), resolution_of(first)


def _table(level: NdpiLevel) -> TileTable:
    if not level.cols:
        offsets, counts = level.starts[:1], np.diff(level.starts)
        return TileTable(level.tiling, offsets, counts, JpegCodec(b"", level.frame.ycbcr))
    tiles = range(level.tiling.shape[0] * level.tiling.shape[1])
    numbers = np.array([level.intervals(tile)[0] for tile in tiles])
    lengths = np.diff(level.starts)
    counts = np.array([lengths[level.intervals(tile)].sum() for tile in tiles])
    return TileTable(level.tiling, level.starts[numbers], counts, IntervalCodec(level.frame))


def _ends_in_restart_marker(data: bytes) -> bool:
    return data[-2] == 0xFF and 0xD0 <= data[-1] <= 0xD7
