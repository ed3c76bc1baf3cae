"""Who makes the patches of a stretch: read one by one, or cut from tiles that are decoded once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.types import ReadPlan
from wsiprep.tiles.blocks import Blocks
from wsiprep.tiles.cut import FromTiles, Source, apart
from wsiprep.tiles.job import Handle, Job, Pixels, read_one
from wsiprep.tiles.scaled import Scaled, level_corners
from wsiprep.tiles.schedule import schedule
from wsiprep.tiles.units import READ_BYTES

__all__ = ["Maker", "maker_of", "pieces_of"]

ONE_BY_ONE_PX = (512 << 20) // 8
"""Pixels that other readers are asked for at a time: RGBA, then RGB, and no tiles are kept."""


def pieces_of(slide: Slide, plan: ReadPlan) -> int:
    """From how many stored tiles a patch is put together, about."""
    if not isinstance(slide, TiledSlide):
        return 1
    tile = slide.tiling(plan.level).tile
    return (plan.read_px // tile.width + 1) * (plan.read_px // tile.height + 1)


class Maker(Protocol):
    """Makes the patches of a stretch of the grid. One instance serves all threads.

    Attributes:
        at_once: For each unit, how many in a row may be under way when it begins.
    """

    at_once: list[int]

    def make(self, handle: Handle, unit: int, pixels: Pixels, ok: NDArray[np.bool_]) -> None:
        """Fill the patches of a unit; units are begun in their order.

        Args:
            handle: Gives the slide that the thread may use.
            unit: Number of the unit.
            pixels: Gives the memory of a unit's patches, uint8 (patches, T, T, 3), to be filled in:
                taken now, if need be; None for a unit that is not handed out yet, or done.
            ok: bool (patches,), True; set to False where a patch could not be read.

        Raises:
            SlideReadError: a patch cannot be read and `on_bad_tile` is `fail`.
        """
        ...


def maker_of(slide: Slide, job: Job, rows: NDArray[np.int64], bounds: NDArray[np.int64]) -> Maker:
    """The maker that suits a slide.

    Args:
        slide: A handle, to learn what it offers.
        job: The stream.
        rows: int64 (patches,), rows of the grid.
        bounds: int64 (units + 1,), first patch of each unit.
    """
    plan, info = job.grid.plan, slide.info
    corner = level_corners(job.grid, info.downsamples[plan.level], rows)
    size, read_px = info.level_sizes[plan.level], plan.read_px
    source: Callable[[Slide], Source] = _itself
    if job.scaled:
        factor = plan.read_px // plan.patch_px
        source = partial(Scaled, factor=factor)
        corner, read_px = corner // factor, plan.patch_px
        size = Scaled(slide, factor).size(plan.level)
    elif not isinstance(slide, TiledSlide):
        if job.grid.stride_px >= plan.patch_px or plan.level != 0:
            return _OneByOne(job, rows, bounds)
        source = Blocks
    tiling = source(slide).tiling(plan.level)
    budget = job.tile_bytes // (tiling.tile.area * 3)
    tiles = schedule(corner, bounds, read_px, size, tiling, at_once=job.at_once, budget=budget)
    unit_bytes = int(np.diff(bounds).max(initial=1)) * read_px**2 * 3
    at_once, few = np.full(len(tiles), job.at_once), max(1, READ_BYTES // unit_bytes)
    if few < job.at_once and tiles.resident > budget:
        tiles = schedule(corner, bounds, read_px, size, tiling, at_once=few, budget=budget)
        at_once[:] = few
    elif few < job.at_once:
        put_together = np.flatnonzero(apart(tiles, read_px, plan.patch_px))
        at_once[np.searchsorted(bounds, put_together, "right") - 1] = few
    shape = (tiling.tile.height, tiling.tile.width, 3)
    return FromTiles(job, tiles, shape, source, read_px, rows, at_once.tolist())


class _OneByOne:
    """Reads each patch by itself."""

    def __init__(self, job: Job, rows: NDArray[np.int64], bounds: NDArray[np.int64]) -> None:
        self._job, self._rows, self._bounds = job, rows, bounds
        few = ONE_BY_ONE_PX // job.grid.plan.read_px**2
        self.at_once = [min(job.at_once, max(1, few))] * (len(bounds) - 1)

    def make(self, handle: Handle, unit: int, pixels: Pixels, ok: NDArray[np.bool_]) -> None:
        """See `Maker.make`."""
        job, began, slide, patches = self._job, time.perf_counter(), handle(), pixels(unit)
        assert patches is not None  # noqa: S101 - it is the unit's turn
        for k, row in enumerate(self._rows[self._bounds[unit] : self._bounds[unit + 1]]):
            if job.stopped.is_set():
                return
            read_one(job, slide, int(row), patches[k], ok[k : k + 1])
        job.times.add(patch_s=time.perf_counter() - began, tiles=len(patches))


def _itself(slide: Slide) -> Source:
    return cast("TiledSlide", slide)  # maker_of has looked; to look takes as long as a few patches
