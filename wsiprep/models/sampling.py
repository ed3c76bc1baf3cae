"""Which patches of a bag a training step sees: seeded, without replacement, in the store's order.

The draw depends on (seed, epoch, slide id) and on nothing else, so that it is the same in every
process, on every rank, and after a resume.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from wsiprep.core.config import Settings
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import Bag

__all__ = ["SHOWN_SEED", "Patches", "Sampling", "generator_for", "sample", "sample_rows"]

SHOWN_SEED: Final = 0
"""Of the draw that a trained model is shown, in evaluations as when it is asked."""


class Sampling(Settings):
    """How patches are drawn."""

    method: Literal["all", "uniform", "stratified", "regions"] = "all"
    """`all` takes every patch; `uniform` draws from all alike; `stratified` draws one of each of
    equal neighbourhoods, so that no part of the tissue is left out; `regions` draws regions, and
    patches of each."""
    patches: int = Field(default=4096, ge=1)
    """Patches drawn by `uniform` and `stratified`; a smaller bag is taken whole."""
    regions: int = Field(default=24, ge=1)
    """Most regions drawn by `regions` (PathFLIP: 24)."""
    region_patches: int = Field(default=256, ge=1)
    """Most patches of a region drawn by `regions`."""
    min_region_patches: int = Field(default=16, ge=1)
    """Regions with fewer patches are left out by `regions`, unless all have fewer."""
    max_patches: int | None = Field(default=None, ge=1)
    """Most patches of a bag whatever the method; above it, `stratified` thins them out."""


def generator_for(seed: int, epoch: int, slide_id: str) -> torch.Generator:
    """Random numbers that depend on these three alone, alike in all processes."""
    name = f"{seed}\0{epoch}\0{slide_id}".encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "little")
    return torch.Generator().manual_seed(number & (2**63 - 1))


class Patches(Protocol):
    """Patches of a sample, in the store's order: a `Bag`, or what is read when it is taken."""

    @property
    def cell(self) -> Tensor:
        """int64 (N, 2), row and column in the lattice of the slide."""
        ...

    @property
    def slide(self) -> Tensor:
        """int64 (N,), number of the slide within the sample, not decreasing."""
        ...

    def take(self, rows: Tensor) -> Bag:
        """Some of them; `rows` is int64 (n,), increasing."""
        ...


def sample(patches: Patches, cfg: Sampling, *, seed: int, epoch: int, slide_id: str) -> Bag:
    """Draw patches, by where they lie, and take them.

    Args:
        patches: May be none.
        cfg: How.
        seed: Of the run.
        epoch: So that another epoch sees other patches; keep it fixed to evaluate.
        slide_id: Of the slide or case.
    """
    generator = generator_for(seed, epoch, slide_id)
    return patches.take(sample_rows(patches.cell, patches.slide, cfg, generator))


def sample_rows(cell: Tensor, slide: Tensor, cfg: Sampling, generator: torch.Generator) -> Tensor:
    """Numbers of the patches drawn.

    Args:
        cell: int64 (N, 2), row and column, in the store's order.
        slide: int64 (N,), number of the slide.
        cfg: How.
        generator: On the CPU; its state moves on.

    Returns:
        int64 (n,) on the CPU, increasing, none twice.
    """
    cell, slide = cell.cpu(), slide.cpu()
    everything = torch.arange(len(cell))
    if cfg.method == "uniform":
        rows = _uniform(everything, cfg.patches, generator)
    elif cfg.method == "stratified":
        rows = _stratified(everything, cell, slide, cfg.patches, generator)
    elif cfg.method == "regions":
        rows = _regions(cell, slide, cfg, generator)
    else:
        rows = everything
    if cfg.max_patches is not None:
        rows = _stratified(rows, cell, slide, cfg.max_patches, generator)
    return rows


def _uniform(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= count:
        return rows
    drawn = torch.randperm(len(rows), generator=generator)[:count]
    return rows[drawn.sort().values]


def _stratified(
    rows: Tensor, cell: Tensor, slide: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Cut the patches, along a Morton curve, into `count` runs of equal size; draw one of each."""
    if len(rows) <= count:
        return rows
    along = rows[_along_curve(cell[rows], slide[rows])]
    edges = torch.arange(count + 1) * len(rows) // count
    size = edges[1:] - edges[:-1]
    # A 53-bit fraction times a size below 2**31 rounds to less than the size.
    step = (torch.rand(count, generator=generator, dtype=torch.float64) * size).long()
    return along[edges[:-1] + torch.minimum(step, size - 1)].sort().values


def _along_curve(cell: Tensor, slide: Tensor) -> Tensor:
    """Order of patches slide by slide along a Morton curve: int64 (N,)."""
    code = torch.zeros(len(cell), dtype=torch.int64)
    for bit in range(21):
        code |= ((cell[:, 1] >> bit) & 1) << (2 * bit)
        code |= ((cell[:, 0] >> bit) & 1) << (2 * bit + 1)
    order = torch.argsort(code, stable=True)
    return order[torch.argsort(slide[order], stable=True)]


def _regions(cell: Tensor, slide: Tensor, cfg: Sampling, generator: torch.Generator) -> Tensor:
    key = torch.cat([slide[:, None], cell // CHUNK_CELLS], dim=1)
    _, owner, sizes = torch.unique(key, dim=0, return_inverse=True, return_counts=True)
    large = (sizes >= cfg.min_region_patches).nonzero()[:, 0]
    if len(large) == 0:
        large = torch.arange(len(sizes))
    chosen = _uniform(large, cfg.regions, generator)
    rows = [
        _uniform((owner == region).nonzero()[:, 0], cfg.region_patches, generator)
        for region in chosen.tolist()
    ]
    if not rows:
        return torch.arange(0)
    return torch.cat(rows).sort().values
