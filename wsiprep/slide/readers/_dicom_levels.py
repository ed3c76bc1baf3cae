"""From the instances of a DICOM whole-slide series to levels of tiles.

As OpenSlide, levels are the instances whose image type is a volume, original, re-encoded or
resampled; label, overview and thumbnail are left out. Instances of one size are parts of one
level (a concatenation) and must say so.

Source: DICOM PS3.3 C.8.12.4 (whole slide microscopy image) and C.7.6.17.3 (order of the frames of
TILED_FULL); PS3.5 8.2 (photometric interpretation of compressed pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.slide.dicom_colour import jpeg_is_ycbcr
from wsiprep.slide.dicom_frames import DicomImageError, defragment
from wsiprep.slide.dicom_image import DicomImage, read_image
from wsiprep.slide.readers._base import one_line
from wsiprep.slide.readers._jpeg import JpegCodec
from wsiprep.slide.readers._tiff_codec import NONE, Jpeg2000Codec, PlainCodec
from wsiprep.slide.readers._tiled import RefusedError, TileCodec, TileTable, tiling_of
from wsiprep.slide.resolution import RawResolution

__all__ = ["DicomLevel", "levels_of", "resolution_of"]

_VOLUMES = frozenset({
    ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    ("DERIVED", "PRIMARY", "VOLUME", "NONE"),
    ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"),
})  # fmt: skip
_PLAIN, _JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
_JPEG2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
_JPEG_COLOURS = {"RGB", "YBR_FULL_422", "YBR_FULL"}
_JPEG2000_COLOURS = {"RGB", "YBR_ICT", "YBR_RCT"}
_MAX_TILE_PX = 4096 * 4096
_MAX_TILES = 1 << 24
_MAX_BYTES_PER_PX = 24  # JPEG's worst case is some 20


@dataclass(frozen=True, slots=True, eq=False)
class DicomLevel:
    """A level as it is stored.

    Attributes:
        size: In pixels.
        parts: Its instances.
        table: Where its tiles are, `file` being a number in `parts`.
        mislabelled: Whether the files say RGB and hold YCbCr.
    """

    size: Size
    parts: tuple[DicomImage, ...]
    table: TileTable
    mislabelled: bool


def levels_of(files: Sequence[Path]) -> tuple[DicomLevel, ...]:
    """The levels that the instances of a series make, level 0 first.

    Raises:
        RefusedError: they hold none, or one that this reader does not read; says why.
        OSError: a file cannot be read.
    """
    by_size: dict[tuple[int, int], list[DicomImage]] = {}
    for path in files:
        try:
            image = read_image(path, _VOLUMES)
        except DicomImageError as err:
            raise RefusedError(f"{path.name}: {err}") from err
        if image is not None:
            by_size.setdefault((image.width, image.height), []).append(image)
    if not by_size:
        raise RefusedError("no instance of the series is a level")
    levels = []
    for parts in by_size.values():
        try:
            levels.append(_level(parts))
        except RefusedError as err:
            raise RefusedError(f"{parts[0].path.name}: {err}") from err
    return tuple(sorted(levels, key=lambda level: -level.size.width))


def resolution_of(level0: DicomLevel) -> RawResolution:
    """Scale and objective power as the first instance of level 0 says."""
    image = level0.parts[0]
    down, across = (*image.spacing_mm, None, None)[:2]
    return RawResolution(
        _times_1000(across),
        _times_1000(down),
        image.objective,
        looked_for=("DICOM PixelSpacing", "DICOM ObjectiveLensPower"),
    )


def _level(parts: list[DicomImage]) -> DicomLevel:
    first = parts[0]
    for part in parts:
        if part.instance != first.instance:
            raise RefusedError(f"{part.path.name} has its size and is no part of it")
        same = (part.columns, part.rows, part.syntax, part.photometric)
        if same != (first.columns, first.rows, first.syntax, first.photometric):
            raise RefusedError(f"{part.path.name} is a part of it and encoded in another way")
        if not part.plain or part.focal_planes != 1:
            raise RefusedError("not one plane of three channels of 8 bits")
    if first.width <= 0 or first.height <= 0:
        raise RefusedError("it has no pixels")
    size, tile = Size(first.width, first.height), Size(first.columns, first.rows)
    tiling = tiling_of(size, tile)
    count = tiling.shape[0] * tiling.shape[1]
    if tile.area > _MAX_TILE_PX or count > _MAX_TILES:
        raise RefusedError(f"{count} frames of {tile.width} x {tile.height} px")
    offsets, counts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    file = np.zeros(count, np.int32)
    for number, part in enumerate(parts):
        tiles = _tiles(part, tiling.shape[1], count)
        new = counts[tiles] == 0
        offsets[tiles[new]], counts[tiles[new]] = part.offsets[new], part.counts[new]
        file[tiles[new]] = number
    if first.positions is None and not counts.all():
        raise RefusedError(f"{np.count_nonzero(counts == 0)} of {count} frames are missing")
    if counts.max() > _MAX_BYTES_PER_PX * tile.area + (1 << 16):
        raise RefusedError("frames longer than they can be")
    codec, mislabelled = _codec(first)
    return DicomLevel(
        size, tuple(parts), TileTable(tiling, offsets, counts, codec, file), mislabelled
    )


def _tiles(part: DicomImage, cols: int, count: int) -> NDArray[np.int64]:
    """The tile that each frame of an instance is."""
    if part.positions is None:
        tiles = part.first_frame + np.arange(part.offsets.size, dtype=np.int64)
    else:
        corner = part.positions - 1
        grid = corner // (part.columns, part.rows)
        if (corner != grid * (part.columns, part.rows)).any() or (grid[:, 0] >= cols).any():
            raise RefusedError("frames that are not on a grid")
        tiles = grid[:, 1] * cols + grid[:, 0]
    if tiles.min() < 0 or tiles.max() >= count or np.unique(tiles).size < tiles.size:
        raise RefusedError(f"{tiles.size} frames do not lie on the {count} tiles of the level")
    return tiles


def _codec(image: DicomImage) -> tuple[TileCodec, bool]:
    """The codec of a level, and whether its files say RGB and hold YCbCr."""
    syntax, colours = image.syntax, image.photometric
    if syntax == _PLAIN and colours == "RGB":
        return PlainCodec(NONE), False
    jpeg2000 = syntax in _JPEG2000 and colours in _JPEG2000_COLOURS
    if not jpeg2000 and (syntax != _JPEG or colours not in _JPEG_COLOURS):
        raise RefusedError(f"transfer syntax {syntax} with {colours or 'unknown colours'}")
    with image.path.open("rb") as file:
        file.seek(int(image.offsets[0]))
        span = file.read(int(image.counts[0]))
    if jpeg2000:
        # The decoder undoes the colour transform that YBR_ICT and YBR_RCT speak of.
        codec = Jpeg2000Codec(ycbcr=False)
        try:
            codec.decode(defragment(span), np.empty((image.rows, image.columns, 3), np.uint8))
        except Exception as err:  # decoders raise whatever they like
            raise RefusedError(f"frames that are not decoded here ({one_line(err)})") from err
        return codec, False
    try:
        data = defragment(span)
        size = JpegCodec(b"", ycbcr=True).size(data)
    except ValueError as err:
        raise RefusedError(f"a JPEG that is not decoded here ({one_line(err)})") from err
    if size != (image.columns, image.rows):
        raise RefusedError(f"JPEG frames of {size[0]} x {size[1]} px, not as the header says")
    mislabelled = colours == "RGB" and jpeg_is_ycbcr(data)
    return JpegCodec(b"", colours != "RGB" or mislabelled), mislabelled


def _times_1000(value: str | None) -> float | None:
    try:
        return None if value is None else float(value) * 1000.0
    except ValueError:
        return None
