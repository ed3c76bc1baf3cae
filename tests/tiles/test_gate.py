"""Memory has its bound, and nobody waits for ever because of it."""

from __future__ import annotations

import threading
import time
import tracemalloc

import pytest

from tests.tiles.made import setup, spans, tiled
from wsiprep.tiles import cut, make, stream
from wsiprep.tiles.gate import Gate
from wsiprep.tiles.stream import stream_tiles


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
