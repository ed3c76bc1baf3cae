"""Batches of patches, decoded by threads, in order, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import PatchGrid, Point, ReadPlan, Size, TileBatch

__all__ = ["read_patch", "stream_tiles"]

TILES_PER_JOB = 8
"""Tiles one thread reads at a go: enough to hide the hand-over, few enough to share a batch."""


def read_patch(slide: Slide, origin0: Point, plan: ReadPlan) -> NDArray[np.uint8]:
    """Read one patch as the plan says.

    Shrinking averages by area (exact box mean for whole factors); magnifying is bicubic.

    Returns:
        uint8 (patch_px, patch_px, 3) RGB.

    Raises:
        SlideReadError: the pixels cannot be decoded.
    """
    pixels = slide.read(origin0, plan.level, Size(plan.read_px, plan.read_px))
    if plan.read_px == plan.patch_px:
        return pixels
    how = cv2.INTER_AREA if plan.read_px > plan.patch_px else cv2.INTER_CUBIC
    side = plan.patch_px
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=how), dtype=np.uint8)


def stream_tiles(
    open_slide: Callable[[], Slide],
    grid: PatchGrid,
    spans: Sequence[tuple[int, int]],
    *,
    workers: int,
    on_bad_tile: Literal["fail", "mask"] = "fail",
    ahead: int = 3,
) -> Generator[TileBatch]:
    """Yield the pixels of spans of grid rows, in the order of the spans.

    Each thread opens its own handle. At most `ahead + 1` batches are held at a time, so memory
    is (ahead + 1) * batch * patch_px² * 3 bytes whatever the size of the slide.

    Args:
        open_slide: Opens a new handle; called once in each thread.
        grid: The patches.
        spans: (start, stop) rows of each batch.
        workers: Reading threads, at least 1.
        on_bad_tile: `fail` raises; `mask` gives white pixels with `ok` False.
        ahead: Batches read in advance.

    Raises:
        SlideReadError: a tile cannot be decoded and `on_bad_tile` is `fail`.
    """
    local = threading.local()
    handles: list[Slide] = []
    lock = threading.Lock()
    stopped = threading.Event()

    def handle() -> Slide:
        if not hasattr(local, "slide"):
            slide = open_slide()
            with lock:
                handles.append(slide)
            local.slide = slide
        slide_here: Slide = local.slide
        return slide_here

    def fill(batch: TileBatch, first: int, last: int) -> None:
        slide = handle()
        for k in range(first, last):
            if stopped.is_set():
                return
            x, y = grid.origin0_px[batch.index[k]]
            try:
                batch.pixels[k] = read_patch(slide, Point(int(x), int(y)), grid.plan)
            except SlideReadError:
                if on_bad_tile == "fail":
                    raise
                batch.pixels[k] = 255
                batch.ok[k] = False

    side = grid.plan.patch_px
    waiting: deque[tuple[TileBatch, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="wsiprep-read")

    def submit(start: int, stop: int) -> None:
        count = stop - start
        batch = TileBatch(
            index=np.arange(start, stop, dtype=np.int64),
            pixels=np.empty((count, side, side, 3), np.uint8),
            ok=np.ones(count, np.bool_),
        )
        step = max(1, min(TILES_PER_JOB, -(-count // workers)))
        jobs = [
            pool.submit(fill, batch, first, min(first + step, count))
            for first in range(0, count, step)
        ]
        waiting.append((batch, jobs))

    try:
        for start, stop in spans:
            submit(start, stop)
            if len(waiting) > ahead:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for slide in handles:
            slide.close()


def _finished(waiting: deque[tuple[TileBatch, list[Future[None]]]]) -> TileBatch:
    batch, jobs = waiting.popleft()
    for job in jobs:
        job.result()
    return batch
