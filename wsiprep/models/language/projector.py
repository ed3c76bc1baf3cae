"""From the tokens of a slide encoder to the embedding space of a language model.

`linear` is one layer, `mlp2` the two layers with a GELU of LLaVA-1.5 (Liu et al. 2023), which
WSI-LLaVA and SlideChat use, and `resampler` gives every bag the same number of embeddings.

The resampler is that of Flamingo (Alayrac et al. 2022, appendix A.1.1): learned queries attend to
the tokens and to themselves together, block after block. Deviations: GELU for squared ReLU in the
feed-forward layers; no time embeddings, as slides have no order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.norm import RMSNorm

__all__ = ["Projector", "ProjectorConfig", "Visual"]


class ProjectorConfig(Settings):
    """The layers between slide encoder and language model."""

    projector: Literal["linear", "mlp2", "resampler"] = "mlp2"
    """Kind of projector."""
    norm: bool = False
    """RMSNorm after the last layer, as PathFLIP 2 has it."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropped share of its output."""
    queries: int = Field(default=64, ge=1)
    """Embeddings per bag that the resampler gives."""
    resampler_layers: int = Field(default=2, ge=1)
    """Blocks of the resampler."""
    resampler_heads: int = Field(default=8, ge=1)
    """Attention heads of the resampler."""
    resampler_width: int = Field(default=512, ge=8)
    """Width inside the resampler."""
    seed: int = 0
    """Seed of its first weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """Embeddings of the bags of a batch, as a language model takes them.

    Attributes:
        embeds: float (M, width), bag after bag.
        starts: int64 (B + 1,), where each bag begins; the last is M.
    """

    embeds: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def split(self) -> list[Tensor]:
        """Embeddings float (m, width) of each bag."""
        sizes = (self.starts[1:] - self.starts[:-1]).tolist()
        return list(torch.split(self.embeds, sizes))


class Projector(nn.Module):
    """Tokens of slide encoders to embeddings of a language model.

    Args:
        cfg: Which layers.
        input_dim: Width of the tokens.
        width: Width of the language model's embeddings.

    Raises:
        ConfigError: heads do not divide the width of the resampler.
    """

    def __init__(self, cfg: ProjectorConfig, input_dim: int, width: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.width = cfg, input_dim, width
        generator = torch.Generator().manual_seed(cfg.seed)
        self.layers: nn.Module
        if cfg.projector == "linear":
            self.layers = nn.Linear(input_dim, width)
        elif cfg.projector == "mlp2":
            self.layers = nn.Sequential(
                nn.Linear(input_dim, width), nn.GELU(), nn.Linear(width, width)
            )
        else:
            self.layers = _Resampler(cfg, input_dim, width)
        self.norm = RMSNorm(width, eps=1e-6) if cfg.norm else nn.Identity()
        self.drop = nn.Dropout(cfg.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, _Resampler):
                nn.init.normal_(module.queries, generator=generator)

    def embeds_of(self, tokens: int) -> int:
        """Embeddings made of a bag of that many tokens."""
        return self.cfg.queries if self.cfg.projector == "resampler" else tokens

    def forward(self, tokens: Tensor, token_starts: Tensor) -> Visual:
        """Project the tokens of a batch.

        Args:
            tokens: float (M, input_dim), bag after bag; `SlideOut.tokens`.
            token_starts: int64 (B + 1,); `SlideOut.token_starts`. Bags without tokens are allowed.

        Raises:
            ConfigError: the tokens have another width.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.input_dim:
            raise ConfigError(
                f"slide tokens are {tuple(tokens.shape)}; the projector takes (M, "
                f"{self.input_dim}).",
                stage="models",
                hint="Use the slide encoder that the projector was trained with.",
            )
        starts = token_starts
        if isinstance(self.layers, _Resampler):
            made = self.layers(tokens, token_starts)
            starts = torch.arange(len(token_starts), device=starts.device) * self.cfg.queries
        else:
            made = self.layers(tokens)
        return Visual(embeds=self.drop(self.norm(made)), starts=starts)


class _Resampler(nn.Module):
    def __init__(self, cfg: ProjectorConfig, input_dim: int, width: int) -> None:
        super().__init__()
        inner = cfg.resampler_width
        if inner % cfg.resampler_heads:
            raise ConfigError(
                f"{cfg.resampler_heads} heads do not divide a resampler of width {inner}.",
                stage="models",
                hint="Let resampler_width be a multiple of resampler_heads.",
            )
        self.queries = nn.Parameter(torch.empty(cfg.queries, inner))
        self.into = nn.Linear(input_dim, inner)
        self.blocks = nn.ModuleList(
            _ResamplerBlock(inner, cfg.resampler_heads) for _ in range(cfg.resampler_layers)
        )
        self.norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, width)

    def forward(self, tokens: Tensor, token_starts: Tensor) -> Tensor:
        """Embeddings float (B * queries, width)."""
        context = self.into(tokens)
        sizes = (token_starts[1:] - token_starts[:-1]).tolist()
        made: list[Tensor] = []
        # Bag by bag: a batch for a language model is a few bags of very different sizes.
        for bag in torch.split(context, sizes):
            queries: Tensor = self.queries
            for block in self.blocks:
                queries = block(queries, bag)
            made.append(queries)
        joined = torch.cat(made) if made else self.queries[:0]
        embeds: Tensor = self.out(self.norm(joined))
        return embeds


class _ResamplerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.bag_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, queries: Tensor, bag: Tensor) -> Tensor:
        normed = self.query_norm(queries)
        # The queries are keys too, so that a bag of no tokens is no softmax over nothing.
        context = torch.cat([self.bag_norm(bag), normed])
        key, value = self.key_value(context).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(0, 1)[None]
            for part in (self.query(normed), key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)[0]
        queries = queries + self.out(mixed.transpose(0, 1).flatten(1))
        fed: Tensor = self.feed(queries)
        return queries + fed
