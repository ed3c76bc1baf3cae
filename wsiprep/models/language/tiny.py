"""A small language model trained from nothing: the Llama architecture in some hundred lines.

Blocks of RMSNorm, causal attention with rotary positions (Su et al. 2021, "RoFormer", halves
rotated as in the Llama code of transformers), RMSNorm and SwiGLU (Shazeer 2020); no biases. With
equal weights it gives the logits of `transformers.LlamaForCausalLM`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.language.interface import LanguageModel, Tokenizer, positions_of
from wsiprep.models.norm import RMSNorm

__all__ = ["TinyCache", "TinyConfig", "TinyLanguageModel"]

After = Callable[[int, Tensor], Tensor]


class TinyConfig(Settings):
    """Sizes of the in-tree language model."""

    width: int = Field(default=128, ge=8)
    """Width of the token embeddings."""
    layers: int = Field(default=4, ge=1)
    """Number of blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    hidden: int = Field(default=384, ge=8)
    """Width inside a feed-forward block."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropped share of the output of each block."""
    rope_base: float = Field(default=10_000.0, gt=1)
    """Base of the rotary wavelengths."""
    tuning: Literal["full", "frozen"] = "full"
    """Whether its weights learn."""
    seed: int = 0
    """Seed of its first weights."""


class TinyCache:
    """Keys and values (B, heads, P, width of a head) of each block."""

    def __init__(self, layers: int) -> None:
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def get_seq_length(self) -> int:
        """Tokens held."""
        first = self.layers[0]
        return 0 if first is None else first[0].shape[2]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        self.layers = [
            None if held is None else (held[0][beam_idx], held[1][beam_idx]) for held in self.layers
        ]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the tokens of a pass; gives all of that block."""
        held = self.layers[layer]
        if held is not None:
            keys, values = torch.cat([held[0], keys], 2), torch.cat([held[1], values], 2)
        self.layers[layer] = (keys, values)
        return keys, values


class TinyLanguageModel(LanguageModel):
    """A causal language model; see `interface.LanguageModel`.

    Args:
        cfg: Its sizes.
        tokenizer: Gives the size of the vocabulary.

    Raises:
        ConfigError: heads do not divide the width into even parts.
    """

    def __init__(self, cfg: TinyConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        if cfg.width % (2 * cfg.heads):
            raise ConfigError(
                f"{cfg.heads} heads do not divide a width of {cfg.width} into even parts.",
                stage="models",
                hint="Let width be a multiple of twice the heads.",
            )
        self.cfg = cfg
        self._tokenizer = tokenizer
        self.table = nn.Embedding(tokenizer.vocab_size, cfg.width)
        self.blocks = nn.ModuleList(_Block(cfg, layer) for layer in range(cfg.layers))
        self.norm = RMSNorm(cfg.width, eps=1e-6)
        self.head = nn.Linear(cfg.width, tokenizer.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(cfg.seed)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Not GPT-2's 0.02, which is for wider networks: from it attention takes twice as
                # long to find what a question is about. Branches that add to the stream start
                # smaller, as there.
                branch = name.endswith((".out.weight", ".down.weight"))
                std = weight.shape[1] ** -0.5 / (math.sqrt(2 * cfg.layers) if branch else 1)
                nn.init.normal_(weight, std=std, generator=generator)
        if cfg.tuning == "frozen":
            self.requires_grad_(False)

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def width(self) -> int:
        """Width of its token embeddings."""
        return self.cfg.width

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings float (..., width) of token ids int64 (...)."""
        embedded: Tensor = self.table(ids)
        return embedded

    def new_cache(self) -> TinyCache:
        """An empty cache."""
        return TinyCache(self.cfg.layers)

    def _logits(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        columns: Tensor,
        cache: TinyCache | None,
    ) -> Tensor:
        stream = self._stream(inputs_embeds, attention_mask, position_ids, cache)
        logits: Tensor = self.head(self.norm(stream[:, columns]))
        return logits

    def logits(
        self, inputs_embeds: Tensor, attention_mask: Tensor, *, after: After | None = None
    ) -> Tensor:
        """Logits float (B, L, V) of all columns.

        Args:
            inputs_embeds: float (B, L, width).
            attention_mask: bool (B, L), False where padding.
            after: Given the number of a block and its output (B, L, width); gives what the next
                one reads.
        """
        places = positions_of(attention_mask, inputs_embeds.shape[1])
        stream = self._stream(inputs_embeds, attention_mask, places, None, after)
        logits: Tensor = self.head(self.norm(stream))
        return logits

    def _stream(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: TinyCache | None,
        after: After | None = None,
    ) -> Tensor:
        rotation = _rotation(position_ids, self.width // self.cfg.heads, self.cfg.rope_base)
        seen = _visible(attention_mask.bool(), inputs_embeds.shape[1])
        stream = inputs_embeds
        for number, block in enumerate(self.blocks):
            stream = block(stream, rotation, seen, cache)
            if after is not None:
                stream = after(number, stream)
        return stream

    def fingerprint(self) -> dict[str, Any]:
        """Its sizes; whether it learns, and from which seed, changes no name or shape."""
        sizes = self.cfg.model_dump(mode="json", exclude={"tuning", "seed", "dropout"})
        return {"kind": "tiny", "vocab_size": self.tokenizer.vocab_size, **sizes}

    def _own(self) -> Mapping[str, Tensor]:
        # All weights, learning or not: they are nowhere else.
        return dict(self.state_dict())

    def _called(self) -> str:
        return "the tiny language model"


class _Block(nn.Module):
    def __init__(self, cfg: TinyConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, cfg.heads
        self.attention_norm = RMSNorm(cfg.width, eps=1e-6)
        self.query = nn.Linear(cfg.width, cfg.width, bias=False)
        self.key = nn.Linear(cfg.width, cfg.width, bias=False)
        self.value = nn.Linear(cfg.width, cfg.width, bias=False)
        self.out = nn.Linear(cfg.width, cfg.width, bias=False)
        self.feed_norm = RMSNorm(cfg.width, eps=1e-6)
        self.gate = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=False)
        self.drop = nn.Dropout(cfg.dropout)

    def forward(
        self,
        stream: Tensor,
        rotation: tuple[Tensor, Tensor],
        seen: Tensor,
        cache: TinyCache | None,
    ) -> Tensor:
        normed = self.attention_norm(stream)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        stream = stream + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        normed = self.feed_norm(stream)
        fed = self.down(F.silu(self.gate(normed)) * self.up(normed))
        out: Tensor = stream + self.drop(fed)
        return out


def _visible(mask: Tensor, length: int) -> Tensor:
    """Who sees whom, bool (B, 1, L, P + L): what is no padding and not later, and oneself."""
    total = mask.shape[1]
    own = torch.arange(total - length, total, device=mask.device)[:, None]
    all_ = torch.arange(total, device=mask.device)[None]
    # Padding sees itself: a row that sees nothing would be NaN.
    return ((all_ <= own) & mask[:, None, :] | (all_ == own))[:, None]


def _rotation(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, 1, L, width) of each position, float32."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    angle = positions[:, None, :, None].float() * base ** (-steps / width)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
