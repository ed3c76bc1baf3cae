"""The slides and grids that benchmarks work on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wsiprep
from wsiprep.core.types import Box, PatchGrid, Point, Size, TissueMask
from wsiprep.grid import GridConfig
from wsiprep.synth import SyntheticSlide, write_pyramid, write_slide
from wsiprep.tissue import TissueConfig

__all__ = ["full_grid", "mirrored", "part", "repeat", "tissue_grid", "write_he"]

REAL = "cmu-1-small-region.svs"
"""Real pixels (Aperio, 20x), from `data/slides` in `$WSIPREP_SHARED` or `../shared`."""


def write_he(folder: Path, width: int, height: int) -> Path:
    """A synthetic H&E slide at 0.5 µm/px: JPEG (4:2:0, quality 85) in tiles of 256 px."""
    path = folder / f"he_{width}x{height}.svs"
    write_slide(path, SyntheticSlide(seed=7, size=Size(width, height)))
    return path


def mirrored(
    folder: Path, width: int, height: int, downsamples: tuple[int, ...] | None = None
) -> tuple[Path, str]:
    """A slide of any size that is tissue and glass throughout, and a word on its pixels.

    2048 px square of a real slide where it is at hand, else of a synthetic one, mirrored in both
    directions so that it has no seams; JPEG (4:2:0, quality 85) in tiles of 256 px, by default in
    levels of 1, 4, 16 ...
    """
    shared = Path(os.environ.get("WSIPREP_SHARED", Path(__file__).parents[2] / "shared"))
    real = shared / "data" / "slides" / REAL
    source = real if real.is_file() else write_he(folder, 2048, 2048)
    with wsiprep.open_slide(source) as slide:
        square = slide.read(Point(0, 0), 0, Size(2048, 2048))

    def render(box: Box) -> NDArray[np.uint8]:
        rows, cols = (np.arange(n, n + m) for n, m in ((box.y, box.height), (box.x, box.width)))
        rows, cols = (np.where(i // 2048 % 2, 2047 - i % 2048, i % 2048) for i in (rows, cols))
        return np.ascontiguousarray(square[rows[:, None], cols[None]])

    path = folder / f"mirrored_{width}x{height}.svs"
    write_pyramid(path, Size(width, height), 0.5, render, downsamples=downsamples)
    return path, "real H&E pixels" if real.is_file() else "synthetic H&E pixels"


def full_grid(path: Path, mpp: float, patch_px: int = 256, stride_px: int | None = None,
              shift0_px: int = 0) -> PatchGrid:  # fmt: skip
    """Every patch wholly inside the slide, the lattice shifted by some level-0 pixels."""
    with wsiprep.open_slide(path) as slide:
        info = slide.info
        mask = np.ones((64, 64), bool)
        tissue = TissueMask(mask, np.zeros_like(mask), 1.0, info.size0, "all")
        cfg = GridConfig(mpp=mpp, patch_size=patch_px, stride=stride_px, min_tissue=0)
        grid = wsiprep.make_grid(info, tissue, cfg)
        size = np.array([info.size0.width, info.size0.height])
    grid = replace(grid, origin0_px=grid.origin0_px + shift0_px)
    return part(grid, (grid.origin0_px + grid.plan.side0_px <= size).all(axis=1))


def repeat(folder: Path, path: Path, times: int) -> Path:
    """The slide, repeated `times` x `times`: larger without being painted anew.

    Sides must be multiples of 1024, in squares of which a slide is written.
    """
    out = folder / f"{path.stem}_x{times}.svs"
    with wsiprep.open_slide(path) as slide:
        size, mpp = slide.info.size0, slide.info.mpp

        def render(box: Box) -> NDArray[np.uint8]:
            x, y = box.x % size.width, box.y % size.height
            assert x + box.width <= size.width
            assert y + box.height <= size.height
            return slide.read(Point(x, y), 0, Size(box.width, box.height))

        write_pyramid(out, Size(size.width * times, size.height * times), mpp, render)
    return out


def tissue_grid(path: Path, mpp: float) -> PatchGrid:
    """Patches of 256 px with at least half tissue, wholly inside, on the file's own tiles.

    Outside the slide a naive reader gives black and ours white, so such patches are left out.
    """
    with wsiprep.open_slide(path) as slide:
        tissue = wsiprep.detect_tissue(slide, TissueConfig()).mask
        grid = wsiprep.make_grid(slide.info, tissue, GridConfig(mpp=mpp))
        size = np.array([slide.info.size0.width, slide.info.size0.height])
    return part(grid, (grid.origin0_px + grid.plan.side0_px <= size).all(axis=1))


def part(grid: PatchGrid, rows: Any) -> PatchGrid:
    """Some rows of a grid, as an index or a bool array."""
    keep = np.zeros(len(grid), np.bool_)
    keep[rows] = True
    return grid.only(keep)
