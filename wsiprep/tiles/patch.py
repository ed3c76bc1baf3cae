"""One patch, and the resampling rule.

A patch whose `read_px` is larger than its `patch_px` is shrunk by area (OpenCV's INTER_AREA: the
mean over the pixels, or parts of pixels, that a patch pixel covers; exact but for rounding); one
that is smaller is magnified by bicubic interpolation.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.types import Point, ReadPlan, Size

__all__ = ["read_patch", "resample"]


def read_patch(slide: Slide, origin0: Point, plan: ReadPlan) -> NDArray[np.uint8]:
    """Read one patch as the plan says.

    Returns:
        uint8 (patch_px, patch_px, 3) RGB.

    Raises:
        SlideReadError: the pixels cannot be decoded.
    """
    pixels = slide.read(origin0, plan.level, Size(plan.read_px, plan.read_px))
    if plan.read_px == plan.patch_px:
        return pixels
    patch = np.empty((plan.patch_px, plan.patch_px, 3), np.uint8)
    resample(pixels, patch)
    return patch


def resample(pixels: NDArray[np.uint8], patch: NDArray[np.uint8]) -> None:
    """Resize uint8 (H, W, 3) into uint8 (h, w, 3) by the rule above; rows may lie apart."""
    height, width = patch.shape[:2]
    how = cv2.INTER_AREA if len(pixels) > height else cv2.INTER_CUBIC
    cv2.resize(pixels, (width, height), dst=patch, interpolation=how)
