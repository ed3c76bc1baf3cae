"""Patches of slides as networks take them: ragged, packed one after another, never padded.

A bag is a sample: the patches of a slide, or of several slides of a case. Its patches stand slide
by slide, and within a slide in the order of the store: chunk by chunk of 16 x 16 cells, row-major,
and row-major inside a chunk. A chunk is a *region*, so regions are runs of consecutive patches,
as bags are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsiprep.core.types import CHUNK_CELLS

__all__ = ["Bag", "PackedBags", "SlideOut", "pack"]


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """Patches of one sample.

    Attributes:
        features: float (N, D).
        cell: int64 (N, 2), row and column in the lattice of the slide.
        slide: int64 (N,), number of the slide within the sample, not decreasing.
    """

    features: Tensor
    cell: Tensor
    slide: Tensor

    def __post_init__(self) -> None:
        n = len(self.features)
        if self.features.ndim != 2 or self.cell.shape != (n, 2) or self.slide.shape != (n,):
            raise ValueError("a bag is features (N, D), cell (N, 2) and slide (N,)")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Tensor) -> Bag:
        """Some of its patches; `rows` is int64 (n,), increasing."""
        if len(rows) == len(self):
            return self
        rows = rows.to(self.features.device)
        return Bag(self.features[rows], self.cell[rows], self.slide[rows])


@dataclass(frozen=True, slots=True, eq=False)
class PackedBags:
    """Bags of a batch, one after another.

    Attributes:
        features: float (T, D), patches of all bags.
        cell: int64 (T, 2), row and column.
        slide: int64 (T,), number of the slide within its bag.
        starts: int64 (B + 1,), where each bag begins; the last is T.
        region_starts: int64 (R + 1,), where each region begins; the last is T.
        region_bag: int64 (R,), the bag of each region, not decreasing.
    """

    features: Tensor
    cell: Tensor
    slide: Tensor
    starts: Tensor
    region_starts: Tensor
    region_bag: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """int64 (B,), patches of each bag."""
        return self.starts[1:] - self.starts[:-1]

    @property
    def bag(self) -> Tensor:
        """int64 (T,), the bag of each patch."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.starts.device), self.lengths
        )

    @property
    def region(self) -> Tensor:
        """int64 (T,), the region of each patch."""
        counts = self.region_starts[1:] - self.region_starts[:-1]
        return torch.repeat_interleave(torch.arange(len(counts), device=self.starts.device), counts)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> PackedBags:
        """On a device; `dtype` is that of the features."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("cell", "slide", "starts", "region_starts", "region_bag")
        }
        return replace(self, features=self.features.to(device, dtype), **moved)


@dataclass(frozen=True, slots=True, eq=False)
class SlideOut:
    """What a slide encoder makes of packed bags.

    Attributes:
        slide: float (B, d), one vector a bag.
        region: float (R, d), one vector a region of the batch, or None.
        tokens: float (M, d), what a language model is shown, bag after bag.
        token_starts: int64 (B + 1,), where the tokens of each bag begin.
        attention: float (T,), weight of each patch within its bag (they sum to 1), or None.
        patch: float (T, d), one vector a patch of the batch, in the order of the bags, in the
            space of the vectors of slides and regions; or None.
    """

    slide: Tensor
    region: Tensor | None
    tokens: Tensor
    token_starts: Tensor
    attention: Tensor | None = None
    patch: Tensor | None = None


def pack(bags: Sequence[Bag]) -> PackedBags:
    """Put bags one after another; empty ones are allowed.

    Raises:
        ValueError: no bag, bags of different widths, or patches that are not in the store's order.
    """
    if not bags:
        raise ValueError("a batch needs a bag")
    if len({bag.features.shape[1] for bag in bags}) > 1:
        raise ValueError("bags of one batch must have features of one width")
    sizes = torch.tensor([len(bag) for bag in bags])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    cell = torch.cat([bag.cell for bag in bags])
    slide = torch.cat([bag.slide for bag in bags])
    owner = torch.repeat_interleave(torch.arange(len(bags)), sizes)
    chunk = cell // CHUNK_CELLS
    key = torch.cat([owner[:, None], slide[:, None], chunk, cell], dim=1)
    _check_order(key)
    fresh = torch.ones(len(key), dtype=torch.bool)
    fresh[1:] = (key[1:, :4] != key[:-1, :4]).any(dim=1)
    first = fresh.nonzero()[:, 0]
    end = torch.tensor([len(key)])
    return PackedBags(
        features=torch.cat([bag.features for bag in bags]),
        cell=cell,
        slide=slide,
        starts=starts,
        region_starts=torch.cat([first, end]),
        region_bag=owner[first],
    )


def _check_order(key: Tensor) -> None:
    """Refuse patches out of order, or twice: compare neighbours word by word."""
    step = key[1:] - key[:-1]
    changed = step != 0
    first = changed.to(torch.int8).argmax(dim=1)
    grows = step.gather(1, first[:, None])[:, 0] > 0
    if not bool(grows.all()):
        row = int((~grows).nonzero()[0, 0]) + 1
        raise ValueError(f"patch {row} of the batch is out of the store's order, or there twice")
