"""Blocks of level 0 as if they were stored tiles, of a slide that gives no access to its own.

Overlapping patches would be read several times over; cut from blocks, every pixel is read once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.types import Point, Size, Tiling

__all__ = ["Blocks"]

BLOCK_PX = 512


class Blocks:
    """The part of `core.contracts.TiledSlide` that tiles are made from, by reading level 0.

    Only level 0 is offered: at others a reader may interpolate by a fraction of a pixel that
    depends on where a region begins, and patches would not be those of single reads.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        size0 = slide.info.size0
        tile = Size(min(BLOCK_PX, size0.width), min(BLOCK_PX, size0.height))
        self._tiling = Tiling(
            tile, (-(-size0.height // tile.height), -(-size0.width // tile.width))
        )

    def tiling(self, level: int) -> Tiling:
        """Blocks of 512 px."""
        if level != 0:
            raise ValueError("blocks are of level 0")
        return self._tiling

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """Nothing: a block is read when it is decoded."""
        return b""

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Read a block; `SlideReadError` if that fails."""
        row, col = divmod(tile, self._tiling.shape[1])
        side = self._tiling.tile
        out[...] = self._slide.read(Point(col * side.width, row * side.height), level, side)
