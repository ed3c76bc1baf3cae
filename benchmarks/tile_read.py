"""How fast are patches read, against OpenSlide and against the bare JPEG decoder?

One slide, five grids of 256 px patches (224 px in one): on the file's own tiles, off them by
100 px, of another size, overlapping by half, and halved from 512 px. In each:

OpenSlide    read_region + convert("RGB") (+ Pillow's box filter), as most tools do it, one by one
one by one   the same through our readers: `read_patch` with reader tiff, tiffslide
stream_tiles what `wsiprep embed` does: every stored tile decoded once, patches cut from it; by the
             thread that takes the batches (workers 0), by a thread beside it, and by two
scaled       patches halved inside the decoder, and how far their pixels are off
limit        the bare decoder: the tiles under the patches, each decoded once from memory to a
             buffer and forgotten, by simplejpeg (libjpeg-turbo) and by imagecodecs; and by
             simplejpeg into three batches in turn, as who hands out batches must

All are kept to a single core, threads and all, but for the row of two threads. Pixels are compared
first. OpenSlide and `one by one` read a run of patches from the middle.

    python benchmarks/tile_read.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import simplejpeg
import tifffile
from harness import Case, Done, compare, on_one_core, options
from PIL import Image
from slides import full_grid, mirrored, part

from wsiprep import open_slide
from wsiprep.core.contracts import Slide
from wsiprep.core.tile_memory import tile_memory
from wsiprep.core.types import PatchGrid, Point
from wsiprep.slide import SlideConfig
from wsiprep.tiles import read_patch, stream_tiles

BATCH = 32
SLOW_PATCHES = 400
"""Patches that are enough to time a reader that takes a millisecond for each."""


def naive(slide: Any, grid: PatchGrid) -> Iterator[np.ndarray]:
    plan = grid.plan
    for x, y in grid.origin0_px:
        region = slide.read_region((int(x), int(y)), plan.level, (plan.read_px, plan.read_px))
        image = region.convert("RGB")
        if plan.read_px != plan.patch_px:
            image = image.resize((plan.patch_px, plan.patch_px), Image.Resampling.BOX)
        yield np.asarray(image)


def one_by_one(slide: Slide, grid: PatchGrid) -> Iterator[np.ndarray]:
    for x, y in grid.origin0_px:
        yield read_patch(slide, Point(int(x), int(y)), grid.plan)


def streamed(
    slide: Slide, grid: PatchGrid, workers: int, *, scaled: bool = False
) -> Iterator[np.ndarray]:
    spans = [(i, min(i + BATCH, len(grid))) for i in range(0, len(grid), BATCH)]
    for batch in stream_tiles(slide.reopen, grid, spans, workers=workers, scaled=scaled):
        yield from batch.pixels


class StoredTiles:
    """Compressed tiles of level 0 under a grid, in memory, each once."""

    def __init__(self, path: Path, grid: PatchGrid) -> None:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.series[0].levels[0].keyframe
            side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
            offsets, counts = page.dataoffsets, page.databytecounts
        assert page.jpegtables is None  # the file's tiles stand by themselves
        first = grid.origin0_px // side
        last = (grid.origin0_px + grid.plan.read_px - 1) // side
        touched = {
            int(y * across + x)
            for (x0, y0), (x1, y1) in zip(first, last, strict=True)
            for y in range(y0, y1 + 1)
            for x in range(x0, x1 + 1)
        }
        file = os.open(path, os.O_RDONLY)
        self.data = [os.pread(file, counts[n], offsets[n]) for n in sorted(touched)]
        os.close(file)
        self.batches = tile_memory(3 * BATCH, side, side, 3)  # as ours: elsewhere it is slower
        self.out = self.batches[0]

    def close(self) -> None:
        """Forget them."""
        del self.data, self.batches, self.out

    def simplejpeg(self) -> None:
        """Decode them all."""
        for data in self.data:
            simplejpeg.decode_jpeg(data, "RGB", False, False, buffer=self.out)

    def simplejpeg_into_batches(self) -> None:
        """Decode them all, into one tile of three batches after the other."""
        for k, data in enumerate(self.data):
            out = self.batches[k % len(self.batches)]
            simplejpeg.decode_jpeg(data, "RGB", False, False, buffer=out)

    def imagecodecs(self) -> None:
        """Decode them all."""
        for data in self.data:
            imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="RGB", out=self.out)


def cases(path: Path, grid: PatchGrid) -> list[Case]:
    made: list[Case] = []
    few = some(grid, SLOW_PATCHES)
    halved = {"PIL": "box"} if grid.plan.read_px != grid.plan.patch_px else {}

    def add(
        name: str,
        setup: Callable[[], AbstractContextManager[Any]],
        tiles: Callable[[Any], Iterator[np.ndarray]],
        patches: int,
        *,
        one_core: bool = True,
        **how: Any,
    ) -> None:
        def drain(state: Any) -> Done:
            for _ in tiles(state):
                pass
            return Done(patches)

        kept = partial(on_one_core, setup) if one_core else setup
        made.append(Case(name, how, "patches", kept, drain))

    plain = partial(openslide.OpenSlide, path)
    add("OpenSlide", plain, lambda s: naive(s, few), len(few), **halved)
    for name in ("tiffslide", "tiff"):
        opened = partial(open_slide, path, SlideConfig(reader=name))
        add(f"{name}, one by one", opened, lambda s: one_by_one(s, few), len(few))
    for workers, name in enumerate(("workers 0", "1 thread", "2 threads")):
        add(
            f"stream_tiles, {name}",
            partial(open_slide, path),
            lambda s, workers=workers: streamed(s, grid, workers),
            len(grid),
            one_core=workers < 2,
            batch=BATCH,
        )
    if halved:
        facts = off(path, few)

        def scaled(slide: Slide) -> Done:
            for _ in streamed(slide, grid, 1, scaled=True):
                pass
            return Done(len(grid), facts)

        opened = partial(on_one_core, partial(open_slide, path))
        made.append(Case("--decode scaled, 1 thread", {}, "patches", opened, scaled))
    for name in ("imagecodecs", "simplejpeg into batches", "simplejpeg"):

        def decode(tiles: StoredTiles, name: str = name) -> Done:
            getattr(tiles, name.replace(" ", "_"))()
            kb = sum(map(len, tiles.data)) / len(tiles.data) / 1000
            return Done(len(grid), {"tiles a patch": len(tiles.data) / len(grid), "kB a tile": kb})

        made.append(
            Case(
                f"limit, {name}", {}, "patches",
                partial(on_one_core, lambda: closing(StoredTiles(path, grid))), decode,
            )
        )  # fmt: skip
    return made


def off(path: Path, grid: PatchGrid) -> dict[str, float]:
    """How far patches that the decoder shrinks are from the area mean, of 255 levels."""
    with open_slide(path) as slide:
        exact, shrunk = (
            np.stack(list(streamed(slide, grid, 1, scaled=how))).astype(int)
            for how in (False, True)
        )
    difference = np.abs(shrunk - exact)
    return {"levels off, mean": float(difference.mean()), "at most": float(difference.max())}


def some(grid: PatchGrid, count: int) -> PatchGrid:
    """A run of patches from the middle of the grid."""
    first = max(0, (len(grid) - count) // 2)
    return part(grid, slice(first, first + count))


def check_equal(path: Path, grid: PatchGrid) -> None:
    """Refuse to compare readers that do not read the same."""
    with (
        openslide.OpenSlide(path) as plain,
        open_slide(path, SlideConfig(reader="tiff")) as a,
        open_slide(path, SlideConfig(reader="tiffslide")) as b,
    ):
        few = some(grid, 64)
        want = np.stack(list(naive(plain, few))).astype(np.int16)
        # The box mean is rounded differently by Pillow and OpenCV.
        tolerance = 0 if grid.plan.read_px == grid.plan.patch_px else 1
        for tiles in (one_by_one(a, few), one_by_one(b, few), streamed(a, few, 2)):
            assert np.abs(np.stack(list(tiles)) - want).max() <= tolerance


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    size = (2048, 1024) if opts.quick else (30720, 20480)
    with tempfile.TemporaryDirectory() as folder:
        path, pixels = mirrored(Path(folder), *size)
        for title, grid in (
            ("Reading 256 px patches that are the file's tiles", full_grid(path, 0.5)),
            ("Reading 256 px patches off the tiles by 100 px", full_grid(path, 0.5, shift0_px=100)),
            ("Reading 224 px patches", full_grid(path, 0.5, 224)),
            ("Reading 256 px patches at a stride of 128 px", full_grid(path, 0.5, 256, 128)),
            ("Reading 512 px and halving them to 256 px patches", full_grid(path, 1.0)),
        ):
            check_equal(path, grid)
            compare(
                f"{title} ({pixels})", cases(path, grid), ("OpenSlide", "limit, simplejpeg"), opts
            )


if __name__ == "__main__":
    main()
