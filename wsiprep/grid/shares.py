"""How much of a patch a mask covers, exactly, and which tissue section it lies on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import TissueMask

__all__ = ["area_share", "main_section"]

NEGLIGIBLE = 1e-6
"""Share that may be an error of rounding: a mask pixel in the largest patch covers more."""


def area_share(
    mask: NDArray[np.bool_],
    scale0: tuple[float, float],
    origin0_px: NDArray[np.int64],
    side0_px: float,
) -> NDArray[np.float32]:
    """Share of each patch that a mask covers by area, float32 (N,), 0 to 1.

    A mask pixel is a square of constant value, so the integral image read at fractional corners by
    bilinear interpolation gives the exact area. What lies beyond the mask counts as not covered.

    Args:
        mask: bool (h, w).
        scale0: Level-0 pixels per mask pixel along x and y.
        origin0_px: int64 (N, 2), top-left corners (x, y) in level-0 pixels from the mask's own.
        side0_px: Side of the patches, level-0 pixels.
    """
    if not mask.any():
        return np.zeros(len(origin0_px), np.float32)
    integral = np.asarray(cv2.integral(mask.astype(np.uint8)), np.int32)  # (h + 1, w + 1)
    first: NDArray[np.float64] = origin0_px / np.asarray(scale0)
    last: NDArray[np.float64] = (origin0_px + side0_px) / np.asarray(scale0)
    (x0, y0), (x1, y1) = first.T, last.T
    low, high = (_at(integral, y, x1) - _at(integral, y, x0) for y in (y0, y1))
    pixels: NDArray[np.float64] = high - low
    share = pixels * (scale0[0] * scale0[1] / side0_px**2)
    return np.clip(share, 0.0, 1.0).astype(np.float32)


def main_section(
    tissue: TissueMask, origin0_px: NDArray[np.int64], side0_px: float
) -> NDArray[np.int32]:
    """The section with the largest area in each patch, int32 (N,); 0 where there is no tissue.

    Of two that cover the same area the lower number is taken. Each section is looked at in its
    own rectangle, so that many small ones cost no more than one large.

    Args:
        tissue: The tissue of a slide.
        origin0_px: int64 (N, 2), top-left corners (x, y).
        side0_px: Side of the patches, level-0 pixels.
    """
    best = np.zeros(len(origin0_px), np.int32)
    most = np.full(len(origin0_px), NEGLIGIBLE, np.float32)
    scale = np.asarray(tissue.scale0)
    for number, (r0, r1, c0, c1) in _boxes(tissue.section).items():
        corner, end = np.array([c0, r0]) * scale, np.array([c1, r1]) * scale
        near = np.flatnonzero(((origin0_px + side0_px > corner) & (origin0_px < end)).all(axis=1))
        share = area_share(
            tissue.section[r0:r1, c0:c1] == number,
            tissue.scale0,
            origin0_px[near] - corner,
            side0_px,
        )
        more = share > most[near]
        best[near[more]] = number
        most[near[more]] = share[more]
    return best


def _at(
    integral: NDArray[np.int32], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The integral image at fractional places, held beyond its borders."""
    bottom, right = integral.shape[0] - 1, integral.shape[1] - 1
    y, x = np.clip(y, 0, bottom), np.clip(x, 0, right)
    r = np.minimum(y.astype(np.int64), bottom - 1)
    c = np.minimum(x.astype(np.int64), right - 1)
    dy, dx = y - r, x - c
    upper = integral[r, c] * (1 - dx) + integral[r, c + 1] * dx
    lower = integral[r + 1, c] * (1 - dx) + integral[r + 1, c + 1] * dx
    value: NDArray[np.float64] = upper * (1 - dy) + lower * dy
    return value


def _boxes(section: NDArray[np.int32]) -> dict[int, tuple[int, int, int, int]]:
    """First and last row and column (half-open) of each section."""
    wide = np.pad(section, ((0, 0), (1, 1)))
    # Where the number changes along a row: the ends of runs say all, and are few.
    rows, cols = np.nonzero(wide[:, 1:] != wide[:, :-1])
    boxes = {}
    for number in np.flatnonzero(np.bincount(wide[rows, cols + 1], minlength=1)).tolist():
        if number == 0:
            continue
        begins, ends = wide[rows, cols + 1] == number, wide[rows, cols] == number
        own = rows[begins]
        boxes[number] = (
            int(own.min()),
            int(own.max()) + 1,
            int(cols[begins].min()),
            int(cols[ends].max()),
        )
    return boxes
