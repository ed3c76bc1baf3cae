"""RMSNorm that keeps its fused kernel under autocast."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["RMSNorm"]


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` (Zhang & Sennrich 2019), its weight in the precision of what comes in.

    torch has no fused kernel for an input of 16 bits and a weight of 32, which is what autocast
    leaves it with; it warns, and takes some ten kernels instead. The mean is taken in float32
    either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimensions of `x`."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return functional.rms_norm(x, self.normalized_shape, weight, self.eps)
