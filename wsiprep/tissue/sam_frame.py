"""The frame in which SAM sees a thumbnail: the longer side fills its square, the rest is padding.

Segmenting and tuning both use this, so that a network is tuned on what it will be asked.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["box_to_frame", "fit_to_frame", "frame_size", "points_to_frame"]


def frame_size(shape: tuple[int, ...], side_px: int) -> tuple[int, int]:
    """(height, width) of an image (h, w, ...) in the frame of `side_px`: at least 1, one is full.

    Args:
        shape: Of the image's array.
        side_px: Side of the network's square input.
    """
    h, w = shape[:2]
    scale = side_px / max(h, w)
    return max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))


def fit_to_frame(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """An image resized to its size in the frame: area-averaged, or magnified bilinearly.

    Args:
        image: uint8 (h, w) or (h, w, 3).
        side_px: Side of the network's square input.

    Returns:
        uint8 of `frame_size`; the image itself where that is its size.
    """
    height, width = frame_size(image.shape, side_px)
    if (height, width) == image.shape[:2]:
        return image
    shrink = max(image.shape[:2]) > side_px
    how = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def points_to_frame(
    points: NDArray[np.float32], shape: tuple[int, ...], side_px: int
) -> NDArray[np.float32]:
    """Pixels of an image as pixels of the frame; centres of pixels are at whole numbers in both.

    Args:
        points: float32 (n, 2), x and y.
        shape: Of the image's array.
        side_px: Side of the network's square input.
    """
    return np.asarray((points + 0.5) * _scale(shape, side_px) - 0.5, dtype=np.float32)


def box_to_frame(
    box: NDArray[np.float32], shape: tuple[int, ...], side_px: int
) -> NDArray[np.float32]:
    """A box along borders of an image's pixels as one of the frame.

    Args:
        box: float32 (4,), left, top, right, bottom.
        shape: Of the image's array.
        side_px: Side of the network's square input.
    """
    return np.asarray(box * np.tile(_scale(shape, side_px), 2), dtype=np.float32)


def _scale(shape: tuple[int, ...], side_px: int) -> NDArray[np.float32]:
    height, width = frame_size(shape, side_px)
    return np.array([width / shape[1], height / shape[0]], dtype=np.float32)
