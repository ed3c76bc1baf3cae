"""What says captions from a slide's tokens while an aligned model learns: decoders from scratch.

`PrefixCaptions` reads the slide's tokens and then the caption, as a language model reads a prompt.
`CrossCaptions` is the decoder of CoCa (Yu et al. 2022, arXiv 2205.01917, section 3): the first half
of its blocks reads the caption alone, each block of the second half then looks at the slide. A
deviation: it looks after the feed-forward part of a block, not before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsiprep.models.language.projector import Projector, ProjectorConfig
from wsiprep.models.language.tiny import TinyConfig, TinyLanguageModel
from wsiprep.models.norm import RMSNorm
from wsiprep.models.objectives.caption import (
    NOT_COUNTED,
    caption_labels,
    caption_nats,
    mean_of_nats,
)
from wsiprep.models.objectives.region_pool import pad_runs
from wsiprep.models.text.tokenizer import Tokenizer

__all__ = ["CaptionHead", "CrossCaptions", "PrefixCaptions"]


class CaptionHead(nn.Module, ABC):
    """Cross-entropy of captions, given tokens of their slides.

    Args:
        width: Of the tokens.
        options: Of `TinyConfig`.
        tokenizer: Of the captions.
    """

    def __init__(self, width: int, options: dict[str, Any], tokenizer: Tokenizer) -> None:
        super().__init__()
        self.decoder = TinyLanguageModel(TinyConfig(**options), tokenizer)
        self.projector = Projector(ProjectorConfig(projector="linear"), width, self.decoder.width)
        self.tokenizer = tokenizer

    def forward(
        self, tokens: Tensor, counts: Tensor, captions: Sequence[str], max_tokens: int
    ) -> Tensor:
        """Cross-entropy of the captions' tokens, mean over them; a share (see `objectives`).

        Args:
            tokens: float (M, width), of the slides, one after another.
            counts: int64 (B,), tokens of each slide.
            captions: One for each slide.
            max_tokens: Most tokens of a caption; what is longer loses its end.
        """
        return mean_of_nats(*self.nats(tokens, counts, captions, max_tokens))

    def nats(
        self, tokens: Tensor, counts: Tensor, captions: Sequence[str], max_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the captions' tokens, their sum, and how many they are.

        What slides of one batch give adds up to what they give in several, and processes exchange
        nothing. Arguments as of `forward`.

        Returns:
            float32 scalar and int64 scalar.
        """
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        shown, there = pad_runs(self.projector(tokens, starts).embeds, owner, len(counts))
        ids, mask = self.tokenizer.batch(captions, max_tokens=max_tokens)
        return self._nats(shown, there, ids.to(tokens.device), mask.to(tokens.device))

    @abstractmethod
    def _nats(
        self, shown: Tensor, there: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum and count, of slides (B, M, d), bool (B, M), and captions (B, L), bool (B, L)."""


class PrefixCaptions(CaptionHead):
    """The caption goes on from the slide's tokens."""

    def _nats(
        self, shown: Tensor, there: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        labels = caption_labels(ids, mask, prefix=shown.shape[1])
        # The place before `<bos>` is padding for slides with fewer tokens than others.
        labels[:, shown.shape[1]] = NOT_COUNTED
        embeds = torch.cat([shown, self.decoder.embed(ids).to(shown.dtype)], dim=1)
        out = self.decoder(embeds, torch.cat([there, mask], dim=1))
        return caption_nats(out.logits, labels)


class CrossCaptions(CaptionHead):
    """The second half of the blocks looks at the slide's tokens."""

    def __init__(self, width: int, options: dict[str, Any], tokenizer: Tokenizer) -> None:
        super().__init__(width, options, tokenizer)
        cfg = self.decoder.cfg
        self.alone = cfg.layers // 2
        self.looks = nn.ModuleList(_Look(cfg) for _ in range(self.alone, cfg.layers))

    def _nats(
        self, shown: Tensor, there: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        def look(block: int, stream: Tensor) -> Tensor:
            if block < self.alone:
                return stream
            seen: Tensor = self.looks[block - self.alone](stream, shown, there)
            return seen

        logits = self.decoder.logits(self.decoder.embed(ids), mask, after=look)
        return caption_nats(logits, caption_labels(ids, mask))


class _Look(nn.Module):
    """Attention of a caption to a slide, added to the stream."""

    def __init__(self, cfg: TinyConfig) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.norm, self.slide_norm = (RMSNorm(cfg.width, eps=1e-6) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            nn.Linear(cfg.width, cfg.width, bias=False) for _ in range(4)
        )
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=cfg.width**-0.5)
        nn.init.normal_(self.out.weight, std=0.02 / math.sqrt(2 * cfg.layers))
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, stream: Tensor, shown: Tensor, there: Tensor) -> Tensor:
        memory = self.slide_norm(shown)
        query = self._parts(self.query, self.norm(stream))
        key, value = (self._parts(layer, memory) for layer in (self.key, self.value))
        some = there.any(dim=1, keepdim=True)
        # A slide without tokens is looked at too, as softmax wants, and adds nothing.
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=(there | ~some)[:, None, None]
        )
        added = self.out(mixed.transpose(1, 2).flatten(2)) * some[:, :, None]
        out: Tensor = stream + self.drop(added)
        return out

    def _parts(self, layer: nn.Module, x: Tensor) -> Tensor:
        """(B, heads, L, width of a head)."""
        made: Tensor = layer(x)
        return torch.unflatten(made, -1, (self.heads, -1)).transpose(1, 2)
