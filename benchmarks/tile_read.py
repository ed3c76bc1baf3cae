"""How fast are 256 px patches read, and how much of the bare JPEG decoding speed is left?

A synthetic H&E slide in tiles of 256 px is written once; every case reads the same patches in the
same order from the page cache. `naive` is the loop that everyone writes first. `limit` hands the
compressed tiles to libjpeg-turbo and does nothing else: no reader of this file on one thread can
be much faster. The readers' pixels are compared first; equal means equal in every byte.

    python benchmarks/tile_read.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import tifffile
from harness import Case, Done, compare, options
from PIL import Image
from slides import part, tissue_grid, write_he

from wsiprep import open_slide
from wsiprep.core.contracts import Slide
from wsiprep.core.types import PatchGrid, Point
from wsiprep.slide import SlideConfig
from wsiprep.tiles import read_patch, stream_tiles

BATCH = 32


def naive(slide: Any, grid: PatchGrid, resample: int | None = None) -> Iterator[np.ndarray]:
    plan = grid.plan
    for x, y in grid.origin0_px:
        region = slide.read_region((int(x), int(y)), plan.level, (plan.read_px, plan.read_px))
        image = region.convert("RGB")
        if resample is not None:
            image = image.resize((plan.patch_px, plan.patch_px), resample)
        yield np.asarray(image)


def ours(slide: Slide, grid: PatchGrid) -> Iterator[np.ndarray]:
    for x, y in grid.origin0_px:
        yield read_patch(slide, Point(int(x), int(y)), grid.plan)


def streamed(path: Path, grid: PatchGrid, workers: int) -> Iterator[np.ndarray]:
    spans = [(i, min(i + BATCH, len(grid))) for i in range(0, len(grid), BATCH)]
    for batch in stream_tiles(lambda: open_slide(path), grid, spans, workers=workers):
        yield from batch.pixels


class RawTiles:
    """Compressed tiles of one level by their place, and the bare decoder."""

    def __init__(self, path: Path, level: int) -> None:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.series[0].levels[level].keyframe
            self.offsets, self.counts = page.dataoffsets, page.databytecounts
            self.tile_px, self.tables = page.tilewidth, page.jpegtables
            self.across = -(-page.imagewidth // page.tilewidth)
        self.file = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)

    def decode(self, grid: PatchGrid) -> Iterator[np.ndarray]:
        """The tiles under every patch, each decoded by itself."""
        step = self.tile_px
        for x, y in grid.origin0_px:  # level 0: a patch is a whole number of tiles
            for row in range(y // step, (y + grid.plan.read_px) // step):
                for col in range(x // step, (x + grid.plan.read_px) // step):
                    n = row * self.across + col
                    data = os.pread(self.file, self.counts[n], self.offsets[n])
                    yield imagecodecs.jpeg8_decode(
                        data, tables=self.tables, colorspace="YCBCR", outcolorspace="RGB"
                    )


def cases(path: Path, grid: PatchGrid) -> list[Case]:
    resized = grid.plan.read_px != grid.plan.patch_px

    def add(
        name: str, setup: Any, tiles: Callable[[Any], Iterator[np.ndarray]], **how: Any
    ) -> None:
        def drain(state: Any) -> Done:
            for _ in tiles(state):
                pass
            return Done(len(grid))

        made.append(Case(name, how, "patches", setup, drain))

    made: list[Case] = []
    plain = partial(openslide.OpenSlide, path)
    box, bicubic = (Image.Resampling.BOX, Image.Resampling.BICUBIC) if resized else (None, None)
    add("naive", plain, lambda s: naive(s, grid, box), **({"PIL": "box"} if resized else {}))
    if resized:
        add("naive bicubic", plain, lambda s: naive(s, grid, bicubic))
    for name in ("openslide", "tiffslide"):
        cfg = SlideConfig(reader=name)
        add(f"reader {name}", partial(open_slide, path, cfg), lambda s: ours(s, grid))
    for workers in (1, 2):
        add(
            f"stream_tiles, {workers} worker{'s' * (workers > 1)}",
            nullcontext,
            lambda _, workers=workers: streamed(path, grid, workers),
            batch=BATCH,
        )
    raw = partial(RawTiles, path, grid.plan.level)
    add("limit", lambda: closing(raw()), lambda r: r.decode(grid), imagecodecs="jpeg8_decode")
    return made


def check_equal(path: Path, grid: PatchGrid) -> None:
    """Refuse to compare readers that do not read the same."""
    grid = part(grid, slice(None, None, max(1, len(grid) // 50)))
    with (
        openslide.OpenSlide(path) as plain,
        open_slide(path, SlideConfig(reader="openslide")) as a,
        open_slide(path, SlideConfig(reader="tiffslide")) as b,
        closing(RawTiles(path, grid.plan.level)) as raw,
    ):
        box = Image.Resampling.BOX if grid.plan.read_px != grid.plan.patch_px else None
        want = np.stack(list(naive(plain, grid, box))).astype(np.int16)
        tolerance = 0 if box is None else 1  # the box mean is rounded differently by PIL and cv2
        same = [ours(a, grid), ours(b, grid), streamed(path, grid, 2)]
        if box is None:
            same.append(raw.decode(grid))
        for tiles in same:
            assert np.abs(np.stack(list(tiles)) - want).max() <= tolerance


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    size = (1024, 768) if opts.quick else (10240, 7680)
    with tempfile.TemporaryDirectory() as folder:
        path = write_he(Path(folder), *size)
        for title, mpp in (
            ("Reading 256 px patches at the resolution of the file", 0.5),
            ("Reading 512 px and halving them to 256 px patches", 1.0),
        ):
            grid = tissue_grid(path, mpp)
            check_equal(path, grid)
            compare(title, cases(path, grid), ("naive", "limit"), opts)


if __name__ == "__main__":
    main()
