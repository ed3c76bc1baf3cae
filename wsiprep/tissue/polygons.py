"""Filling polygons on a pixel grid: even-odd, by pixel centres, exact and vectorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_polygon"]


def fill_polygon(mask: NDArray[np.bool_], rings: Sequence[NDArray[np.float64]]) -> None:
    """Set the pixels whose centres lie inside a polygon; others keep their value.

    Inside is decided by the even-odd rule over all rings together, so an inner ring is a hole
    whichever way it is wound. A centre exactly on a left or upper border is inside, on a right or
    lower border outside: polygons that share a border share no pixel and leave no gap.

    Args:
        mask: bool (h, w), changed in place.
        rings: float64 (n, 2) corners (x, y) in mask pixels, each closed or not; pixel (r, c) has
            its centre at (c + 0.5, r + 0.5). Parts outside the mask are clipped.
    """
    h, w = mask.shape
    tail = np.concatenate([ring for ring in rings])
    head = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    up = tail[:, 1] > head[:, 1]
    tail, head = np.where(up[:, None], head, tail), np.where(up[:, None], tail, head)

    # Rows whose centre the edge spans, half-open: y_tail <= row + 0.5 < y_head.
    first = np.clip(np.ceil(tail[:, 1] - 0.5), 0, h).astype(np.int64)
    stop = np.clip(np.ceil(head[:, 1] - 0.5), 0, h).astype(np.int64)
    spans = np.maximum(stop - first, 0)
    total = int(spans.sum())
    if total == 0:
        return
    edge = np.repeat(np.arange(len(spans)), spans)
    row = np.arange(total) - np.repeat(np.cumsum(spans) - spans, spans) + first[edge]
    slope = (head[edge, 0] - tail[edge, 0]) / (head[edge, 1] - tail[edge, 1])
    crossing = tail[edge, 0] + (row + 0.5 - tail[edge, 1]) * slope
    col = np.clip(np.ceil(crossing - 0.5), 0, w).astype(np.int64)

    # Every crossing flips all pixels to its right; work in the polygon's own box.
    r0, r1, c0, c1 = int(row.min()), int(row.max()) + 1, int(col.min()), int(col.max()) + 1
    flips = np.bincount((row - r0) * (c1 - c0) + col - c0, minlength=(r1 - r0) * (c1 - c0))
    inside = np.cumsum(flips.reshape(r1 - r0, c1 - c0), axis=1) % 2 == 1
    part = mask[r0:r1, c0 : min(c1, w)]
    part |= inside[:, : part.shape[1]]
