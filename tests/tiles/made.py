"""Grids and slides that streams are tried on."""

from __future__ import annotations

import numpy as np

from tests.fakes import ArraySlide, TiledArraySlide, make_info
from wsiprep.core.types import Point, Size, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.tiles.patch import read_patch


def setup(mpp=0.5, size=(1500, 1100), **grid):
    rng = np.random.default_rng(0)
    info = make_info(mpp=mpp, size0=size)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    mask = np.ones((10, 10), bool)
    tissue = TissueMask(mask, np.zeros_like(mask), 64.0, info.size0, "test")
    cfg = GridConfig(**{"patch_size": 64, "min_tissue": 0, **grid})
    return ArraySlide(pixels, info), make_grid(info, tissue, cfg)


def spans(n, batch):
    return [(i, min(i + batch, n)) for i in range(0, n, batch)]


def tiled(tile=(64, 48), broken=(), **kwargs):
    slide, grid = setup(**kwargs)
    return TiledArraySlide(slide.pixels, slide.info, tile=Size(*tile), broken=broken), grid


def single_reads(slide, grid):
    return np.stack(
        [read_patch(slide, Point(int(x), int(y)), grid.plan) for x, y in grid.origin0_px]
    )
