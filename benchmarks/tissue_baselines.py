"""Thresholds that other tools use, from their descriptions, as segmenters to compare with.

Sources: Otsu, IEEE Trans. SMC 1979; Lu et al., Nature Biomedical Engineering 2021 (CLAM:
saturation, median filter, threshold, closing); Pocock et al., Communications Medicine 2022
(TIAToolbox: Otsu on luminance, small regions removed, dilation).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["BASELINES"]

Mask = NDArray[np.bool_]
CLAM_MEDIAN_PX, CLAM_THRESHOLD, CLAM_CLOSE_PX = 7, 8, 4
TIA_KERNEL_UM = 32.0


def grey_otsu(thumbnail: NDArray[np.uint8], mpp: float) -> Mask:
    """Darker than Otsu's threshold."""
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(grey < level)


def clam_style(thumbnail: NDArray[np.uint8], mpp: float) -> Mask:
    """More saturated than a fixed threshold, after a median filter; closed."""
    saturation = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV)[..., 1]
    smooth = cv2.medianBlur(np.ascontiguousarray(saturation), CLAM_MEDIAN_PX)
    found = (smooth > CLAM_THRESHOLD).astype(np.uint8)
    kernel = np.ones((CLAM_CLOSE_PX, CLAM_CLOSE_PX), np.uint8)
    return np.asarray(cv2.morphologyEx(found, cv2.MORPH_CLOSE, kernel)) > 0


def tia_style(thumbnail: NDArray[np.uint8], mpp: float) -> Mask:
    """Otsu on luminance, pieces smaller than the kernel dropped, dilated by it."""
    found = grey_otsu(thumbnail, mpp).astype(np.uint8)
    side = max(1, round(TIA_KERNEL_UM / mpp))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    large = stats[:, cv2.CC_STAT_AREA] >= int(kernel.sum())
    large[0] = False
    return np.asarray(cv2.dilate(large[labels].astype(np.uint8), kernel)) > 0


BASELINES: dict[str, Callable[[NDArray[np.uint8], float], Mask]] = {
    "grey otsu": grey_otsu,
    "clam style": clam_style,
    "tia style": tia_style,
}
