"""Reader `tiff`: tiled TIFF slides, each stored tile fetched and decoded straight to RGB.

Aperio SVS, generic tiled pyramids, OME-TIFF; JPEG, JPEG 2000 (Aperio), LZW, deflate, Zstandard,
WebP, PackBits, uncompressed; 8 bits a channel, RGB or YCbCr. Pixels are those of OpenSlide to the
byte wherever it shows a level as stored: at level 0, and at levels whose downsample is a whole
number of OpenSlide's own (at others it interpolates by a fraction of a pixel, and this reader
does not).

A JPEG tile that libjpeg complains about is an error, as it is to OpenSlide, and not made-up pixels.
What this reader leaves to others it refuses when the file is opened.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from wsiprep.core.errors import SlideKindError
from wsiprep.core.types import Size
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.readers._base import assemble, one_line
from wsiprep.slide.readers._jpeg import JpegCodec
from wsiprep.slide.readers._tiff_codec import PLAIN, Jpeg2000Codec, PlainCodec
from wsiprep.slide.readers._tiff_pages import Pages, pages_of
from wsiprep.slide.readers._tiled import (
    RefusedError,
    TileCodec,
    TiledBase,
    TileTable,
    opening,
    tiling_of,
)
from wsiprep.slide.truncation import is_tiff, tiff_cut_at

__all__ = ["EXTENSIONS", "TiffSlide", "create"]

EXTENSIONS = (".svs", ".tif", ".tiff", ".btf", ".tf8")

# Without a handler, Python prints a library's warnings about odd files to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_JPEG = 7
_APERIO_JP2K = {33003: True, 33005: False}  # whether YCbCr
_JP2K = 34712
_RGB, _YCBCR = 2, 6
_MAX_TILE_PX = 4096 * 4096
_LOOKED_AT = 8
"""Tiles of a level that are looked at before it is refused."""


class TiffSlide(TiledBase):
    """A tiled TIFF slide."""


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> TiffSlide:
    """Open a tiled TIFF slide.

    Raises:
        SlideKindError: not a TIFF.
        SlideOpenError: cut short, or a TIFF that is left to other readers; says why.
        ResolutionError: the scale is missing, implausible or not square.
        PluginUnavailableError: a library it needs does not import.
    """
    path = Path(uri)
    with opening(slide_id, "tiff"):
        if not _is_tiff(path):
            raise SlideKindError("not a TIFF file.", slide=slide_id, stage="slide")
        cut = tiff_cut_at(path)
        if cut is not None:
            raise RefusedError(f"the TIFF is cut short: {cut}")
        pages, tables = _read(uri)
    facts = Facts(
        sizes=[(page.imagewidth, page.imagelength) for page in pages.levels],
        raw=pages.raw,
        vendor=pages.vendor,
    )
    source = Source(slide_id, uri, "tiff", reason, fingerprint(uri))
    return assemble(
        lambda info, levels: TiffSlide(info, levels, (uri,), tables), None, source, facts, cfg
    )


def _is_tiff(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return is_tiff(file.read(4))


def _read(uri: str) -> tuple[Pages, tuple[TileTable, ...]]:
    import tifffile

    with tifffile.TiffFile(uri) as tiff:
        pages = pages_of(tiff)
        tables = tuple(_table(page, level) for level, page in enumerate(pages.levels))
        length = tiff.filehandle.size
        for level, (page, table) in enumerate(zip(pages.levels, tables, strict=True)):
            beyond = int(np.count_nonzero(table.offsets + table.counts > length))
            if beyond:
                raise RefusedError(
                    f"the TIFF is cut short: {beyond} of {table.counts.size} tiles of level "
                    f"{level} lie beyond its end"
                )
            if pages.vendor == "aperio" and len(tables) > 1 and not table.counts.all():
                # OpenSlide draws these parts, here and in all coarser levels, from finer ones.
                raise RefusedError(f"tiles of level {level} are missing")
            _check_some(tiff.filehandle, page, table)
    return pages, tables


def _table(page: Any, level: int) -> TileTable:
    kind = f"{page.samplesperpixel} channel(s) of {page.dtype}, {page.photometric.name}"
    kind += ", each a plane of its own" * (page.planarconfig == 2)
    if (
        page.samplesperpixel != 3
        or page.planarconfig != 1
        or page.dtype != np.uint8
        or page.imagedepth != 1
    ):
        raise RefusedError(f"not an RGB slide of 8 bits a channel: {kind}")
    tile = Size(page.tilewidth, page.tilelength)
    if tile.area > _MAX_TILE_PX:
        raise RefusedError(f"tiles of {tile.width} x {tile.height} px")
    tiling = tiling_of(Size(page.imagewidth, page.imagelength), tile)
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    count = tiling.shape[0] * tiling.shape[1]
    if offsets.size != count or counts.size != count:
        raise RefusedError(f"level {level} has {offsets.size} tiles where {count} are needed")
    return TileTable(tiling, offsets, np.where(offsets > 0, counts, 0), _codec(page, kind))


def _codec(page: Any, kind: str) -> TileCodec:
    photometric, compression = int(page.photometric), int(page.compression)
    if compression == _JPEG and photometric in (_RGB, _YCBCR):
        return JpegCodec(page.jpegtables or b"", photometric == _YCBCR)
    if compression in _APERIO_JP2K:
        return Jpeg2000Codec(_APERIO_JP2K[compression])
    name = getattr(page.compression, "name", page.compression)
    if photometric != _RGB:
        raise RefusedError(f"not an RGB slide: {kind}, compression {name}")
    if compression == _JP2K:
        return Jpeg2000Codec(ycbcr=False)
    if page.tags.valueof("Orientation", 1) != 1:
        raise RefusedError("turned or mirrored")
    if compression not in PLAIN or page.predictor not in (1, 2) or page.fillorder != 1:
        raise RefusedError(f"compression {name} with predictor {int(page.predictor)}")
    return PlainCodec(compression, page.predictor == 2)


def _check_some(file: Any, page: Any, table: TileTable) -> None:
    """Refuse a level of which no tile looked at is as the TIFF says.

    The first is looked at, and only where it is damaged others, spread over the level: one bad
    tile is an error where it is read, and no reason to leave the slide to slower readers.
    """
    there = np.flatnonzero(table.counts)
    looked_at = np.unique(np.linspace(0, there.size - 1, min(_LOOKED_AT, there.size)).astype(int))
    refused: RefusedError | None = None
    for tile in there[looked_at]:
        try:
            _check_tile(file, page, table, int(tile))
        except RefusedError as err:
            refused = refused or err
        else:
            return
    if refused is not None:
        raise refused


def _check_tile(file: Any, page: Any, table: TileTable, tile: int) -> None:
    """Refuse a tile that is not as the TIFF says: of a JPEG just the header is looked at."""
    file.seek(int(table.offsets[tile]))
    data = file.read(int(table.counts[tile]))
    if not isinstance(table.codec, JpegCodec):
        try:
            table.codec.decode(data, np.empty((page.tilelength, page.tilewidth, 3), np.uint8))
        except Exception as err:  # decoders raise whatever they like
            raise RefusedError(f"tiles that are not decoded here ({one_line(err)})") from err
        return
    try:
        size = table.codec.size(data)
    except ValueError as err:
        raise RefusedError(f"a JPEG that is not decoded here ({one_line(err)})") from err
    if size != (page.tilewidth, page.tilelength):
        raise RefusedError(f"JPEG tiles of {size[0]} x {size[1]} px, not as the TIFF says")
