"""Cleaning a tissue mask: outlines smoothed, sizes in mm², holes kept or filled."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.tissue.regions import area_at_least, fill_holes

__all__ = ["clean_tissue", "smooth_outline"]


def clean_tissue(
    tissue: NDArray[np.bool_],
    mpp: tuple[float, float],
    *,
    min_area_mm2: float,
    holes: Literal["keep", "remove"],
    min_hole_mm2: float,
    exclude: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Fill holes, then drop small pieces.

    Pieces are 8-connected. A hole is background that does not reach the border of the image; what
    is excluded stays out of the tissue even where a hole around it is filled.

    Args:
        tissue: bool (h, w); not changed.
        mpp: µm per mask pixel along x and y.
        min_area_mm2: Smallest piece kept, in mm², holes filled but excluded pixels not counted.
        holes: `remove` fills every hole; `keep` only those below `min_hole_mm2`.
        min_hole_mm2: Holes smaller than this, in mm², are always filled.
        exclude: bool (h, w), never tissue (ink, edges).

    Returns:
        bool (h, w).
    """
    pixel_mm2 = mpp[0] * mpp[1] / 1e6
    filled = fill_holes(tissue, None if holes == "remove" else min_hole_mm2 / pixel_mm2)
    if exclude is not None:
        filled &= ~exclude
    # The quotient of two exact areas may land a hair above a whole number.
    return area_at_least(filled, min_area_mm2 / pixel_mm2 * (1 - 1e-9))


def smooth_outline(
    tissue: NDArray[np.bool_], mpp: tuple[float, float], sigma_um: float
) -> NDArray[np.bool_]:
    """Blur the mask with a Gaussian and cut it at one half.

    Straight outlines stay where they are; ripples, spikes and bays narrower than about sigma go,
    and so do pieces and holes with a radius below 1.2 sigma.

    Args:
        tissue: bool (h, w); not changed.
        mpp: µm per mask pixel along x and y.
        sigma_um: Standard deviation in µm; 0 gives a copy.
    """
    if sigma_um <= 0 or not tissue.any():
        return tissue.copy()
    blurred = cv2.GaussianBlur(
        tissue.astype(np.float32),
        (0, 0),
        sigmaX=sigma_um / mpp[0],
        sigmaY=sigma_um / mpp[1],
        borderType=cv2.BORDER_REPLICATE,
    )
    return np.asarray(blurred > 0.5)
