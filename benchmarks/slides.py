"""The slides and grids that benchmarks work on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wsiprep
from wsiprep.core.types import Box, PatchGrid, Point, Size
from wsiprep.grid import GridConfig
from wsiprep.synth import SyntheticSlide, write_pyramid, write_slide
from wsiprep.tissue import TissueConfig

__all__ = ["part", "repeat", "tissue_grid", "write_he"]


def write_he(folder: Path, width: int, height: int) -> Path:
    """A synthetic H&E slide at 0.5 µm/px: JPEG (4:2:0, quality 85) in tiles of 256 px."""
    path = folder / f"he_{width}x{height}.svs"
    write_slide(path, SyntheticSlide(seed=7, size=Size(width, height)))
    return path


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
    return replace(
        grid, cell=grid.cell[rows], origin0_px=grid.origin0_px[rows], tissue=grid.tissue[rows]
    )
