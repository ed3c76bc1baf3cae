"""Vision transformer on patches with two-dimensional ALiBi (TITAN, MOOZY).

A class token, registers and the patches of a bag go through a pre-LN transformer. A score between
two patches is lowered by slope_h times their distance in cells; those with the class token or a
register are not. Sources: MOOZY; TITAN, Ding et al. 2024, arXiv 2411.19666; ALiBi, Press et al.
2022, arXiv 2108.12409 (whose slopes these are); registers, Darcet et al. 2024, arXiv 2309.16588.

Place matters, order and origin do not: moving the whole slide changes nothing. Slides of one bag
lie side by side, 16 cells apart. The cost grows with the square of the patches; scores are made
for a few queries at a time and again in the backward pass, so memory does not. A bag without
patches gives what the class token and registers say by themselves, and has no region.

Not as published: distance is Euclidean in cells of the lattice (MOOZY divides pixels by the size
of a patch, which is the same where patches do not overlap); there is no mask token, which only the
self-supervised stage needs; a region is the mean of its patches.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.models.attend import SCORES
from wsiprep.models.attention import FeedForward
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._parts import StochasticDepth, check_width, side_by_side
from wsiprep.models.ragged import Group, Plan, recomputed, segment_mean, segment_softmax

__all__ = ["AlibiAttention", "AlibiViTEncoder", "Config", "alibi_slopes", "create"]


class Config(Settings):
    """Sizes; the defaults are MOOZY's."""

    dim: int = Field(default=768, ge=1)
    """Width of everything."""
    layers: int = Field(default=6, ge=1)
    """Number of layers."""
    heads: int = Field(default=12, ge=1)
    """Heads of every attention."""
    hidden: int = Field(default=3072, ge=1)
    """Width inside feed-forward layers."""
    registers: int = Field(default=4, ge=0)
    """Learned tokens besides the class token."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of rows and attention weights."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Chance that a bag skips a branch of the last layer; earlier layers have less."""
    tokens: Literal["patches", "slide"] = "patches"
    """What a language model is shown: all patches in the store's order, or the slide's vector."""


def create(cfg: Config, input_dim: int) -> AlibiViTEncoder:
    """Make the encoder with fresh weights from PyTorch's global random numbers."""
    return AlibiViTEncoder(cfg, input_dim)


def alibi_slopes(heads: int) -> Tensor:
    """Slopes of ALiBi: float32 (heads,), a geometric row from 2^(-8 / n), n a power of two.

    Other numbers of heads take the row of the next smaller power of two, and then every second
    one of the next larger.
    """
    base = 2 ** int(math.log2(heads))
    row = [2 ** (-8 * (h + 1) / base) for h in range(base)]
    finer = [2 ** (-4 * (h + 1) / base) for h in range(0, 2 * (heads - base), 2)]
    return torch.tensor(row + finer)


class AlibiAttention(nn.Module):
    """Self-attention of packed rows with scores lowered by distance.

    Args:
        dim: Width.
        heads: Number of heads.
        dropout: Of the weights.
    """

    slopes: Tensor

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.register_buffer("slopes", alibi_slopes(heads), persistent=False)

    def forward(self, x: Tensor, plan: Plan, place: Tensor) -> Tensor:
        """Attention of each sequence on itself.

        Args:
            x: float (T, dim).
            plan: With the same starts on both sides.
            place: float32 (T, 3): row, column, and 1 for a patch or 0 for a token without place.

        Returns:
            float (T, dim).
        """
        q, k, v = (p(x).unflatten(1, (self.heads, -1)) for p in (self.query, self.key, self.value))
        padded = (plan.pad_queries(q), *(plan.pad_keys(t) for t in (k, v, place)))
        parts = [self._group(*part) for part in zip(plan.groups, *padded, strict=True)]
        out: Tensor = self.out(plan.unpad_queries(parts, q).flatten(1))
        return out

    def first_row(self, x: Tensor, plan: Plan) -> Tensor:
        """Scores of every row to the first of its sequence, which has no place: float32 (T, H)."""
        lengths = plan.query_starts[1:] - plan.query_starts[:-1]
        first = torch.repeat_interleave(plan.query_starts[:-1], lengths)
        q = self.query(x[first]).unflatten(1, (self.heads, -1))
        k = self.key(x).unflatten(1, (self.heads, -1))
        scores: Tensor = (q * k).sum(-1).float() / math.sqrt(q.shape[-1])
        return scores

    def _group(self, group: Group, q: Tensor, k: Tensor, v: Tensor, there: Tensor) -> Tensor:
        """(g, L, H, E) of one rectangle, some queries at a time."""
        queries, keys, values = (t.transpose(1, 2) for t in (q, k, v))
        count, long = queries.shape[0], queries.shape[2]
        drop = self.dropout if self.training else 0.0

        def some(queries: Tensor, keys: Tensor, values: Tensor, at: Tensor) -> Tensor:
            bias = self._bias(at, there).to(queries.dtype)
            if group.key.valid is not None:
                bias = bias.masked_fill(~group.key.valid[:, None, None, :], -math.inf)
            return F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, dropout_p=drop
            )

        step = max(1, SCORES // (count * self.heads * long))
        parts = zip(torch.split(queries, step, 2), torch.split(there, step, 1), strict=True)
        whole = step >= long
        out = [recomputed(some, q, keys, values, at, when=not whole) for q, at in parts]
        return torch.cat(out, dim=2).transpose(1, 2)

    def _bias(self, at: Tensor, there: Tensor) -> Tensor:
        """float32 (g, H, Lq, Lk) from places (g, Lq, 3) and (g, Lk, 3)."""
        gap = at[:, :, None, :2] - there[:, None, :, :2]
        far = gap.square().sum(-1).sqrt() * at[:, :, None, 2] * there[:, None, :, 2]
        bias: Tensor = -self.slopes[:, None, None] * far[:, None]
        return bias


class _Layer(nn.Module):
    def __init__(self, cfg: Config, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(cfg.dim)
        self.attention = AlibiAttention(cfg.dim, cfg.heads, cfg.dropout)
        self.ffn_norm = nn.LayerNorm(cfg.dim)
        self.ffn = FeedForward(cfg.dim, cfg.hidden)
        self.dropout = nn.Dropout(cfg.dropout)
        self.skip = StochasticDepth(drop_path)

    def forward(self, x: Tensor, plan: Plan, place: Tensor, bag: Tensor) -> Tensor:
        many = len(plan.query_starts) - 1
        x = x + self.skip(self.dropout(self.attention(self.norm(x), plan, place)), bag, many)
        out: Tensor = x + self.skip(self.dropout(self.ffn(self.ffn_norm(x))), bag, many)
        return out


class AlibiViTEncoder(nn.Module):
    """See the module."""

    def __init__(self, cfg: Config, input_dim: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.dim = cfg, input_dim, cfg.dim
        self.adapter = nn.Sequential(nn.Linear(input_dim, cfg.dim), nn.GELU())
        self.front = nn.Parameter(torch.randn(1 + cfg.registers, cfg.dim) * 0.02)
        """The class token and the registers."""
        rates = torch.linspace(0, cfg.drop_path, cfg.layers).tolist()
        self.layers = nn.ModuleList(_Layer(cfg, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(cfg.dim)

    def forward(self, bags: PackedBags) -> SlideOut:
        """Vectors and tokens.

        `attention` is that of the class token on patches in the last layer, among patches alone:
        the mean over heads, without gradient.
        """
        check_width(bags, self.input_dim)
        count, ahead, device = len(bags), len(self.front), bags.features.device
        starts = bags.starts + ahead * torch.arange(count + 1, device=device)
        patch = torch.arange(len(bags.features), device=device) + ahead * (bags.bag + 1)
        step = torch.arange(ahead, device=device)
        order = torch.cat([(starts[:-1, None] + step).flatten(), patch]).argsort()
        x = self.adapter(bags.features)
        rows = torch.cat([self.front.repeat(count, 1).to(x.dtype), x])[order]
        cell = side_by_side(bags).float()
        at = torch.cat([cell, torch.ones_like(cell[:, :1])], dim=1)
        place = torch.cat([at.new_zeros(count * ahead, 3), at])[order]
        owner = torch.arange(count, device=device).repeat_interleave(ahead)
        owner = torch.cat([owner, bags.bag])[order]
        plan = Plan(starts, starts)
        attention = None
        for number, layer in enumerate(self.layers):
            if number == self.cfg.layers - 1 and isinstance(layer, _Layer):
                with torch.no_grad():
                    scores = layer.attention.first_row(layer.norm(rows), plan)[patch]
                    attention = segment_softmax(scores, bags.starts).mean(1)
            rows = layer(rows, plan, place, owner)
        rows = self.last_norm(rows)
        slide, patches = rows[starts[:-1]], rows[patch]
        tokens, token_starts = patches, bags.starts
        if self.cfg.tokens == "slide":
            tokens, token_starts = slide, torch.arange(count + 1, device=device)
        region = segment_mean(patches, bags.region_starts)
        return SlideOut(slide, region, tokens, token_starts, attention, patches)
