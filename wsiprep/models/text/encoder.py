"""What every text encoder offers, and the two ways to make one vector of the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Pooling", "TextEncoder", "TextOut", "pool_tokens"]

Pooling = Literal["mean", "cls"]
"""mean: over the tokens of the text, never over padding. cls: the first token."""


@dataclass(frozen=True, slots=True, eq=False)
class TextOut:
    """What a text encoder makes of a batch of texts.

    Attributes:
        text: float (B, d), one vector a text, not normalised.
        tokens: float (B, L, d); what stands in padding is 0.
        mask: bool (B, L), true on tokens, false on padding, which is always on the right.
    """

    text: Tensor
    tokens: Tensor
    mask: Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Texts in, vectors out. Encoders are `torch.nn.Module`s whose `forward` takes the texts.

    Attributes:
        dim: Width d of the vectors.
        fingerprint: Plain JSON values that say which encoder it is: weights that were learned with
            one must not be used with another. Two encoders with equal fingerprints give, with
            equal weights, equal vectors.
    """

    dim: int

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which encoder it is; see the class."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, float (B, d), not normalised."""
        ...

    def encode_tokens(self, texts: Sequence[str]) -> TextOut:
        """Vectors of texts and of their tokens."""
        ...


def pool_tokens(tokens: Tensor, mask: Tensor, pooling: Pooling) -> TextOut:
    """One vector a text from vectors of its tokens.

    Args:
        tokens: float (B, L, d); padding may hold anything, also NaN.
        mask: bool (B, L), true on tokens; every text has at least one.
        pooling: How.
    """
    kept = tokens.masked_fill(~mask[:, :, None], 0.0)
    if pooling == "cls":
        return TextOut(kept[:, 0], kept, mask)
    # The sum is in float32, as half precision has no exact counts beyond 2048.
    mean = kept.sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)
    return TextOut(mean.to(kept.dtype), kept, mask)
