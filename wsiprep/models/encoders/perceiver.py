"""Latents that read all patches, and patches that read the latents back (PathFLIP 2, PRISM).

A layer is a cross block (latents read patches) and self blocks; each block is RMSNorm, attention,
sum, RMSNorm, feed-forward, sum. The first latent is the slide. The patch decoder is a block in
which patches read the latents, with a second sum around it: patches in context, at a cost linear
in their number. Sources: PathFLIP 2; Perceiver, Jaegle et al. 2021, arXiv 2103.03206; PRISM,
Shaikovski et al. 2024, arXiv 2405.10254 (dim 1280, 513 latents, no decoder).

Order and place of patches do not matter. A bag without patches gives what the latents say by
themselves, and has no region.

Not as published: no patch is repeated to fill a rectangle; a region is the mean of its patches
after the decoder (there are no regions in PathFLIP 2), and without a decoder there is none.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.models.attention import KEY_ROWS, Attention, Context, FeedForward
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._parts import check_width
from wsiprep.models.norm import RMSNorm
from wsiprep.models.ragged import Plan, by_chunks, even_starts, recomputed, segment_mean

__all__ = ["Config", "PerceiverEncoder", "create"]


class Config(Settings):
    """Sizes; the defaults are PathFLIP 2's."""

    dim: int = Field(default=512, ge=1)
    """Width of everything."""
    latents: int = Field(default=129, ge=1)
    """Learned latents; the first is the slide."""
    layers: int = Field(default=1, ge=1)
    """Layers, each a cross block and self blocks."""
    self_blocks: int = Field(default=1, ge=0)
    """Self blocks of a layer."""
    heads: int = Field(default=8, ge=1)
    """Heads of every attention."""
    expand: int = Field(default=4, ge=1)
    """Feed-forward layers are so many times wider inside."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the patches as they come in, and of the vectors as they go out."""
    attention_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Of attention weights."""
    decoder: bool = True
    """Whether patches read the latents back; regions and patch tokens need it."""
    tokens: Literal["latents", "patches", "both"] = "latents"
    """What a language model is shown: the latents after the first, the patches after the decoder,
    or the former and then the latter."""

    @model_validator(mode="after")
    def _patches_need_the_decoder(self) -> Config:
        if self.tokens != "latents" and not self.decoder:
            raise ValueError("tokens of patches need the decoder: true")
        if self.tokens != "patches" and self.latents < 2:
            raise ValueError("tokens of latents need 2 latents or more: the first is the slide")
        return self


def create(cfg: Config, input_dim: int) -> PerceiverEncoder:
    """Make the encoder with fresh weights from PyTorch's global random numbers."""
    return PerceiverEncoder(cfg, input_dim)


class _Block(nn.Module):
    """Attention on a context or on itself, and a feed-forward, both after RMSNorm."""

    def __init__(self, cfg: Config, *, reads: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(cfg.dim, eps=1e-6)
        self.context_norm = RMSNorm(cfg.dim, eps=1e-6) if reads else None
        self.attention = Attention(cfg.dim, cfg.heads, dropout=cfg.attention_dropout)
        self.ffn_norm = RMSNorm(cfg.dim, eps=1e-6)
        self.ffn = FeedForward(cfg.dim, cfg.expand * cfg.dim)

    def forward(self, x: Tensor, plan: Plan, rows: Tensor | None = None) -> Tensor:
        """(T, dim) to (T, dim); reads `rows` (Tk, dim) if it is a block that reads."""
        if self.context_norm is None or rows is None:
            x = x + self.attention(self.norm(x), plan)
        else:
            x = x + self.attention.read(self.norm(x), Context(self.context_norm(rows), plan))
        out: Tensor = x + by_chunks(lambda part: self.ffn(self.ffn_norm(part)), x)
        return out

    def share(self, x: Tensor, plan: Plan, rows: Tensor) -> Tensor:
        """How its queries spread over the rows: float32 (Tk,), no gradient."""
        if self.context_norm is None:
            raise ValueError("this block reads nothing")
        with torch.no_grad():
            return self.attention.share(self.norm(x), Context(self.context_norm(rows), plan))


class _Head(nn.Module):
    """Linear, RMSNorm, dropout."""

    def __init__(self, input_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, dim)
        self.norm = RMSNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return by_chunks(lambda part: self.dropout(self.norm(self.linear(part))), x)


class PerceiverEncoder(nn.Module):
    """See the module."""

    def __init__(self, cfg: Config, input_dim: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.dim = cfg, input_dim, cfg.dim
        self.adapter = _Head(input_dim, cfg.dim, cfg.dropout)
        self.latents = nn.Parameter(torch.randn(cfg.latents, cfg.dim))
        self.read = nn.ModuleList(_Block(cfg, reads=True) for _ in range(cfg.layers))
        self.think = nn.ModuleList(
            _Block(cfg, reads=False) for _ in range(cfg.layers * cfg.self_blocks)
        )
        self.decoder = _Block(cfg, reads=True) if cfg.decoder else None
        self.slide_head = _Head(cfg.dim, cfg.dim, cfg.dropout)
        self.patch_head = _Head(cfg.dim, cfg.dim, cfg.dropout) if cfg.decoder else None

    def forward(self, bags: PackedBags) -> SlideOut:
        """Vectors, and tokens as set.

        `attention` is how the first latent, the slide, reads the patches in the last layer: the
        mean over heads, without gradient. `patch` is what the decoder makes, if there is one.
        """
        check_width(bags, self.input_dim)
        count, device = self.cfg.latents, bags.features.device
        x = self.adapter(bags.features)
        q_starts = even_starts(len(bags), count, device)
        across, within = Plan(q_starts, bags.starts), Plan(q_starts, q_starts)
        z = self.latents.repeat(len(bags), 1)
        large = len(x) > KEY_ROWS
        share = None
        for number, reader in enumerate(self.read):
            if number == self.cfg.layers - 1 and isinstance(reader, _Block):
                alone = Plan(even_starts(len(bags), 1, device), bags.starts)
                share = reader.share(z[::count], alone, x)
            z = recomputed(lambda z, x, r=reader: r(z, across, x), z, x, when=large)
            for block in self.think[number * self.cfg.self_blocks :][: self.cfg.self_blocks]:
                z = block(z, within)
        slide = self.slide_head(z[::count])
        region = patches = None
        if self.decoder is not None and self.patch_head is not None:
            back = Plan(bags.starts, q_starts)
            decoder = self.decoder
            x = x + recomputed(lambda x, z: decoder(x, back, z), x, z, when=large)
            patches = self.patch_head(x)
            region = segment_mean(patches, bags.region_starts)
        tokens, starts = self._tokens(z, patches, bags)
        return SlideOut(slide, region, tokens, starts, share, patches)

    def _tokens(self, z: Tensor, patches: Tensor | None, bags: PackedBags) -> tuple[Tensor, Tensor]:
        count = self.cfg.latents - 1
        if self.cfg.tokens == "patches" and patches is not None:
            return patches, bags.starts
        latents = torch.unflatten(z, 0, (len(bags), self.cfg.latents))[:, 1:].flatten(0, 1)
        starts = even_starts(len(bags), count, z.device)
        if self.cfg.tokens == "latents" or patches is None:
            return latents, starts
        owner = torch.arange(len(bags), device=z.device).repeat_interleave(count)
        order = torch.argsort(torch.cat([owner, bags.bag]), stable=True)
        return torch.cat([latents, patches])[order], starts + bags.starts
