"""A whole pyramid level averaged down to a small picture, in memory that the level cannot raise."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Box, Size

__all__ = ["BLOCK_PX", "area_average"]

BLOCK_PX = 2048
"""Side of the blocks in which a level is read."""


def area_average(
    read: Callable[[Box], NDArray[np.uint8]],
    level_size: Size,
    size: Size,
    *,
    tile: Size | None = None,
    threads: int = 1,
    extent: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Mean colour of the area under each pixel of a smaller picture.

    Each axis is first reduced by the whole number `k = level // (2 * size)` (at least 1, at most
    the side of a block) while it is read, block by block; blocks begin at multiples of k, so that
    no average spans two of them and the result has no seams. What remains is one area resize. The
    result is the exact mean where the factor is below 4 or a multiple of k; else a pixel that
    covers part of a k x k cell takes that share of the cell's mean, which moves its borders by
    less than a quarter of its side.

    Memory: one block a thread (12 MiB as RGB, several times that inside the reader) and an
    intermediate of four to sixteen times the result (about four for factors above 10), whatever
    the size of the level.

    Args:
        read: Returns uint8 (height, width, 3) of a box inside the level.
        level_size: Size of the level in pixels.
        size: Size of the result, at most that of the level along each axis.
        tile: Size of the stored tiles; blocks are made of whole ones where that fits.
        extent: (width, height) of the picture in pixels of the level, which need not be whole;
            the last row and column of pixels may lie partly outside. None: all of the level.
        threads: Blocks read at a time; `read` is called from several threads if above 1.

    Returns:
        uint8 (size.height, size.width, 3).
    """
    kx = min(BLOCK_PX, max(1, level_size.width // (2 * size.width)))
    ky = min(BLOCK_PX, max(1, level_size.height // (2 * size.height)))
    reduced = np.empty((-(-level_size.height // ky), -(-level_size.width // kx), 3), np.uint8)

    def average(box: Box) -> None:
        block = _reduce(read(box), kx, ky)
        row, col = box.y // ky, box.x // kx
        reduced[row : row + block.shape[0], col : col + block.shape[1]] = block

    boxes = [
        Box(x, y, width, height)
        for y, height in _blocks(level_size.height, ky, 1 if tile is None else tile.height)
        for x, width in _blocks(level_size.width, kx, 1 if tile is None else tile.width)
    ]
    if threads == 1 or len(boxes) == 1:
        for box in boxes:
            average(box)
    else:
        pool = ThreadPoolExecutor(min(threads, len(boxes)), "wsiprep-thumbnail")
        try:
            for _ in pool.map(average, boxes):
                pass
        finally:  # an error, or a stop that was asked for
            pool.shutdown(cancel_futures=True)
    # A last cell narrower than k would count as a whole one if OpenCV were given the target size;
    # given the scale, it covers just its share.
    width, height = extent or (level_size.width, level_size.height)
    fx, fy = size.width * kx / width, size.height * ky / height
    if fx == 1 and fy == 1:
        return reduced
    scaled = cv2.resize(reduced, None, fx=fx, fy=fy, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(scaled[: size.height, : size.width], dtype=np.uint8)


def _blocks(length: int, k: int, tile: int) -> list[tuple[int, int]]:
    """(start, length) of blocks that are multiples of k, and of tiles if they can, but the last."""
    unit = math.lcm(k, tile)
    unit = unit if unit <= BLOCK_PX else k
    step = BLOCK_PX // unit * unit
    return [(start, min(step, length - start)) for start in range(0, length, step)]


def _reduce(block: NDArray[np.uint8], kx: int, ky: int) -> NDArray[np.uint8]:
    """Means of ky x kx pixels; a remainder at the right or lower edge becomes its own cell."""
    if kx == 1 and ky == 1:
        return block
    height, width = block.shape[:2]
    out = np.empty((-(-height // ky), -(-width // kx), 3), np.uint8)
    for (y0, y1, row, rows), (x0, x1, col, cols) in product(_split(height, ky), _split(width, kx)):
        part = np.ascontiguousarray(block[y0:y1, x0:x1])
        mean = cv2.resize(part, (cols, rows), interpolation=cv2.INTER_AREA)
        out[row : row + rows, col : col + cols] = mean
    return out


def _split(length: int, k: int) -> list[tuple[int, int, int, int]]:
    """(start, end, first cell, cells) of the whole cells, and of the remainder if there is one."""
    whole = length // k
    parts = [(0, whole * k, 0, whole)] if whole else []
    return parts + ([(whole * k, length, whole, 1)] if length % k else [])
