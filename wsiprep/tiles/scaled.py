"""Tiles shrunk inside the JPEG decoder, as if the level were stored smaller.

libjpeg can decode at 1/2, 1/4 and 1/8 of a side by a smaller inverse DCT: less work than decoding
and averaging, and not the same pixels. Where patches are shrunk by just such a factor, they are cut
from such tiles.

Source: libjpeg (`scale_num`, `scale_denom`).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import ShrinkingSlide, Slide
from wsiprep.core.types import PatchGrid, Size, Tiling

__all__ = ["Scaled", "level_corners", "why_not_scaled"]

FACTORS = (2, 4, 8)


def level_corners(
    grid: PatchGrid, downsample: float, rows: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.int64]:
    """Corners of patches, int64 (N, 2) as x, y in pixels of their level, as `Slide.read` rounds."""
    return np.rint(grid.origin0_px[rows] / downsample).astype(np.int64)


def why_not_scaled(slide: Slide, grid: PatchGrid) -> str | None:
    """Why the patches of a slide cannot be cut from scaled tiles; None where they can.

    It depends on the slide and the grid alone.
    """
    plan = grid.plan
    factor, rest = divmod(plan.read_px, plan.patch_px)
    if rest or factor not in FACTORS:
        return "its patches are not shrunk by 2, 4 or 8"
    if not isinstance(slide, ShrinkingSlide) or not slide.shrinks(plan.level):
        return (
            f"level {plan.level} is not stored as JPEG tiles that reader '{slide.info.reader}' "
            "decodes itself"
        )
    tile = slide.tiling(plan.level).tile
    if tile.width % factor or tile.height % factor:
        return f"its tiles of {tile.width} x {tile.height} px do not divide by {factor}"
    if (level_corners(grid, slide.info.downsamples[plan.level]) % factor).any():
        return f"its patches do not begin at multiples of {factor} px"
    return None


class Scaled:
    """The part of `core.contracts.TiledSlide` that patches are made from, at a smaller scale.

    Args:
        slide: One that `why_not_scaled` has no objection to.
        factor: 2, 4 or 8.
    """

    def __init__(self, slide: Slide, factor: int) -> None:
        self._slide, self._factor = cast("ShrinkingSlide", slide), factor

    def size(self, level: int) -> Size:
        """Size of a level: a last row or column that is not whole is left out."""
        whole = self._slide.info.level_sizes[level]
        return Size(whole.width // self._factor, whole.height // self._factor)

    def tiling(self, level: int) -> Tiling:
        """The level's tiles, smaller."""
        whole = self._slide.tiling(level)
        side = Size(whole.tile.width // self._factor, whole.tile.height // self._factor)
        return Tiling(side, whole.shape)

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """Compressed bytes of a tile."""
        return self._slide.fetch_tile(level, tile)

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile at the smaller scale."""
        self._slide.decode_shrunk(level, tile, data, out)
