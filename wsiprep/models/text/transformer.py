"""A small transformer over texts, trained from scratch with the rest of a model.

Pre-LN blocks (Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020) of
self-attention in both directions and a GELU feed-forward of four times the width, learned
positions, a last LayerNorm, and masked mean or first-token pooling. Every text begins with `<bos>`,
which is the first token that `cls` pooling takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.core.config import Settings
from wsiprep.models.text.encoder import Pooling, TextOut, pool_tokens
from wsiprep.models.text.tokenizer import PAD, Tokenizer

__all__ = ["TransformerTextConfig", "TransformerTextEncoder"]

_INIT_STD = 0.02


class TransformerTextConfig(Settings):
    """Size of the text transformer."""

    dim: int = Field(default=256, ge=1)
    """Width of tokens and of the vector of a text."""
    layers: int = Field(default=4, ge=1)
    """Blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    max_tokens: int = Field(default=256, ge=3)
    """Most tokens of a text, `<bos>` and `<eos>` included; what is longer loses its end."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the embeddings, of attention, and after attention and feed-forward."""
    pooling: Pooling = "mean"
    """mean over the tokens, or cls: the first one."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerTextConfig:
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.dim}")
        return self


class TransformerTextEncoder(nn.Module):
    """Texts to vectors; a `TextEncoder`.

    Args:
        cfg: Its size.
        tokenizer: Which ids it reads; saved beside the weights by whoever saves these.
        generator: Draws the first weights; the default one of torch without it.
    """

    def __init__(
        self,
        cfg: TransformerTextConfig,
        tokenizer: Tokenizer,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.tokenizer = tokenizer
        self.dim = cfg.dim
        self.token = nn.Embedding(tokenizer.vocab_size, cfg.dim)
        self.position = nn.Embedding(cfg.max_tokens, cfg.dim)
        self.blocks = nn.ModuleList(_Block(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.dim)
        # The sum of 2 * layers branches keeps the size of one (Radford et al. 2019).
        branch_std = _INIT_STD / (2 * cfg.layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                std = branch_std if name.endswith(("out.weight", "down.weight")) else _INIT_STD
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which encoder it is: its settings and its tokenizer."""
        return {
            "kind": "transformer",
            **self.cfg.canonical(),
            "tokenizer_sha256": self.tokenizer.sha256,
        }

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, float (B, d)."""
        return self.encode_tokens(texts).text

    def encode_tokens(self, texts: Sequence[str]) -> TextOut:
        """Vectors of texts and of their tokens."""
        ids, mask = self.tokenizer.batch(texts, max_tokens=self.cfg.max_tokens)
        device = self.token.weight.device
        return self.encode_ids(ids.to(device), mask.to(device))

    def encode_ids(self, ids: Tensor, mask: Tensor) -> TextOut:
        """Vectors of texts that are ids already.

        Args:
            ids: int64 (B, L), L at most `max_tokens`; padding may hold any id.
            mask: bool (B, L), true on tokens, from the left; every text has at least one.
        """
        ids = ids.masked_fill(~mask, PAD)
        places = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.token(ids) + self.position(places)
        tokens = functional.dropout(tokens, self.cfg.dropout, self.training)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return pool_tokens(self.norm(tokens), mask, self.cfg.pooling)

    def forward(self, texts: Sequence[str]) -> TextOut:
        """As `encode_tokens`; what a wrapper such as DDP calls."""
        return self.encode_tokens(texts)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); float (B, L, d)."""

    def __init__(self, cfg: TransformerTextConfig) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.dropout = cfg.dropout
        self.attention_norm = nn.LayerNorm(cfg.dim)
        self.qkv = nn.Linear(cfg.dim, 3 * cfg.dim)
        self.out = nn.Linear(cfg.dim, cfg.dim)
        self.norm = nn.LayerNorm(cfg.dim)
        self.up = nn.Linear(cfg.dim, 4 * cfg.dim)
        self.down = nn.Linear(4 * cfg.dim, cfg.dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens))
        q, k, v = qkv.view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :], dropout_p=rate
        )
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        tokens = tokens + functional.dropout(mixed, self.dropout, self.training)
        wide = self.down(functional.gelu(self.up(self.norm(tokens))))
        return tokens + functional.dropout(wide, self.dropout, self.training)
