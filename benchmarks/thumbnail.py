"""What does a thumbnail of a 100,000 px slide cost, and what does shrinking in the decoder save?

pyramid       100,000 x 100,000 px at 0.25 µm/px with levels at 4 and 16, thumbnail at 8 µm/px: our
              reader of stored tiles against our reader by OpenSlide
single level  a slide that has only level 0, so that all of it is decoded: the same two, and our
              reader with a thumbnail just too fine for tiles decoded at an eighth of their side

Level 0 of the pyramid is one tile of glass over and over; no thumbnail looks at it.

    python benchmarks/thumbnail.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from harness import Case, Done, compare, options
from numpy.typing import NDArray
from slides import mirrored

from wsiprep import open_slide
from wsiprep.core.contracts import Slide
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig

MPP = 8.0
TILE = Size(256, 256)


def tiles_of(picture: NDArray[np.uint8]) -> Iterator[bytes]:
    """JPEG tiles of a picture whose sides are multiples of a tile's, round and round."""
    encode = partial(
        imagecodecs.jpeg8_encode, level=85, colorspace="RGB", outcolorspace="YCBCR",
        subsampling="420",
    )  # fmt: skip
    w, h = TILE.width, TILE.height
    made = [
        bytes(encode(np.ascontiguousarray(picture[y : y + h, x : x + w])))
        for y in range(0, picture.shape[0], h)
        for x in range(0, picture.shape[1], w)
    ]
    while True:
        yield from made


def pyramid(folder: Path, side: int, lower: NDArray[np.uint8]) -> Path:
    """A slide of `side` x `side` px at 0.25 µm/px whose lower levels are a picture's tiles."""
    path = folder / f"pyramid_{side}.tif"
    glass = imagecodecs.jpeg8_encode(
        np.full((256, 256, 3), 240, np.uint8), level=85, outcolorspace="YCBCR", subsampling="420"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for downsample in (1, 4, 16):
            px = side // downsample
            count = (-(-px // 256)) ** 2
            tiles = repeat(bytes(glass)) if downsample == 1 else tiles_of(lower)
            tiff.write(
                (next(tiles) for _ in range(count)), shape=(px, px, 3), dtype=np.uint8,
                tile=(256, 256), compression="jpeg", photometric="ycbcr", subsampling=(2, 2),
                subfiletype=int(downsample > 1), metadata=None, resolutionunit="CENTIMETER",
                resolution=(4e4 / downsample, 4e4 / downsample),
            )  # fmt: skip
    return path


def thumbnail(slide: Slide, mpp: float) -> Done:
    slide.thumbnail(mpp)
    return Done(1)


def cases(path: Path, mpps: dict[str, float]) -> list[Case]:
    return [
        Case(
            f"{reader}{note}",
            {},
            "thumbnails",
            partial(open_slide, path, SlideConfig(reader=reader)),
            partial(thumbnail, mpp=mpp),
        )
        for reader in ("openslide", "tiff")
        for note, mpp in mpps.items()
        if not note or reader == "tiff"
    ]


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    side, single = (4096, (2048, 1024)) if opts.quick else (100_000, (20480, 15360))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, pixels = mirrored(folder, 2048, 2048)
        with open_slide(path) as source:
            large = pyramid(folder, side, source.read(Point(0, 0), 0, source.info.size0))
        compare(
            f"Thumbnail at 8 µm/px of a pyramid of {side:,} x {side:,} px ({pixels})",
            cases(large, {"": MPP}),
            ("openslide",),
            opts,
        )
        flat, _ = mirrored(folder, *single, downsamples=(1,))
        width, height = single
        compare(
            f"Thumbnail at 8 µm/px of a single level of {width:,} x {height:,} px ({pixels})",
            cases(flat, {"": MPP, ", at 7.9 µm/px": 7.9}),
            ("openslide",),
            opts,
        )


if __name__ == "__main__":
    main()
