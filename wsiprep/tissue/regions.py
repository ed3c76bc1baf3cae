"""Shapes on masks: discs and connected pieces, sized in mask pixels, without Python loops.

Discs are exact to a fraction of a pixel, because they come from distance transforms and not from
pixel kernels: a radius given in µm means the same at every resolution, and the cost does not grow
with it. Pieces are 8-connected; holes, their complement, are 4-connected.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "area_at_least",
    "close",
    "dilate",
    "erode",
    "fill_holes",
    "label",
    "pieces_with",
]

Mask = NDArray[np.bool_]


def dilate(mask: Mask, radius_px: float) -> Mask:
    """Pixels whose centre lies within `radius_px` of the centre of a pixel of the mask."""
    if radius_px < 1 or not mask.any():
        return mask.copy()
    return np.asarray(_distance(~mask) <= radius_px)


def erode(mask: Mask, radius_px: float) -> Mask:
    """Pixels farther than `radius_px` from the mask's complement; image borders do not erode."""
    if radius_px < 1 or mask.all():
        return mask.copy()
    return np.asarray(_distance(mask) > radius_px)


def close(mask: Mask, radius_px: float) -> Mask:
    """Fill gaps and lacunae that a disc of `radius_px` does not fit into."""
    return erode(dilate(mask, radius_px), radius_px) | mask


def label(mask: Mask, connectivity: int = 8) -> tuple[int, NDArray[np.int32]]:
    """Number the connected pieces.

    Args:
        mask: bool (h, w).
        connectivity: 8 or 4.

    Returns:
        Number of labels (0 is the background and counts), and int32 (h, w) labels.
    """
    count, labels = cv2.connectedComponents(
        mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    return int(count), np.asarray(labels, dtype=np.int32)


def _areas(mask: Mask, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """As `label`: int32 (h, w) labels, and int32 (labels,) pixels of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    return np.asarray(labels, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


def pieces_with(mask: Mask, seed: Mask) -> Mask:
    """The connected pieces of `mask` that hold a pixel of `seed` (hysteresis)."""
    count, labels = label(mask)
    keep = np.zeros(count, dtype=np.bool_)
    keep[labels[seed & mask]] = True
    keep[0] = False
    return np.asarray(keep[labels])


def area_at_least(mask: Mask, pixels: float, connectivity: int = 8) -> Mask:
    """The connected pieces of at least `pixels` pixels."""
    if pixels <= 1:
        return mask.copy()
    labels, areas = _areas(mask, connectivity)
    keep = areas >= pixels
    keep[0] = False
    return np.asarray(keep[labels])


def fill_holes(mask: Mask, below_px: float | None) -> Mask:
    """Fill holes: background that does not reach the image border.

    Args:
        mask: bool (h, w).
        below_px: Fill only holes of fewer pixels than this; None fills all.
    """
    # A margin joins all background that touches a border, whichever side it touches.
    outside = np.pad(~mask, 1, constant_values=True)
    if below_px is None:
        count, labels = label(outside, connectivity=4)
        hole = np.ones(count, dtype=np.bool_)
    else:
        labels, areas = _areas(outside, connectivity=4)
        hole = areas < below_px
    hole[labels[0, 0]] = False
    hole[0] = False
    return np.asarray(mask | hole[labels][1:-1, 1:-1])


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Euclidean distance of every True pixel to the nearest False pixel."""
    return np.asarray(
        cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    )
