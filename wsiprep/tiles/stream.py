"""Batches of patches, made by threads, in order, with bounded memory.

Of a slide that gives access to its stored tiles, each tile is decoded once and the patches are cut
from it (`schedule.py`, `make.py`); others are read patch by patch. The pixels are the same to the
byte. Threads, not processes: all decoders in use release the interpreter lock, and handing batches
from process to process costs as much as decoding them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.cores import default_workers
from wsiprep.core.recycled import Recycled
from wsiprep.core.types import OnBadTile, PatchGrid, TileBatch
from wsiprep.tiles.gate import Gate
from wsiprep.tiles.job import Job
from wsiprep.tiles.make import Maker, maker_of, pieces_of
from wsiprep.tiles.times import ReadTimes
from wsiprep.tiles.units import (
    TILE_BYTES,
    Handles,
    Span,
    batches_ahead,
    stretches_of,
    unit_patches,
    units_of,
)

__all__ = ["stream_tiles"]

Allocate = Callable[[tuple[int, int, int, int]], NDArray[np.uint8]]


def stream_tiles(
    open_slide: Callable[[], Slide],
    grid: PatchGrid,
    spans: Sequence[Span],
    *,
    workers: int | None = None,
    on_bad_tile: OnBadTile = "fail",
    scaled: bool = False,
    ahead: int | None = None,
    allocate: Allocate | None = None,
    times: ReadTimes | None = None,
) -> Generator[TileBatch]:
    """Yield the pixels of spans of grid rows, in the order of the spans.

    Each thread opens its own handle. Memory does not depend on the size of the slide: `ahead + 1`
    batches of patch_px² * 3 bytes a patch; `TILE_BYTES` of decoded tiles, or those that the
    patches under way lie on if that is more; where patches are resized `units.READ_BYTES`, or
    read_px² * 3 if that is more; at most some 100 MiB of schedule.

    Args:
        open_slide: Opens a new handle; called once in each thread, and once here.
        grid: The patches.
        spans: (start, stop) rows of each batch.
        workers: Reading threads; None takes `core.cores.default_workers`. With 0 a batch is read
            when it is asked for, by the thread that asks: the least work on a single core.
        on_bad_tile: `fail` raises; `mask` gives white pixels with `ok` False.
        scaled: Shrink patches inside the JPEG decoder: faster, other pixels (docs/speed.md). Only
            where `scaled.why_not_scaled` has no objection.
        ahead: Batches made in advance; None takes what keeps the threads busy within
            `AHEAD_BYTES`.
        allocate: Gives the memory of a batch, uint8 (B, T, T, 3); called by the reading threads,
            several at a time. None is plain memory, used again as soon as a batch and all that
            shares its pixels are gone.
        times: Filled in as the stream goes.

    Raises:
        SlideReadError: a tile cannot be decoded, or a patch lies on absent tiles alone, and
            `on_bad_tile` is `fail`.
    """
    times = ReadTimes() if times is None else times
    workers = default_workers() if workers is None else workers
    threads, plan = workers or 1, grid.plan
    largest = max((stop - start for start, stop in spans), default=1)
    unit = unit_patches(threads, plan.read_px, plan.patch_px)
    if ahead is None:
        ahead = batches_ahead(threads, largest, unit, plan.patch_px)
    stopped = threading.Event()
    gate, passed = Gate(stopped), 0
    job = Job(
        grid,
        on_bad_tile,
        stopped,
        times,
        scaled,
        at_once=(ahead + 1) * -(-largest // unit),
        tile_bytes=TILE_BYTES // 2,  # a stretch may begin while the last units of another end
    )
    allocate = Recycled().allocate if allocate is None else allocate
    handles = Handles(open_slide)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="wsiprep-read")
    waiting: deque[_Batch] = deque()
    try:
        with _resizing_on_one_core():
            for stretch in stretches_of(spans, pieces_of(handles.get(), plan)):
                rows, bounds = units_of(stretch, unit)
                made = _Stretch(maker_of(handles.get(), job, rows, bounds), handles, gate, passed)
                number = 0
                for start, stop in stretch:
                    batch = _Batch(start, stop, plan.patch_px, allocate)
                    units = range(number, number + -(-(stop - start) // unit))
                    made.parts.update(
                        (n, (batch, slice(k * unit, (k + 1) * unit))) for k, n in enumerate(units)
                    )
                    jobs = (partial(made.make, n) for n in units)
                    batch.jobs = [pool.submit(job).result if workers else job for job in jobs]
                    number = units.stop
                    waiting.append(batch)
                    del batch  # its memory is the next one's as soon as it is gone
                    if len(waiting) > ahead:
                        yield waiting.popleft().finished(times)
                passed += number
            while waiting:
                yield waiting.popleft().finished(times)
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        handles.close()


class _Batch:
    """A batch that threads make; each of its jobs returns when a part of it is done.

    Its memory is taken when the first of them begins, or puts tiles of the unit before into it:
    what waits for its turn would only push warm memory out of the processor's caches.
    """

    def __init__(self, start: int, stop: int, patch_px: int, allocate: Allocate) -> None:
        self.jobs: Sequence[Callable[[], None]] = ()
        self.ok = np.ones(stop - start, np.bool_)
        self._span, self._shape = (start, stop), (stop - start, patch_px, patch_px, 3)
        self._allocate, self._lock = allocate, threading.Lock()
        self._pixels: NDArray[np.uint8] | None = None

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (B, T, T, 3), filled in by the threads."""
        with self._lock:
            if self._pixels is None:
                self._pixels = self._allocate(self._shape)
            return self._pixels

    def finished(self, times: ReadTimes) -> TileBatch:
        """Wait until it is done."""
        began = time.perf_counter()
        for job in self.jobs:
            job()
        times.add(wait_s=time.perf_counter() - began)
        return TileBatch(np.arange(*self._span, dtype=np.int64), self.pixels(), self.ok)


class _Stretch:
    """The units of a stretch, and where the patches of those that are not done go."""

    def __init__(self, maker: Maker, handles: Handles, gate: Gate, passed: int) -> None:
        self.parts: dict[int, tuple[_Batch, slice]] = {}
        self._maker, self._handles, self._gate, self._passed = maker, handles, gate, passed

    def make(self, unit: int) -> None:
        """Make a unit; in a reading thread."""
        turn = self._passed + unit
        try:
            if self._gate.begin(turn, self._maker.at_once[unit]):
                batch, part = self.parts[unit]
                self._maker.make(self._handles.get, unit, self._pixels, batch.ok[part])
        finally:
            del self.parts[unit]
            self._gate.end(turn)

    def _pixels(self, unit: int) -> NDArray[np.uint8] | None:
        part = self.parts.get(unit)
        return None if part is None else part[0].pixels()[part[1]]


_streams = 0
_threads_before = 0
_counting = threading.Lock()


@contextmanager
def _resizing_on_one_core() -> Iterator[None]:
    """Within it, OpenCV does not start threads of its own: the reading threads are enough.

    The number is the process's: the first stream sets it, the last one puts it back.
    """
    global _streams, _threads_before
    with _counting:
        if _streams == 0:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _streams += 1
    try:
        yield
    finally:
        with _counting:
            _streams -= 1
            if _streams == 0:
                cv2.setNumThreads(_threads_before)
