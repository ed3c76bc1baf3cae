"""Batches in order, errors as asked, handles of their own."""

from __future__ import annotations

import threading
import time
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ArraySlide, TiledArraySlide, make_info
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Box, Point, Size, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.tiles import cut, make, stream, units
from wsiprep.tiles.gate import Gate
from wsiprep.tiles.job import Job
from wsiprep.tiles.make import maker_of
from wsiprep.tiles.patch import read_patch
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tiles.times import ReadTimes


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
    assert 1 <= len(slide.opened) <= workers + 1  # one to learn what the slide offers
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
    made = []

    def allocate(shape):
        made.append(shape)
        return np.empty(shape, np.uint8)

    tiles = stream_tiles(
        slide.reopen, grid, spans(len(grid), 4), workers=2, ahead=2, allocate=allocate
    )
    for taken, _ in enumerate(tiles, start=1):
        assert len(made) <= taken + 2
        if taken == 5:
            break
    tiles.close()


@pytest.mark.parametrize(
    ("workers", "batch", "patch_px", "ahead"),
    [(1, 32, 256, 2), (2, 32, 256, 3), (16, 32, 256, 17), (64, 32, 256, 41), (8, 256, 1024, 1)],
)
def test_batches_ahead_keep_threads_busy_within_bounds(workers, batch, patch_px, ahead):
    assert units.batches_ahead(workers, batch, 16, patch_px) == ahead


def tiled(tile=(64, 48), broken=(), **kwargs):
    slide, grid = setup(**kwargs)
    return TiledArraySlide(slide.pixels, slide.info, tile=Size(*tile), broken=broken), grid


def single_reads(slide, grid):
    return np.stack(
        [read_patch(slide, Point(int(x), int(y)), grid.plan) for x, y in grid.origin0_px]
    )


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


def test_gaps_between_spans_are_not_read():
    slide, grid = tiled(tile=(64, 64))
    asked = [(3, 9), (40, 41), (100, 130)]
    got = list(stream_tiles(slide.reopen, grid, asked, workers=2))
    index = np.concatenate([b.index for b in got])
    assert index.tolist() == [i for a, b in asked for i in range(a, b)]
    assert len(slide.decoded) == len(index)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_broken_stored_tile_costs_just_the_patches_on_it(workers):
    slide, grid = tiled(tile=(64, 64), broken=(30,), stride=40)
    slide_ok, _ = tiled(tile=(64, 64), stride=40)
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


def test_a_handle_that_does_not_open_ends_the_stream():
    """Other threads wait for tiles of the one that failed, and must not wait for ever."""
    slide, grid = tiled(stride=16)
    opened = []

    def reopen():
        opened.append(1)
        if len(opened) == 3:
            raise SlideReadError("no more handles", slide="x")
        return slide.reopen()

    def often():
        for _ in range(50):
            opened.clear()
            list(stream_tiles(reopen, grid, spans(len(grid), 16), workers=3))

    with pytest.raises(SlideReadError, match="no more handles"):
        often()
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-read")]


def test_leaving_early_with_tiles_lent_stops_the_threads():
    slide, grid = tiled(stride=16)
    for taken in (1, 2, 5):
        tiles = stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=3)
        for _ in range(taken):
            next(tiles)
        tiles.close()
    assert all(s.closed for s in slide.opened)
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-read")]


def test_batches_are_made_in_the_memory_given():
    slide, grid = tiled(tile=(64, 64))
    given_out = []

    def allocate(shape):
        given_out.append(np.zeros(shape, np.uint8))
        return given_out[-1]

    got = list(stream_tiles(slide.reopen, grid, spans(len(grid), 32), workers=2, allocate=allocate))
    assert all(b.pixels is memory for b, memory in zip(got, given_out, strict=True))


def test_opencv_is_left_as_it_was():
    before = cv2.getNumThreads()
    slide, grid = tiled(mpp=0.25)
    tiles = stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=1)
    next(tiles)
    assert cv2.getNumThreads() == 1
    tiles.close()
    assert cv2.getNumThreads() == before


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


def test_two_streams_at_a_time_leave_opencv_as_it_was():
    before = cv2.getNumThreads()
    slide, grid = tiled()
    one, two = (stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=1) for _ in "ab")
    next(one)
    next(two)
    one.close()
    assert cv2.getNumThreads() == 1
    two.close()
    assert cv2.getNumThreads() == before


def test_a_stop_is_noticed_by_threads_that_wait_for_a_tile_of_a_cancelled_unit():
    """Between the cancelling of a unit and the end of the pool, a later one may still begin."""
    slide, grid = tiled(stride=16)
    rows, bounds = np.arange(len(grid)), np.arange(0, len(grid) + 1, 16)
    stopped = threading.Event()
    job = Job(grid, "fail", stopped, ReadTimes(), False, 4, 1 << 26)
    maker = maker_of(slide, job, rows, np.unique([*bounds, len(grid)]))
    pixels, ok = np.empty((16, 64, 64, 3), np.uint8), np.ones(16, bool)
    thread = threading.Thread(target=maker.make, args=(lambda: slide, 1, pixels, ok))
    thread.start()  # unit 0 never begins
    thread.join(0.3)
    assert thread.is_alive()
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()


def test_spans_of_nothing():
    slide, grid = tiled()
    assert list(stream_tiles(slide.reopen, grid, [], workers=2)) == []
    (batch,) = stream_tiles(slide.reopen, grid, [(3, 3)], workers=2)
    assert len(batch.index) == 0


def test_tiles_of_one_patch_share_the_memory_of_one_tile():
    slide, grid = tiled(tile=(64, 48), mpp=0.5 / 10, size=(1280, 1280))
    assert grid.plan.read_px == 640
    places = set()

    def decode(level, tile, data, out, decode=slide.decode_tile):
        places.add(out.ctypes.data)
        decode(level, tile, data, out)

    slide.decode_tile = decode
    list(stream_tiles(lambda: slide, grid, spans(len(grid), 4), workers=1))
    # 640 px are no whole number of rows of tiles: one row is shared with the patch below.
    assert len(slide.decoded) == 540
    assert len(places) <= 1 + 20


@pytest.mark.parametrize("stride", [64, 16])
def test_memory_has_a_bound_where_patches_are_read_from_many_tiles(monkeypatch, stride):
    """Whether they are resized from a buffer, or lie on tiles of each other."""
    monkeypatch.setattr(make, "READ_BYTES", 2 * 1024**2 * 3)
    monkeypatch.setattr(stream, "TILE_BYTES", 0)
    monkeypatch.setattr(cut, "BLOCK_BYTES", 1 << 16)
    slide, grid = tiled(tile=(50, 50), mpp=0.5 / 16, size=(6000, 5000), stride=stride)
    slide.reopen = lambda: slide
    read_bytes = grid.plan.read_px**2 * 3
    assert read_bytes == 1024**2 * 3
    tracemalloc.start()
    list(stream_tiles(slide.reopen, grid, spans(min(40, len(grid)), 16), workers=8))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 7 * read_bytes


def test_the_first_unit_that_is_not_done_is_always_let_through():
    stopped = threading.Event()
    gate = Gate(stopped)
    passed = []

    def go(unit, at_once):
        if gate.begin(unit, at_once):
            passed.append(unit)

    go(0, 1)
    go(1, 2)
    threads = [threading.Thread(target=go, args=(unit, 2)) for unit in (2, 3)]
    for thread in threads:
        thread.start()
    gate.end(1)  # 0 is still under way
    threads[0].join(0.3)
    assert passed == [0, 1]
    gate.end(0)
    for thread in threads:
        thread.join(10)
    assert sorted(passed) == [0, 1, 2, 3]


def test_who_waits_at_the_gate_notices_a_stop():
    stopped = threading.Event()
    gate, passed = Gate(stopped), []
    thread = threading.Thread(target=lambda: passed.append(gate.begin(5, 2)))
    thread.start()
    stopped.set()
    thread.join(10)
    assert passed == [False]


def test_leaving_early_stops_threads_that_wait_at_the_gate(monkeypatch):
    monkeypatch.setattr(make, "READ_BYTES", 1)
    slide, grid = tiled(mpp=0.37)
    tiles = stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=3)
    next(tiles)
    tiles.close()
    assert all(s.closed for s in slide.opened)
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-read")]


def test_other_readers_are_asked_for_few_large_patches_at_a_time(monkeypatch):
    monkeypatch.setattr(make, "ONE_BY_ONE_PX", 2 * 64**2)
    slide, grid = setup()
    reading, most = [], [0]

    def read(*args, read=slide.read):
        reading.append(1)
        most[0] = max(most[0], len(reading))
        time.sleep(0.001)
        reading.pop()
        return read(*args)

    slide.read = read
    list(stream_tiles(lambda: slide, grid, spans(64, 1), workers=8))
    assert most[0] <= 2
