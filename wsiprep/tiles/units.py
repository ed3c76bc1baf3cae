"""How the work of a stream is cut up: stretches that are scheduled, units that a thread makes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide

__all__ = [
    "READ_BYTES",
    "TILE_BYTES",
    "Handles",
    "Span",
    "batches_ahead",
    "stretches_of",
    "unit_patches",
    "units_of",
]

Span = tuple[int, int]
"""First row of a grid, and the one after the last."""

UNIT_PATCHES = 32
"""Patches a thread makes at a go, two rows of a chunk; half as many where threads are many."""
UNIT_BYTES = 8 << 20
"""Fewer patches make a unit where more than this would be read for it."""
READ_BYTES = 256 << 20
"""Patches of their reading size that are put together at a time, by all threads; one, where it is
larger."""
TILE_BYTES = 256 << 20
"""Decoded tiles kept for later patches; more only where those under way need more."""
AHEAD_BYTES = 256 << 20
"""Batches made in advance; more only where a single batch is larger."""
STRETCH_PIECES = 1 << 18
"""Pieces of patches scheduled at a time, so that schedules stay below some 100 MiB. Tiles are not
kept beyond."""


class Handles:
    """A handle for each thread that asks."""

    def __init__(self, open_slide: Callable[[], Slide]) -> None:
        self._open, self._local, self._lock = open_slide, threading.local(), threading.Lock()
        self._opened: list[Slide] = []

    def get(self) -> Slide:
        """The calling thread's own."""
        if not hasattr(self._local, "slide"):
            slide = self._open()
            with self._lock:
                self._opened.append(slide)
            self._local.slide = slide
        own: Slide = self._local.slide
        return own

    def close(self) -> None:
        """Close all of them."""
        with ExitStack() as closing:  # all of them, also where one fails
            for slide in self._opened:
                closing.callback(slide.close)


def unit_patches(workers: int, read_px: int, patch_px: int) -> int:
    """Patches of a unit: many hide the hand-over, few give every thread its own within bounds."""
    patch_bytes = patch_px**2 * 3
    crowded = 2 * workers * UNIT_PATCHES * patch_bytes > AHEAD_BYTES
    wanted = UNIT_PATCHES // 2 if crowded else UNIT_PATCHES
    return max(1, min(wanted, min(UNIT_BYTES, READ_BYTES // workers) // (read_px**2 * 3)))


def batches_ahead(workers: int, batch: int, unit: int, patch_px: int) -> int:
    """Batches ahead that give every thread a unit in hand and one to follow, within bounds."""
    wanted = -(-2 * workers * unit // max(1, batch)) + 1
    affordable = AHEAD_BYTES // (max(1, batch) * patch_px**2 * 3) - 1
    return max(1, min(wanted, affordable))


def stretches_of(spans: Sequence[Span], pieces: int) -> Iterator[list[Span]]:
    """Spans in runs of about `STRETCH_PIECES`, of so many pieces a patch; at least one a run."""
    stretch: list[Span] = []
    patches = 0
    for start, stop in spans:
        stretch.append((start, stop))
        patches += stop - start
        if patches * pieces >= STRETCH_PIECES:
            yield stretch
            stretch, patches = [], 0
    if stretch:
        yield stretch


def units_of(stretch: Sequence[Span], unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the grid in a stretch, and where each unit begins; no unit spans two batches."""
    rows = np.concatenate([np.arange(start, stop) for start, stop in stretch])
    bounds: list[int] = []
    first = 0
    for start, stop in stretch:
        bounds += [first + k for k in range(0, stop - start, unit)]
        first += stop - start
    return rows, np.array([*bounds, first], np.int64)
