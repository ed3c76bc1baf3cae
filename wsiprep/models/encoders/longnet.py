"""LongNet on patches in the order of reading, with sine-cosine positions (GigaPath, WSI-LLaVA).

A class token and the patches of a bag, row by row and slide by slide, go through a pre-LN
transformer with dilated attention (`_dilated`) and sub-LN. A patch's position is its row and
column in the lattice of its slide. The slide is the mean over patches; the class token of the
published weights is untrained. Sources: LongNet, arXiv 2307.02486; Prov-GigaPath, Xu et al. 2024;
WSI-LLaVA, arXiv 2412.02141; sub-LN, arXiv 2210.06423.

Order and place matter: the order is that of `_parts.raster_order`, whatever the store's. A bag
without patches gives the bias of the last LayerNorm, and has no region and no token.

Not as published: positions are computed, so there is no table of 1,000 x 1,000 and no end to the
lattice; a region is the mean of its patches (the published models have none); weights of keys and
values that fill up segments are masked unless `pad_mode` is `reference`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.models.attention import FeedForward
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._dilated import DilatedAttention, Dilation, PadMode
from wsiprep.models.encoders._parts import StochasticDepth, check_width, raster_order
from wsiprep.models.ragged import by_chunks, recomputed, segment_mean

__all__ = ["Config", "LongNetEncoder", "create", "sine_cosine"]

KEPT_ROWS = 4096
"""From so many rows on, the inside of a layer is made again in the backward pass, not kept."""


class Config(Settings):
    """Sizes; the defaults are those of GigaPath's slide encoder."""

    dim: int = Field(default=768, ge=4, multiple_of=4)
    """Width of everything."""
    layers: int = Field(default=12, ge=1)
    """Number of layers."""
    heads: int = Field(default=16, ge=1)
    """Heads of every attention."""
    hidden: int = Field(default=3072, ge=1)
    """Width inside feed-forward layers."""
    segments: tuple[int, ...] = (1024, 5792, 32768, 185363, 1048576)
    """Segment lengths."""
    ratios: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Dilations, one for each segment length."""
    pad_mode: PadMode = "masked"
    """`reference` for published weights, which felt the zeros that fill up segments; `masked` for
    weights of one's own."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Of rows."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Chance that a bag skips a branch of the last layer; earlier layers have less."""
    pool: Literal["mean", "cls"] = "mean"
    """What the slide is; `cls` only for weights whose class token was trained."""
    tokens: int | None = Field(default=576, ge=1)
    """Tokens of a bag, each the mean of a run of patches (few patches are repeated); null gives
    all patches."""

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        if not self.segments or len(self.segments) != len(self.ratios):
            raise ValueError("segments and ratios come in pairs, one or more")
        if min(*self.segments, *self.ratios) < 1:
            raise ValueError("segments and ratios are 1 or more")
        return self


def create(cfg: Config, input_dim: int) -> LongNetEncoder:
    """Make the encoder with fresh weights from PyTorch's global random numbers."""
    return LongNetEncoder(cfg, input_dim)


def sine_cosine(cell: Tensor, dim: int) -> Tensor:
    """Position vectors: half of the channels from the row, half from the column.

    Within a half, sines and then cosines of the place times 10000^(-k / (dim / 4)). Equal to the
    rows of the 2-D table of MAE (arXiv 2111.06377) as GigaPath reads it, at x * side + y.

    Args:
        cell: int64 (T, 2), row and column.
        dim: A multiple of 4.

    Returns:
        float32 (T, dim).
    """
    quarter = dim // 4
    step = torch.arange(quarter, dtype=torch.float64, device=cell.device)
    rate = torch.exp(step * (-math.log(10_000.0) / quarter))
    angle = cell.to(torch.float64)[:, :, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1).float()


class _Layer(nn.Module):
    def __init__(self, cfg: Config, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(cfg.dim)
        self.attention = DilatedAttention(cfg.dim, cfg.heads)
        self.ffn_norm = nn.LayerNorm(cfg.dim)
        self.ffn = FeedForward(cfg.dim, cfg.hidden, inner_norm=True)
        self.dropout = nn.Dropout(cfg.dropout)
        self.skip = StochasticDepth(drop_path)

    def forward(self, x: Tensor, dilations: list[Dilation], bag: Tensor, bags: int) -> Tensor:
        x = x + self.skip(self.dropout(self.attention(self.norm(x), dilations)), bag, bags)
        out: Tensor = x + self.skip(self.dropout(self.ffn(self.ffn_norm(x))), bag, bags)
        return out


class LongNetEncoder(nn.Module):
    """See the module."""

    def __init__(self, cfg: Config, input_dim: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.dim = cfg, input_dim, cfg.dim
        self.adapter = nn.Linear(input_dim, cfg.dim)
        self.cls = nn.Parameter(torch.randn(1, cfg.dim) * 0.02)
        self.dropout = nn.Dropout(cfg.dropout)
        rates = torch.linspace(0, cfg.drop_path, cfg.layers).tolist()
        self.layers = nn.ModuleList(_Layer(cfg, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(cfg.dim)
        self.pool_norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        self._scale_branches()

    def _scale_branches(self) -> None:
        """Sub-LN's start: what feeds the sums is larger the more layers there are."""
        gain = math.sqrt(math.log(2 * self.cfg.layers))
        with torch.no_grad():
            for layer in self.layers:
                if isinstance(layer, _Layer):
                    inner = (layer.attention.value, layer.attention.out)
                    for linear in (*inner, layer.ffn.up, layer.ffn.down):
                        linear.weight.mul_(gain)

    def forward(self, bags: PackedBags) -> SlideOut:
        """Vectors, and tokens in the order of reading; no attention.

        `patch` is what a region of that patch alone is.
        """
        check_width(bags, self.input_dim)
        order = raster_order(bags)
        x = self.adapter(bags.features)
        x = (x + sine_cosine(bags.cell, self.dim).to(x.dtype))[order]
        count, device = len(bags), x.device
        starts = bags.starts + torch.arange(count + 1, device=device)
        patch = torch.arange(len(x), device=device) + bags.bag + 1
        place = torch.cat([starts[:-1], patch])
        rows = torch.cat([self.cls.expand(count, -1).to(x.dtype), x])[place.argsort()]
        owner = torch.cat([torch.arange(count, device=device), bags.bag])[place.argsort()]
        dilations = [
            Dilation(starts, segment, ratio, self.cfg.heads, self.cfg.pad_mode)
            for segment, ratio in zip(self.cfg.segments, self.cfg.ratios, strict=True)
        ]
        rows = self.dropout(rows)
        for layer in self.layers:

            def run(rows: Tensor, layer: nn.Module = layer) -> Tensor:
                out: Tensor = layer(rows, dilations, owner, count)
                return out

            rows = recomputed(run, rows, when=len(rows) > KEPT_ROWS)
        rows = self.last_norm(rows)
        patches = rows[patch]
        back = patches[order.argsort()]
        pooled = segment_mean(patches, bags.starts)
        if self.cfg.pool == "cls":
            pooled = rows[starts[:-1]]
        tokens, token_starts = self._tokens(patches, bags.starts)
        return SlideOut(
            slide=self.pool_norm(pooled),
            region=self.pool_norm(segment_mean(back, bags.region_starts)),
            tokens=tokens,
            token_starts=token_starts,
            patch=by_chunks(self.pool_norm, back),
        )

    def _tokens(self, patches: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        count = self.cfg.tokens
        if count is None:
            return patches, starts
        parts = [patches[:0]]
        many = [0]
        for a, b in pairwise(starts.tolist()):
            if b > a:
                parts.append(F.adaptive_avg_pool1d(patches[a:b].T[None], count)[0].T)
            many.append(count if b > a else 0)
        return torch.cat(parts), torch.tensor(many, device=starts.device).cumsum(0)
