"""Batches in order, errors as asked, handles of their own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.fakes import ArraySlide, make_info
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Box, Point, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.tiles import workers as workers_module
from wsiprep.tiles.stream import read_patch, stream_tiles


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


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 5, 64, 10_000])
def test_every_tile_once_in_order_whatever_the_workers(workers, batch):
    slide, grid = setup()
    got = list(stream_tiles(slide.reopen, grid, spans(len(grid), batch), workers=workers))
    index = np.concatenate([b.index for b in got])
    np.testing.assert_array_equal(index, np.arange(len(grid)))
    pixels = np.concatenate([b.pixels for b in got])
    for i in (0, 3, len(grid) - 1):
        x, y = grid.origin0_px[i]
        np.testing.assert_array_equal(
            pixels[i], read_patch(slide, Point(int(x), int(y)), grid.plan)
        )
    assert all(b.ok.all() for b in got)
    assert 1 <= len(slide.opened) <= workers
    assert all(s.closed for s in slide.opened)


def test_halving_is_the_mean_of_four():
    slide, grid = setup(mpp=0.25)
    assert grid.plan.rule == "whole"
    patch = read_patch(slide, Point(128, 256), grid.plan).astype(int)
    block = slide.pixels[256 : 256 + 128, 128 : 128 + 128].astype(float)
    mean = block.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(patch - mean).max() <= 0.5 + 1e-9


def test_a_native_patch_is_a_copy():
    slide, grid = setup()
    patch = read_patch(slide, Point(10, 20), grid.plan)
    np.testing.assert_array_equal(patch, slide.pixels[20:84, 10:74])


def test_a_broken_tile_fails_or_is_masked():
    slide, grid = setup()
    slide.broken = (Box(130, 70, 5, 5),)
    with pytest.raises(SlideReadError, match="broken"):
        list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=2))
    got = list(
        stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=2, on_bad_tile="mask")
    )
    ok = np.concatenate([b.ok for b in got])
    assert (~ok).sum() == 1
    bad = int(np.flatnonzero(~ok)[0])
    assert grid.origin0_px[bad].tolist() == [128, 64]
    assert (np.concatenate([b.pixels for b in got])[bad] == 255).all()
    assert all(s.closed for s in slide.opened)


def test_leaving_early_stops_the_threads_and_closes_handles():
    slide, grid = setup()
    tiles = stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=3)
    next(tiles)
    tiles.close()
    assert all(s.closed for s in slide.opened)
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-read")]


def test_no_more_than_a_few_batches_are_held():
    slide, grid = setup()
    batch, ahead = 4, 2
    submitted = 0

    class Spans(list):
        def __iter__(self):
            nonlocal submitted
            for span in super().__iter__():
                submitted += 1
                yield span

    tiles = stream_tiles(slide.reopen, grid, Spans(spans(len(grid), batch)), workers=2, ahead=ahead)
    for taken, _ in enumerate(tiles, start=1):
        assert submitted <= taken + ahead
        if taken == 5:
            break
    tiles.close()


def test_workers_follow_the_queue_system(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert workers_module.default_workers() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "200")
    assert workers_module.default_workers() == 16
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    monkeypatch.setattr(workers_module.os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert workers_module.default_workers() == 2
