"""Where in a slide is what a text says? A score for each patch.

attention  how the text spreads over the patches; where the encoder has no vectors of patches, over
           the regions, times how the encoder spreads within each (PathFLIP)
cosine     of the text with what it would pool of each patch alone, or of the patch's region where
           the encoder has no vectors of patches
occlusion  how much less the slide fits the text without the region of the patch: slow, and faithful
           to what the model does
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from wsiprep.core.errors import ConfigError
from wsiprep.models.bags import Bag, PackedBags, SlideOut, pack
from wsiprep.models.encoders.qformer import QFormerEncoder
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.scale import cosines
from wsiprep.models.objectives.top_k import SoftTopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsiprep.models.aligned import Aligned

__all__ = ["GroundMethod", "ground"]

GroundMethod = Literal["attention", "cosine", "occlusion"]
OCCLUDED_AT_ONCE = 4
"""Bags without a region that are encoded together."""


@torch.no_grad()
def ground(model: Aligned, bags: PackedBags, texts: Sequence[str], method: GroundMethod) -> Tensor:
    """Raw scores float32 (P, T) of the patches of one bag for P texts; higher fits better.

    Raises:
        ConfigError: the model has nothing that the method needs.
        ValueError: more than one bag.
    """
    if len(bags) != 1:
        raise ValueError(f"grounding is of one slide or case at a time, not {len(bags)}")
    text: Tensor = model.texts(texts)
    if not bags.features.shape[0]:
        return text.new_zeros(len(texts), 0, dtype=torch.float32)
    if method == "occlusion":
        return _occlusion(model, bags, text)
    out = model.slides(bags)
    if method == "cosine":
        return _cosine(model, out, bags, text)
    return _attention(model, out, bags, text)


def _cosine(model: Aligned, out: SlideOut, bags: PackedBags, text: Tensor) -> Tensor:
    head = _region_head(model)
    local = out.region if out.patch is None else out.patch
    if local is None:
        raise ConfigError(
            "the slide encoder has vectors neither of patches nor of regions.",
            hint="Use the method occlusion.",
        )
    # The loss of regions compares texts with what they pool, not with regions as they are.
    found = cosines(text, head.pool.alone(local) if isinstance(head, RegionSigmoid) else local)
    return found if out.patch is not None else found[:, bags.region]


def _attention(model: Aligned, out: SlideOut, bags: PackedBags, text: Tensor) -> Tensor:
    head = _region_head(model)
    if isinstance(head, SoftTopK) and out.patch is not None:
        return (cosines(text, out.patch) / head.temperature).softmax(dim=1)
    local = out.region if out.patch is None else out.patch
    if not isinstance(head, RegionSigmoid) or local is None:
        raise ConfigError(
            "this model was trained without a loss of regions: texts have no attention to them.",
            hint="Use the method cosine or occlusion.",
        )
    mask = torch.ones(1, len(local), dtype=torch.bool, device=text.device)
    weights: Tensor = head.pool(text[None], local[None], mask)[1][0].float()
    if out.patch is not None:
        return weights
    return weights[:, bags.region] * _within(model, out, bags)


def _region_head(model: Aligned) -> nn.Module | None:
    return dict(model.heads.items()).get("region")


def _within(model: Aligned, out: SlideOut, bags: PackedBags) -> Tensor:
    """How the encoder spreads over each region's patches: float32 (T,), sums to 1 over a region."""
    encoder = model.slides.encoder
    if isinstance(encoder, QFormerEncoder):
        return encoder.region_attention(bags).float()
    counts = (bags.region_starts[1:] - bags.region_starts[:-1]).float()
    if out.attention is None:
        return (1 / counts)[bags.region]
    share = out.attention.float()
    whole = torch.zeros_like(counts).index_add_(0, bags.region, share)
    return share / whole.clamp(min=torch.finfo(torch.float32).tiny)[bags.region]


def _occlusion(model: Aligned, bags: PackedBags, text: Tensor) -> Tensor:
    whole = cosines(text, model.slides(bags).slide)[:, 0]
    bag = Bag(bags.features, bags.cell, bags.slide)
    drops: list[Tensor] = []
    regions = torch.arange(len(bags.region_bag), device=text.device)
    for group in torch.split(regions, OCCLUDED_AT_ONCE):
        kept = [bag.take((bags.region != region).nonzero()[:, 0]) for region in group]
        packed = _packed_on(kept, bags.features.device)
        drops.append(whole[:, None] - cosines(text, model.slides(packed).slide))
    return torch.cat(drops, dim=1)[:, bags.region]


def _packed_on(bags: Sequence[Bag], device: torch.device) -> PackedBags:
    home = [Bag(bag.features.cpu(), bag.cell.cpu(), bag.slide.cpu()) for bag in bags]
    return pack(home).to(device)
