"""Regions of a slide that is painted in square blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Box, Size

__all__ = ["BLOCK_PX", "from_blocks"]

BLOCK_PX = 1024
"""Side of a block in level-0 pixels."""


def from_blocks(
    box: Box, size: Size, block: Callable[[int, int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Pixels of a region, put together from the blocks that it touches.

    Args:
        box: Region in level-0 pixels; outside the slide it is white.
        size: Level-0 size of the slide.
        block: Gives uint8 (BLOCK_PX, BLOCK_PX, 3) of the block in a column and row.

    Returns:
        uint8 (box.height, box.width, 3), RGB.
    """
    out = np.full((box.height, box.width, 3), 255, np.uint8)
    left, top = max(0, box.x), max(0, box.y)
    right = min(size.width, box.x + box.width)
    bottom = min(size.height, box.y + box.height)
    for row in range(top // BLOCK_PX, -(-bottom // BLOCK_PX) if bottom > top else 0):
        for col in range(left // BLOCK_PX, -(-right // BLOCK_PX) if right > left else 0):
            bx, by = col * BLOCK_PX, row * BLOCK_PX
            x0, y0 = max(left, bx), max(top, by)
            x1, y1 = min(right, bx + BLOCK_PX), min(bottom, by + BLOCK_PX)
            out[y0 - box.y : y1 - box.y, x0 - box.x : x1 - box.x] = block(col, row)[
                y0 - by : y1 - by, x0 - bx : x1 - bx
            ]
    return out
