"""Contrast of pairs by a sigmoid each.

Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023. The scale is
exp(log_scale), from 10, never above 100, and the bias from -10, both learned.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.models.objectives.gather import gather_rows, processes, row_offset, total
from wsiprep.models.objectives.scale import LogScale, cosines

__all__ = ["Reduction", "SigLIP", "siglip"]

Reduction = Literal["rows", "pairs"]
"""rows: the sum of a row's pairs, mean over rows, as in the paper. pairs: the mean over pairs."""


def siglip(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    ignore: Tensor | None = None,
    reduction: Reduction = "rows",
) -> Tensor:
    """-log sigmoid(y (scale cos + bias)) of all pairs, y = 1 for (i, i) and -1 else; a share.

    Each pair is there once, so there are no two directions to be averaged.

    Args:
        a: float (n, d), or (n, q, d) for q vectors a row, of which the best counts; n may be 0.
        b: float (n, d), the partner of each row.
        scale: Of the cosines.
        bias: Added to them.
        ignore: bool (n, N), pairs that are no negatives; see `false_negatives`.
        reduction: By what the sum is divided.

    Returns:
        A float32 scalar; with `pairs`, and scale and bias of 0, ln 2.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} rows cannot go with {len(b)}")
    every = gather_rows(b)
    logits = scale * cosines(a, every) + bias
    own = torch.arange(len(a), device=a.device)
    sign = torch.full_like(logits, -1.0)
    sign[own, own + row_offset(b)] = 1.0
    counts = torch.ones_like(logits) if ignore is None else (~ignore).to(logits.dtype)
    loss = (-functional.logsigmoid(sign * logits) * counts).sum()
    share = len(every) if reduction == "rows" else total(counts.sum())
    return loss * processes() / max(float(share), 1.0)


class SigLIP(nn.Module):
    """`siglip` with its scale and bias.

    Args:
        scale: First scale.
        bias: First bias.
        most: Highest scale.
        reduction: As of `siglip`.
    """

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        most: float = 100.0,
        reduction: Reduction = "rows",
    ) -> None:
        super().__init__()
        self.scale = LogScale(scale, most=most)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))
        self.reduction: Reduction = reduction

    def forward(self, a: Tensor, b: Tensor, *, ignore: Tensor | None = None) -> Tensor:
        """A float32 scalar; arguments as of `siglip`."""
        return siglip(a, b, self.scale(), self.bias, ignore=ignore, reduction=self.reduction)
