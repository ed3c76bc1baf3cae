"""Gated attention pooling (ABMIL), for the slide and, with the same weights, for each region.

Source: Ilse et al. 2018, arXiv 1802.04712, equation 9: the weight of patch k is
softmax_k(w^T (tanh(V h_k) * sigmoid(U h_k))). Several heads pool on their own and are put side by
side, as in Madeleine. A region is pooled with the softmax over its own patches.

Order and place of patches do not matter. A bag without patches gives the bias of the head.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._parts import check_width, lead
from wsiprep.models.ragged import by_chunks, segment_softmax, segment_sum

__all__ = ["Config", "GatedAttentionEncoder", "create"]


class Config(Settings):
    """Sizes."""

    dim: int = Field(default=512, ge=1)
    """Width of the vectors of slides and regions, and of the patches as they are pooled."""
    gate: int = Field(default=256, ge=1)
    """Width of the gate (rows of U and V)."""
    heads: int = Field(default=1, ge=1)
    """Poolings side by side."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the patches before pooling."""
    tokens: Literal["regions", "patches"] = "regions"
    """What a language model is shown: the slide's vector and then its regions', or all patches."""


def create(cfg: Config, input_dim: int) -> GatedAttentionEncoder:
    """Make the encoder with fresh weights from PyTorch's global random numbers."""
    return GatedAttentionEncoder(cfg, input_dim)


class GatedAttentionEncoder(nn.Module):
    """See the module."""

    def __init__(self, cfg: Config, input_dim: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.dim = cfg, input_dim, cfg.dim
        self.adapter = nn.Sequential(
            nn.Linear(input_dim, cfg.dim), nn.GELU(), nn.Dropout(cfg.dropout)
        )
        self.content = nn.Linear(cfg.dim, cfg.gate * cfg.heads)
        self.gate = nn.Linear(cfg.dim, cfg.gate * cfg.heads)
        # No bias: it would add the same to all patches, which softmax takes away.
        self.score = nn.Parameter(torch.randn(cfg.heads, cfg.gate) * cfg.gate**-0.5)
        self.head = nn.Linear(cfg.dim * cfg.heads, cfg.dim)

    def forward(self, bags: PackedBags) -> SlideOut:
        """Pooled vectors; `attention` is the mean over heads, without gradient.

        `patch` is what a bag of that patch alone is; with one head, a slide is the mean of its
        patches' vectors, weighted by `attention`.
        """
        check_width(bags, self.input_dim)
        x = self.adapter(bags.features)
        scores = by_chunks(self._scores, x)
        slide, weights = self._pool(x, scores, bags.starts)
        region, _ = self._pool(x, scores, bags.region_starts)
        tokens, starts, _ = lead(slide, region, bags.region_bag)
        if self.cfg.tokens == "patches":
            tokens, starts = x, bags.starts
        patch = by_chunks(lambda part: self.head(part.repeat(1, self.cfg.heads)), x)
        return SlideOut(slide, region, tokens, starts, weights.detach().mean(1), patch)

    def _scores(self, x: Tensor) -> Tensor:
        shape = (self.cfg.heads, self.cfg.gate)
        gated = torch.tanh(self.content(x)) * torch.sigmoid(self.gate(x))
        return (torch.unflatten(gated, 1, shape) * self.score).sum(-1)

    def _pool(self, x: Tensor, scores: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        weights = segment_softmax(scores.float(), starts)
        pooled = [segment_sum(x * w[:, None].to(x.dtype), starts) for w in weights.unbind(1)]
        out: Tensor = self.head(torch.cat(pooled, dim=1))
        return out, weights
