"""Prompts for a promptable network, from the masks of a classical segmenter.

Points lie where they are least in doubt: at maxima of the distance transform, in the middle of
pieces and far from their rims. The same masks give the same points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.tissue.regions import label

__all__ = ["Prompts", "inner_points", "make_prompts"]

Mask = NDArray[np.bool_]

PIECE_SHARE = 0.15
"""A piece gets a point if the largest disc inside it has this share of the radius of the largest
of all: specks at coverslip edges and holes of fat are the classical segmenter's least sure."""
REPEAT_SHARE = 0.3
"""Pieces get more points while a disc of this share of the largest still fits beside others."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a network is told of an image.

    Attributes:
        box: float32 (4,), left, top, right, bottom of a box along borders of pixels: the whole
            of an image of w x h is 0, 0, w, h. None for no box.
        points: float32 (n, 2), x and y of pixels: the first pixel is 0, 0.
        labels: int32 (n,), 1 where a point is on tissue, 0 where it is not.
    """

    box: NDArray[np.float32] | None
    points: NDArray[np.float32]
    labels: NDArray[np.int32]

    @property
    def empty(self) -> bool:
        """Whether nothing is said at all."""
        return self.box is None and not len(self.points)


def make_prompts(tissue: Mask, pen: Mask, *, box: bool, points: int) -> Prompts:
    """A box around the image, points on tissue, and as many again on what is not tissue.

    Half of the points off tissue, rounded up, are for ink if there is any, the others for glass.

    Args:
        tissue: bool (h, w).
        pen: bool (h, w), ink.
        box: Whether to give the box.
        points: Most points on tissue, and most points off it.
    """
    h, w = tissue.shape
    on = inner_points(tissue & ~pen, points)
    ink = inner_points(pen & ~tissue, (points + 1) // 2)
    glass = inner_points(~(tissue | pen), points - len(ink))
    off = np.concatenate([ink, glass])
    return Prompts(
        np.array([0, 0, w, h], dtype=np.float32) if box else None,
        np.concatenate([on, off]),
        np.repeat(np.array([1, 0], dtype=np.int32), [len(on), len(off)]),
    )


def inner_points(mask: Mask, count: int) -> NDArray[np.float32]:
    """Pixels deep inside a mask.

    The first are the deepest pixel of every 8-connected piece but the smallest, the widest piece
    first. Then the deepest pixels that lie in none of the largest discs around earlier ones
    follow, while they are deep enough. Equals are taken from top to bottom and from
    left to right. Image borders bound a piece as its rim does.

    Args:
        mask: bool (h, w).
        count: Most points.

    Returns:
        float32 (n, 2), x and y, n <= count.
    """
    if count <= 0 or not mask.any():
        return np.empty((0, 2), dtype=np.float32)
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = np.asarray(
        cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1],
        dtype=np.float32,
    )
    rows, cols = np.nonzero(mask)
    order = np.argsort(-depth[rows, cols], kind="stable")
    rows, cols = rows[order], cols[order]
    _, labels = label(mask)
    _, first = np.unique(labels[rows, cols], return_index=True)
    deepest = float(depth[rows[0], cols[0]])
    chosen = [i for i in np.sort(first) if depth[rows[i], cols[i]] >= PIECE_SHARE * deepest]
    points = [(int(cols[i]), int(rows[i])) for i in chosen[:count]]
    left = depth.copy()
    for x, y in points:
        _take_disc(left, x, y, float(depth[y, x]))
    while len(points) < count:
        y, x = divmod(int(np.argmax(left)), left.shape[1])
        if left[y, x] < REPEAT_SHARE * deepest:
            break
        points.append((x, y))
        _take_disc(left, x, y, float(depth[y, x]))
    return np.array(points, dtype=np.float32)


def _take_disc(left: NDArray[np.float32], x: int, y: int, radius: float) -> None:
    """Set a disc to 0, in place."""
    reach = int(radius) + 1
    top, start = max(0, y - reach), max(0, x - reach)
    part = left[top : y + reach + 1, start : x + reach + 1]
    rows = np.arange(part.shape[0])[:, None] + (top - y)
    cols = np.arange(part.shape[1])[None, :] + (start - x)
    part[rows**2 + cols**2 <= radius**2] = 0
