"""A predicted mask against a reference, drawn on the picture: where they agree and where not."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.views.contact_sheet import fit_picture

__all__ = ["KEPT_RGB", "LEGEND", "LOST_RGB", "SHARED_RGB", "draw_agreement"]

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

# Told apart by people who are colour-blind, and from haematoxylin and eosin.
SHARED_RGB: Final[Colour] = (0, 158, 115)
LOST_RGB: Final[Colour] = (0, 60, 220)
KEPT_RGB: Final[Colour] = (240, 140, 0)
SHARED_TINT: Final = 0.30
WRONG_TINT: Final = 0.65
GREY: Final = 0.7
"""How far the picture is faded to grey, so that the tints are the only colours."""

LEGEND: Final[tuple[tuple[str, Colour], ...]] = (
    ("agreement", SHARED_RGB),
    ("tissue lost", LOST_RGB),
    ("glass kept", KEPT_RGB),
)


def draw_agreement(
    thumbnail: Picture,
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    side_px: int = 420,
) -> Picture:
    """Tint what both mark green, what only the reference marks blue, what is too much orange.

    A thin green line follows the edge of the reference; the picture itself is faded to grey.

    Args:
        thumbnail: uint8 (h, w, 3) RGB of the whole slide; not changed.
        predicted: bool (a, b), over the same area.
        reference: bool (a, b).
        side_px: Longest side of the result; the thumbnail is not enlarged.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    picture = fit_picture(thumbnail, side_px).astype(np.float32)
    size = (picture.shape[1], picture.shape[0])
    picture += (picture.mean(axis=2, keepdims=True) - picture) * GREY
    for mask, rgb, alpha in (
        (predicted & reference, SHARED_RGB, SHARED_TINT),
        (reference & ~predicted, LOST_RGB, WRONG_TINT),
        (predicted & ~reference, KEPT_RGB, WRONG_TINT),
    ):
        # Shares of a pixel, so that thin errors stay visible as a paler line.
        share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        weight = alpha * np.asarray(share)[..., None]
        picture += (np.asarray(rgb, dtype=np.float32) - picture) * weight
    drawn = np.rint(picture).astype(np.uint8)
    grey = cv2.resize(reference.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    area = (np.asarray(grey) >= 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, SHARED_RGB, 1, cv2.LINE_AA)
    return drawn
