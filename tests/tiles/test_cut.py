"""Patches cut from tiles that are decoded once are those of single reads."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiles.made import setup, single_reads, spans, tiled
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Box, Point, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.slide import open_slide
from wsiprep.tiles import make, units
from wsiprep.tiles.job import Job
from wsiprep.tiles.make import maker_of
from wsiprep.tiles.patch import read_patch
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tiles.times import ReadTimes


def test_halving_is_the_mean_of_four():
    slide, grid = setup(mpp=0.25)
    assert grid.plan.rule == "whole"
    patch = read_patch(slide, Point(128, 256), grid.plan).astype(int)
    block = slide.pixels[256 : 256 + 128, 128 : 128 + 128].astype(float)
    mean = block.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(patch - mean).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mpp", [0.5, 1.0])
@pytest.mark.parametrize("shift0_px", [0, 100])
def test_decoders_are_given_memory_beside_multiples_of_32(small_slide, monkeypatch, mpp, shift0_px):
    """See core.tile_memory; in streams and in single reads."""
    with open_slide(small_slide) as slide:
        full = np.ones((10, 10), np.bool_)
        tissue = TissueMask(full, ~full, 100.0, slide.info.size0, "test")
        grid = make_grid(slide.info, tissue, GridConfig(mpp=mpp, min_tissue=0))
        grid = replace(grid, origin0_px=grid.origin0_px + shift0_px)
        begins, decode = [], type(slide).decode_tile

        def told(self, level, tile, data, out):
            begins.append(out.ctypes.data % 32)
            decode(self, level, tile, data, out)

        monkeypatch.setattr(type(slide), "decode_tile", told)
        streamed = list(stream_tiles(slide.reopen, grid, spans(len(grid), 7), workers=1))
        cut = len(begins)
        read_patch(slide, Point(*grid.origin0_px[0].tolist()), grid.plan)
    assert streamed
    assert 0 < cut < len(begins)
    assert set(begins) == {8}


def test_a_native_patch_is_a_copy():
    slide, grid = setup()
    patch = read_patch(slide, Point(10, 20), grid.plan)
    np.testing.assert_array_equal(patch, slide.pixels[20:84, 10:74])


@settings(deadline=None, max_examples=60)
@given(
    mpp=st.sampled_from([0.5, 0.25, 0.5 / 3, 0.125, 0.37, 0.6]),
    patch=st.sampled_from([32, 50, 64]),
    stride=st.sampled_from([16, 32, 50, 64, 90]),
    tile=st.tuples(st.sampled_from([32, 50, 64, 256]), st.sampled_from([16, 32, 64, 300])),
    batch=st.integers(1, 70),
    workers=st.integers(1, 4),
    shift=st.sampled_from([-80, -6, 0, 0, 0, 1, 12, 33]),
    few=st.sampled_from([1, 30_000, make.READ_BYTES]),
)
def test_patches_cut_from_tiles_are_those_of_single_reads(
    mpp, patch, stride, tile, batch, workers, shift, few
):
    slide, grid = tiled(
        tile, mpp=mpp, size=(420, 310), patch_size=patch, stride=stride, allow_upsampling=True
    )
    grid = replace(grid, origin0_px=grid.origin0_px + shift)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(make, "READ_BYTES", few)
        got = list(stream_tiles(slide.reopen, grid, spans(len(grid), batch), workers=workers))
    np.testing.assert_array_equal(
        np.concatenate([b.pixels for b in got]), single_reads(slide, grid)
    )
    assert len(set(slide.decoded)) == len(slide.decoded)


def test_overlapping_patches_of_a_slide_without_tiles_are_cut_from_blocks():
    slide, grid = setup(stride=16)
    reads = []
    slide.read = lambda *args, read=slide.read: reads.append(args) or read(*args)
    got = list(stream_tiles(lambda: slide, grid, spans(len(grid), 64), workers=1))
    assert len(reads) == 3 * 3  # 1500 x 1100 in blocks of 512
    np.testing.assert_array_equal(
        np.concatenate([b.pixels for b in got]), single_reads(slide, grid)
    )


def test_stretches_join_without_a_seam(monkeypatch):
    monkeypatch.setattr(units, "STRETCH_PIECES", 50)
    slide, grid = tiled(stride=40)
    times = ReadTimes()
    got = list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=3, times=times))
    np.testing.assert_array_equal(
        np.concatenate([b.pixels for b in got]), single_reads(slide, grid)
    )
    assert times.tiles == len(slide.decoded) > len(set(slide.decoded))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stride", [40, 32])  # at 32, tiles are patches of this unit or the next
def test_a_broken_stored_tile_costs_just_the_patches_on_it(workers, stride):
    slide, grid = tiled(tile=(64, 64), broken=(30,), stride=stride)
    slide_ok, _ = tiled(tile=(64, 64), stride=stride)
    with pytest.raises(SlideReadError, match="tile 30 is broken"):
        list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=workers))
    batches = stream_tiles(
        slide.reopen, grid, spans(len(grid), 16), workers=workers, on_bad_tile="mask"
    )
    got = list(batches)
    ok = np.concatenate([b.ok for b in got])
    row, col = divmod(30, -(-1500 // 64))
    x, y = grid.origin0_px.T
    on_it = (x < col * 64 + 64) & (x + 64 > col * 64) & (y < row * 64 + 64) & (y + 64 > row * 64)
    np.testing.assert_array_equal(ok, ~on_it)
    pixels = np.concatenate([b.pixels for b in got])
    assert (pixels[on_it] == 255).all()
    np.testing.assert_array_equal(pixels[ok], single_reads(slide_ok, grid)[ok])


@pytest.mark.parametrize(
    ("tile", "stride", "mpp", "grid_shift"),
    [
        ((64, 64), 64, 0.5, 0),
        ((64, 64), 40, 0.5, 0),
        ((64, 64), 64, 0.37, 0),
        ((64, 48), 48, 0.25, 9),
    ],
)
def test_a_patch_that_lies_on_absent_tiles_alone_has_no_pixels(tile, stride, mpp, grid_shift):
    """One that lies on them in part keeps them white."""
    slide, grid = tiled(tile, stride=stride, mpp=mpp)
    grid = replace(grid, origin0_px=grid.origin0_px - grid_shift)
    rows, cols = slide.tiling(0).shape
    there = np.ones((rows, cols), bool)
    there[3:7, 4:9] = there[0, 0] = there[-1, -3:] = there[-3:, -1] = False
    slide.absent = tuple(np.flatnonzero(~there).tolist())
    white = np.repeat(np.repeat(~there, tile[1], axis=0), tile[0], axis=1)[:1100, :1500]
    none = []
    for x, y in grid.origin0_px:
        box = white[max(y, 0) : y + grid.plan.read_px, max(x, 0) : x + grid.plan.read_px]
        none.append(box.size > 0 and bool(box.all()))
    none = np.array(none)
    assert 0 < none.sum() < len(grid)
    with pytest.raises(SlideReadError, match="the file has no tile under the patch") as caught:
        list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=2))
    assert "--on-bad-tile mask" in caught.value.hint
    batches = stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=3, on_bad_tile="mask")
    got = list(batches)
    np.testing.assert_array_equal(np.concatenate([b.ok for b in got]), ~none)
    slide.pixels[white] = 255
    np.testing.assert_array_equal(
        np.concatenate([b.pixels for b in got]), single_reads(slide, grid)
    )


def test_a_patch_beside_the_slide_is_white_and_fine():
    slide, grid = tiled((64, 64))
    slide.absent = (0,)
    grid = replace(grid, origin0_px=grid.origin0_px - 5000)
    assert all(b.ok.all() for b in stream_tiles(slide.reopen, grid, [(0, 4)], workers=1))


def test_a_fault_beside_a_patch_costs_it_nothing_where_blocks_are_read():
    slide, grid = setup(stride=16)
    slide.broken = (Box(700, 600, 4, 4),)
    got = list(
        stream_tiles(slide.reopen, grid, spans(len(grid), 64), workers=2, on_bad_tile="mask")
    )
    ok = np.concatenate([b.ok for b in got])
    x, y = grid.origin0_px.T
    on_it = (x < 704) & (x + 64 > 700) & (y < 604) & (y + 64 > 600)
    np.testing.assert_array_equal(ok, ~on_it)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    tile=st.sampled_from([(64, 64), (50, 32), (128, 128)]),
    stride=st.sampled_from([16, 32, 40, 64]),
    mpp=st.sampled_from([0.5, 0.25, 0.37]),
    unit=st.integers(1, 9),
    workers=st.integers(2, 5),
    shift=st.sampled_from([-20, 0, 0]),
)
def test_units_that_overtake_each_other_spoil_nothing(
    seed, tile, stride, mpp, unit, workers, shift
):
    """Tiles that take a while, in any order, and put into the next unit or lent as it happens."""
    slide, grid = tiled(tile, size=(420, 310), stride=stride, mpp=mpp)
    grid = replace(grid, origin0_px=grid.origin0_px + shift)
    wanted = single_reads(slide, grid)
    waits = np.random.default_rng(seed).choice([0, 0, 0.001, 0.004], 1000)
    slide.decoded.clear()
    decode = type(slide).decode_tile

    def slow(self, level, number, data, out):
        time.sleep(waits[number % len(waits)])
        out[...] = 77  # whatever is put before it is decoded
        decode(self, level, number, data, out)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(type(slide), "decode_tile", slow)
        patching.setattr(units, "UNIT_PATCHES", unit)
        got = list(stream_tiles(slide.reopen, grid, spans(len(grid), 12), workers=workers))
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in got]), wanted)
    assert len(set(slide.decoded)) == len(slide.decoded)


@pytest.mark.parametrize("known", [True, False])
def test_tiles_go_to_the_next_unit_where_it_has_memory_and_are_lent_where_not(known):
    slide, grid = tiled((64, 64), stride=32, size=(420, 310))
    bounds = np.arange(0, len(grid) + 1, 11)
    bounds = np.unique([*bounds, len(grid)])
    job = Job(grid, "fail", threading.Event(), ReadTimes(), False, 4, 1 << 26)
    maker = maker_of(slide, job, np.arange(len(grid)), bounds)
    out, ok = np.zeros((len(grid), 64, 64, 3), np.uint8), np.ones(len(grid), bool)
    ahead = []
    for unit in range(len(bounds) - 1):
        before = out[bounds[unit + 1] :].copy()
        maker.make(
            lambda: slide,
            unit,
            lambda n, unit=unit: out[bounds[n] : bounds[n + 1]] if known or n == unit else None,
            ok[bounds[unit] : bounds[unit + 1]],
        )
        changed = (out[bounds[unit + 1] :] != before).any(axis=(1, 2, 3))
        ahead.append(changed[:11].any())
        assert not changed[11:].any()
    assert any(ahead) == known
    np.testing.assert_array_equal(out, single_reads(slide, grid))
    assert ok.all()
    assert not maker._lent
    assert not any(maker._left)


def test_a_tile_that_goes_ahead_while_the_next_unit_looks_for_it_goes_there_once(monkeypatch):
    """Between looking whether it went ahead and whether it is lent, it may do both."""
    slide, grid = tiled((128, 128), stride=16, size=(420, 310))
    wanted, decode = single_reads(slide, grid), type(slide).decode_tile

    class Slow(set):
        def __contains__(self, loan):
            there = super().__contains__(loan)
            time.sleep(0 if there else 0.02)
            return there

    def slow(self, *args):
        time.sleep(0.01)
        decode(self, *args)

    monkeypatch.setattr(type(slide), "decode_tile", slow)
    bounds = np.unique([*range(0, len(grid) + 1, 5), len(grid)])
    job = Job(grid, "fail", threading.Event(), ReadTimes(), False, 4, 1 << 26)
    maker = maker_of(slide, job, np.arange(len(grid)), bounds)
    maker._put_ahead = Slow()
    out, ok = np.zeros((len(grid), 64, 64, 3), np.uint8), np.ones(len(grid), bool)

    def part(unit):
        return out[bounds[unit] : bounds[unit + 1]]

    with ThreadPoolExecutor(3) as pool:
        units = range(len(bounds) - 1)
        jobs = [pool.submit(maker.make, lambda: slide, unit, part, ok) for unit in units]
    for done in jobs:
        done.result()
    np.testing.assert_array_equal(out, wanted)
    assert not maker._lent
    assert not any(maker._left)


@pytest.mark.parametrize("stride", [64, 40])
def test_damaged_tiles_that_are_masked_keep_no_batches(stride):
    """An error holds on to what its frames do."""
    slide, grid = tiled((64, 64), stride=stride, broken=tuple(range(0, 400, 16)))
    refs, most = [], [0]

    def tracked(shape):
        made = np.empty(shape, np.uint8)
        refs.append(weakref.ref(made))
        most[0] = max(most[0], sum(ref() is not None for ref in refs))
        return made

    for _ in stream_tiles(
        slide.reopen, grid, spans(len(grid), 16), workers=2, ahead=2, allocate=tracked,
        on_bad_tile="mask",
    ):  # fmt: skip
        pass
    assert len(refs) > 20
    assert most[0] <= 5


def test_a_stop_is_noticed_by_threads_that_wait_for_a_tile_of_a_cancelled_unit():
    """Between the cancelling of a unit and the end of the pool, a later one may still begin."""
    slide, grid = tiled(stride=16)
    rows, bounds = np.arange(len(grid)), np.arange(0, len(grid) + 1, 16)
    stopped = threading.Event()
    job = Job(grid, "fail", stopped, ReadTimes(), False, 4, 1 << 26)
    maker = maker_of(slide, job, rows, np.unique([*bounds, len(grid)]))
    pixels, ok = np.empty((16, 64, 64, 3), np.uint8), np.ones(16, bool)
    thread = threading.Thread(target=maker.make, args=(lambda: slide, 1, lambda _: pixels, ok))
    thread.start()  # unit 0 never begins
    thread.join(0.3)
    assert thread.is_alive()
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
