"""Area averaging of patches where they are, on any device: the rule of `patch.py` as a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["area_taps", "shrink"]


def area_taps(read_px: int, patch_px: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which pixels of a line each pixel of the shrunk line covers, and how much of each.

    Returns:
        int64 (taps, patch_px), pixels; float32 (taps, patch_px), the covered lengths, 0 to 1, of
        which each column adds up to read_px / patch_px.
    """
    # In units of 1 / patch_px all borders are whole numbers: nothing is rounded.
    start = np.arange(patch_px, dtype=np.int64) * read_px
    first, last = start // patch_px, (start + read_px - 1) // patch_px
    taps = first + np.arange(int((last - first).max()) + 1)[:, None]
    low = np.maximum(taps * patch_px, start)
    high = np.minimum((taps + 1) * patch_px, start + read_px)
    covered = np.maximum(high - low, 0) / patch_px
    return np.minimum(taps, read_px - 1), covered.astype(np.float32)


def shrink(pixels: Tensor, patch_px: int) -> Tensor:
    """Shrink patches by area, in float32.

    Weighted sums of a few lines, first down, then across: the product with a sparse matrix, which
    no device computes in fewer digits than float32 has, as it might a product of full ones.

    Args:
        pixels: uint8 (B, R, R, 3).
        patch_px: Side of the result, at most R.

    Returns:
        uint8 (B, patch_px, patch_px, 3) on the same device.
    """
    import torch

    read_px = pixels.shape[1]
    taps, covered = area_taps(read_px, patch_px)
    index = torch.from_numpy(taps).to(pixels.device)
    weight = torch.from_numpy(covered).to(pixels.device)

    def reduced(values: Tensor, axis: int) -> Tensor:
        shape = list(values.shape)
        shape[axis] = patch_px
        total = torch.zeros(shape, dtype=torch.float32, device=values.device)
        along = [patch_px if k == axis else 1 for k in range(4)]
        for line, part in zip(index, weight, strict=True):
            total.addcmul_(values.index_select(axis, line).float(), part.view(along))
        return total

    means: Tensor = reduced(reduced(pixels, 1), 2).mul_((patch_px / read_px) ** 2)
    if read_px == 2 * patch_px:  # means of four: OpenCV rounds halves up, at others to even
        means.add_(0.125)  # means are whole quarters: only halves go another way by it
    return means.round_().clamp_(0, 255).to(torch.uint8)
