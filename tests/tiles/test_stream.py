"""Batches in order, errors as asked, handles of their own."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from tests.tiles.made import setup, spans, tiled
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Box, Point
from wsiprep.tiles import units
from wsiprep.tiles.patch import read_patch
from wsiprep.tiles.stream import stream_tiles


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
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


def test_without_threads_the_one_that_asks_reads():
    """Also of tiles that patches share, and only what is asked for."""
    slide, grid = tiled(stride=16)
    opened_by = []

    def reopen():
        opened_by.append(threading.current_thread())
        return slide.reopen()

    want = list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=2))
    slide.decoded.clear()
    tiles = stream_tiles(reopen, grid, spans(len(grid), 16), workers=0)
    first = next(tiles)
    np.testing.assert_array_equal(first.pixels, want[0].pixels)
    once = len(slide.decoded)
    for batch, other in zip(tiles, want[1:], strict=True):
        np.testing.assert_array_equal(batch.pixels, other.pixels)
    assert once < len(slide.decoded) == len(set(slide.decoded))
    assert opened_by == [threading.current_thread()]


def test_without_threads_a_broken_tile_fails_or_is_masked():
    slide, grid = setup()
    slide.broken = (Box(130, 70, 5, 5),)
    with pytest.raises(SlideReadError, match="broken"):
        list(stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=0))
    got = stream_tiles(slide.reopen, grid, spans(len(grid), 16), workers=0, on_bad_tile="mask")
    assert sum((~b.ok).sum() for b in got) == 1
    assert all(s.closed for s in slide.opened)


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


def test_gaps_between_spans_are_not_read():
    slide, grid = tiled(tile=(64, 64))
    asked = [(3, 9), (40, 41), (100, 130)]
    got = list(stream_tiles(slide.reopen, grid, asked, workers=2))
    index = np.concatenate([b.index for b in got])
    assert index.tolist() == [i for a, b in asked for i in range(a, b)]
    assert len(slide.decoded) == len(index)


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
    # Each in memory of its own; two threads may begin two batches in either order.
    assert {id(b.pixels) for b in got} == {id(memory) for memory in given_out}
    assert len(got) == len(given_out)


def test_opencv_is_left_as_it_was():
    before = cv2.getNumThreads()
    slide, grid = tiled(mpp=0.25)
    tiles = stream_tiles(slide.reopen, grid, spans(len(grid), 4), workers=1)
    next(tiles)
    assert cv2.getNumThreads() == 1
    tiles.close()
    assert cv2.getNumThreads() == before


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


def test_spans_of_nothing():
    slide, grid = tiled()
    assert list(stream_tiles(slide.reopen, grid, [], workers=2)) == []
    (batch,) = stream_tiles(slide.reopen, grid, [(3, 3)], workers=2)
    assert len(batch.index) == 0
