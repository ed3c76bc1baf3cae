"""What several slide encoders are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsiprep.models.bags import PackedBags

__all__ = ["StochasticDepth", "check_width", "lead", "raster_order", "side_by_side"]


def check_width(bags: PackedBags, input_dim: int) -> None:
    """Refuse features of another width.

    Raises:
        ValueError: names both widths.
    """
    given = bags.features.shape[1]
    if given != input_dim:
        raise ValueError(f"features are {given} wide; this slide encoder takes {input_dim}")


def lead(slide: Tensor, region: Tensor, region_bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put each bag's slide vector before its region vectors.

    Args:
        slide: float (B, d).
        region: float (R, d).
        region_bag: int64 (R,), not decreasing.

    Returns:
        float (B + R, d), bag after bag; int64 (B + 1,), where each begins; int64 (B + R,), the row
        of every slide, then of every region.
    """
    many = torch.bincount(region_bag, minlength=len(slide))
    starts = torch.zeros(len(slide) + 1, dtype=torch.int64, device=slide.device)
    starts[1:] = (many + 1).cumsum(0)
    place = torch.arange(len(region), device=slide.device) + region_bag + 1
    place = torch.cat([starts[:-1], place])
    return torch.cat([slide, region])[place.argsort()], starts, place


def raster_order(bags: PackedBags) -> Tensor:
    """Rows bag by bag and slide by slide in the order of reading, row by row: int64 (T,)."""
    order = torch.argsort(bags.cell[:, 1], stable=True)
    for key in (bags.cell[:, 0], bags.slide, bags.bag):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def side_by_side(bags: PackedBags, gap: int = 16) -> Tensor:
    """Cells with the slides of a bag laid out next to each other: int64 (T, 2).

    Distances within a slide stay; the next slide begins `gap` columns right of the one before.
    """
    cell = bags.cell.clone()
    if len(cell) == 0 or int(bags.slide.max()) == 0:
        return cell
    many = int(bags.slide.max()) + 1
    key = bags.bag * many + bags.slide
    _, run = torch.unique_consecutive(key, return_inverse=True)
    runs = int(run.max()) + 1
    column = cell[:, 1]
    blank = column.new_zeros(runs)
    left = blank.scatter_reduce(0, run, column, "amin", include_self=False)
    right = blank.scatter_reduce(0, run, column, "amax", include_self=False)
    width = right - left + 1 + gap
    before = width.cumsum(0) - width
    owner = blank.scatter_reduce(0, run, bags.bag, "amin", include_self=False)
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    base = before[first][torch.cumsum(first, 0) - 1]
    cell[:, 1] = column - left[run] + (before - base)[run]
    return cell


class StochasticDepth(nn.Module):
    """In training, leaves a branch out for whole bags, and strengthens it for the others.

    Args:
        rate: Chance of leaving out.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, bag: Tensor, bags: int) -> Tensor:
        """Rows (T, d) of bags (T,), of which there are `bags`."""
        if self.rate == 0 or not self.training:
            return x
        keep = torch.rand(bags, device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))[bag][:, None]
