"""TIFF slides with tiles as scanners write them, and their pixels compared with OpenSlide's."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.slide.made import aperio, smooth
from wsiprep.core.contracts import Slide
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide

MPP = 0.5


def opened(path: Path, reader: str = "tiff") -> Slide:
    return open_slide(path, SlideConfig(reader=reader))


def noise(height: int = 300, width: int = 330, seed: int = 0) -> NDArray[np.uint8]:
    """Detail at every scale: wrong colours, chroma or borders would show."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(-40, 41, (height, width, 3))
    return np.clip(smooth(height, width, seed).astype(int) + fine, 0, 255).astype(np.uint8)


def jpeg_tiff(
    path: Path,
    subsampling: str,
    *,
    space: str = "YCBCR",
    tables: bool = True,
    levels: int = 2,
    marker: bytes = b"",
) -> Path:
    """Tiles of abbreviated JPEG as scanners write them.

    `space` is what the channels are, `marker` a segment that comes first in the tables.
    """
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            image = noise()[:: 2**level, :: 2**level]
            h, w = image.shape[:2]
            tiles = []
            for y in range(0, h, 64):
                for x in range(0, w, 64):
                    tile = image[y : y + 64, x : x + 64]
                    fill = ((0, 64 - tile.shape[0]), (0, 64 - tile.shape[1]), (0, 0))
                    tiles.append(
                        imagecodecs.jpeg8_encode(
                            np.ascontiguousarray(np.pad(tile, fill, mode="edge")), level=80,
                            colorspace="RGB", outcolorspace=space, subsampling=subsampling,
                        )
                    )  # fmt: skip
            shared, tiles = abbreviate(tiles) if tables else (None, tiles)
            if shared and marker:
                shared = shared[:2] + marker + shared[2:]
            tiff.write(
                iter(tiles), shape=(h, w, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg",
                photometric="ycbcr",
                subsampling={"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling],
                jpegtables=shared, subfiletype=1 if level else 0, metadata=None,
                resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
            )  # fmt: skip
    if space == "RGB":  # tifffile always says YCbCr of JPEG
        with tifffile.TiffFile(path, mode="r+b") as written:
            for page in written.pages:
                page.tags["PhotometricInterpretation"].overwrite(2)
    return path


def abbreviate(tiles: list[bytes]) -> tuple[bytes, list[bytes]]:
    """JPEGTables and tiles without them, and without JFIF and Adobe markers."""
    tables, short = b"", []
    for tile in tiles:
        at, kept, found = 2, b"", b""
        while tile[at + 1] != 0xDA:
            marker, length = tile[at + 1], 2 + int.from_bytes(tile[at + 2 : at + 4], "big")
            if marker in (0xDB, 0xC4):
                found += tile[at : at + length]
            elif not 0xE0 <= marker <= 0xEF:
                kept += tile[at : at + length]
            at += length
        tables = found
        short.append(b"\xff\xd8" + kept + tile[at:])
    return b"\xff\xd8" + tables + b"\xff\xd9", short


def same_as_openslide(path: Path, levels: int | None = None) -> None:
    with opened(path) as ours, opened(path, "openslide") as theirs:
        a, b = ours.info, theirs.info
        for fact in ("size0", "mpp", "mpp_source", "objective", "vendor", "bounds0", "fingerprint",
                     "downsamples", "level_sizes", "notes"):  # fmt: skip
            assert getattr(a, fact) == getattr(b, fact), fact
        assert levels is None or len(a.level_sizes) == levels
        for level, size in enumerate(a.level_sizes):
            for origin, size_ in ((Point(0, 0), size), (Point(-8, 40), Size(333, 200))):
                one, two = (s.read(origin, level, size_) for s in (ours, theirs))
                assert np.array_equal(one, two), (level, np.abs(one.astype(int) - two).max())


def aperio_jp2k(path: Path, *, ycbcr: bool) -> Path:
    image = noise(256, 320)
    tiles = []
    for y in range(0, 256, 64):
        for x in range(0, 320, 64):
            tile = image[y : y + 64, x : x + 64]
            if ycbcr:
                tile = np.asarray(
                    imagecodecs.jpeg8_decode(
                        imagecodecs.jpeg8_encode(tile, level=95, subsampling="444"),
                        outcolorspace="YCBCR",
                    )
                )
            tiles.append(imagecodecs.jpeg2k_encode(tile, level=45, codecformat="j2k", mct=False))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(tiles), shape=image.shape, dtype=np.uint8, tile=(64, 64), metadata=None,
            compression="aperio_jp2000_ycbc" if ycbcr else "aperio_jp2000_rgb",
            photometric="ycbcr" if ycbcr else "rgb", subsampling=(1, 1) if ycbcr else None,
            description=aperio(320, 256, MPP=0.5, AppMag=20),
        )  # fmt: skip
    return path
