"""Learned scales, and cosines in float32 whatever autocast says."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LogScale", "cosines", "unit"]


class LogScale(nn.Module):
    """A positive scale, exp(log_scale), as CLIP and SigLIP have it.

    It is never above `most`. There the gradient is that without the limit, so that a scale that has
    reached it can come back (a plain clamp would have none).

    Args:
        initial: First value.
        learned: Whether it is a parameter; else it stays.
        most: Highest value.
    """

    log_scale: Tensor

    def __init__(self, initial: float, *, learned: bool = True, most: float = 100.0) -> None:
        super().__init__()
        if not 0 < initial <= most:
            raise ValueError(f"a scale is above 0 and at most {most}, not {initial}")
        start = torch.tensor(math.log(initial), dtype=torch.float32)
        if learned:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)
        self.most = most

    def forward(self) -> Tensor:
        """The scale, a float32 scalar."""
        log = self.log_scale.float()
        over = (log - math.log(self.most)).clamp(min=0).detach()
        return (log - over).exp()


def unit(rows: Tensor) -> Tensor:
    """Rows (..., d) of length 1, in float32; rows of zeros stay zeros."""
    return functional.normalize(rows.float(), dim=-1)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of `a` with each of `b`, in float32.

    Args:
        a: (n, d), or (n, q, d) for q vectors a row: the highest of their cosines counts, as in
            BLIP-2 (Li et al., ICML 2023).
        b: (m, d).

    Returns:
        float32 (n, m).
    """
    with torch.autocast(a.device.type, enabled=False):
        found = unit(a) @ unit(b).transpose(-1, -2)
    return found.amax(dim=1) if a.ndim == 3 else found
