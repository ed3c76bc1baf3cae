"""What all who make patches share, and how one patch is read by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import OnBadTile, PatchGrid, Point
from wsiprep.tiles.patch import read_patch
from wsiprep.tiles.times import ReadTimes

__all__ = ["WHITE", "Handle", "Job", "Pixels", "no_tile", "read_one"]

WHITE = 255
Handle = Callable[[], Slide]
Pixels = Callable[[int], NDArray[np.uint8] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What makers of all stretches of a stream share.

    Attributes:
        grid: The patches.
        on_bad_tile: Raise where a patch cannot be read, or make it white and not ok.
        stopped: Set when nobody waits for the patches any more.
        times: Where time spent is added.
        scaled: Cut patches from tiles shrunk by the decoder; `why_not_scaled` was asked.
        at_once: Units that may be under way at a time.
        tile_bytes: Decoded tiles that may be held at a time.
    """

    grid: PatchGrid
    on_bad_tile: OnBadTile
    stopped: threading.Event
    times: ReadTimes
    scaled: bool
    at_once: int
    tile_bytes: int


def no_tile(slide: Slide, grid: PatchGrid, row: int) -> SlideReadError:
    """The error of a patch that lies wholly on tiles that the file declares absent."""
    x, y = grid.origin0_px[row].tolist()
    return SlideReadError(
        f"the file has no tile under the patch at level-0 origin ({x}, {y}): level "
        f"{grid.plan.level} is not stored there.",
        slide=slide.info.id,
        stage="tiles",
        hint="Pass --on-bad-tile mask to count such patches as invalid, or leave that area out.",
    )


def read_one(
    job: Job, slide: Slide, row: int, patch: NDArray[np.uint8], ok: NDArray[np.bool_]
) -> None:
    """Read the patch of a row of the grid; `ok` is bool (1,)."""
    x, y = job.grid.origin0_px[row]
    try:
        patch[...] = read_patch(slide, Point(int(x), int(y)), job.grid.plan)
    except SlideReadError:
        if job.on_bad_tile == "fail":
            raise
        patch[...], ok[...] = WHITE, False
