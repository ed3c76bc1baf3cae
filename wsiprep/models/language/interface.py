"""What a language model and its tokenizer are to the rest, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsiprep.models.language.decoding import generate
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.language.state import load_exactly

__all__ = [
    "IGNORE",
    "SLIDE_ID",
    "SLIDE_MARK",
    "ChatTokenizer",
    "KeyValueCache",
    "LanguageModel",
    "LanguageOut",
    "MarkupTokenizer",
    "Tokenizer",
    "labelled_columns",
    "positions_of",
    "token_loss",
]

IGNORE = -100
"""Label of a token that is not learned."""
SLIDE_ID = -200
"""Token id that stands for a slide. It is in no vocabulary, so no embedding table grows by it."""
SLIDE_MARK = "<image>"
"""How conversations write the place of a slide."""


class Tokenizer(Protocol):
    """Text to token ids and back.

    `encode` adds no token of its own at either end, and reads every text as text.
    """

    @property
    def pad_id(self) -> int:
        """Token that fills; it is always masked."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Token before a text, or None for vocabularies that use none."""
        ...

    @property
    def eos_id(self) -> int:
        """Token that ends an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids are 0 to vocab_size - 1."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """Ids of a text."""
        ...

    def decode(self, ids: list[int], /) -> str:
        """Text of ids."""
        ...


@runtime_checkable
class MarkupTokenizer(Tokenizer, Protocol):
    """A tokenizer with special tokens that markup may name, as `<|im_end|>`."""

    def encode_markup(self, text: str, /) -> list[int]:
        """Ids of a text in which names of special tokens are those tokens."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        ...


@runtime_checkable
class ChatTokenizer(MarkupTokenizer, Protocol):
    """A tokenizer that brings the chat template its model was trained with."""

    @property
    def has_chat_template(self) -> bool:
        """Whether there is one."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]], open_end: bool, /) -> str:
        """Markup of messages (`role`, `content`); `open_end` appends the start of an answer.

        Raises:
            ConfigError: the template refuses the messages.
        """
        ...


class KeyValueCache(Protocol):
    """Keys and values of the tokens seen so far; a forward pass appends its own."""

    def get_seq_length(self) -> int:
        """Tokens held."""
        ...

    def reorder_cache(self, beam_idx: Tensor) -> Any:
        """Keep these rows of the batch (int64), in this order; a row may come several times."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LanguageOut:
    """What a forward pass gives.

    Attributes:
        logits: float (B, K, V), of the columns asked for.
        columns: int64 (K,), columns of the input that they belong to.
        loss: scalar, mean cross-entropy in nats over labelled tokens; None without labels.
        tokens: int64 scalar, labelled tokens that the mean is over; 0 makes the loss 0.
    """

    logits: Tensor
    columns: Tensor
    loss: Tensor | None
    tokens: Tensor


class LanguageModel(nn.Module, ABC):
    """A causal language model that takes embeddings.

    Attributes:
        rounds_to: What matrix products are rounded to, where that is not the dtype of the weights:
            in training, weights may be held in a wider one.
    """

    rounds_to: torch.dtype | None = None

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of its token embeddings, which projectors must give."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings float (..., width) of token ids int64 (...)."""

    @abstractmethod
    def new_cache(self) -> KeyValueCache:
        """An empty cache for one batch."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON values that say which model this is; a checkpoint fits where they are equal."""

    @abstractmethod
    def _logits(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        columns: Tensor,
        cache: Any,
    ) -> Tensor:
        """Logits float (B, K, V) of the columns int64 (K,); the rest as of `forward`."""

    @abstractmethod
    def _own(self) -> Mapping[str, Tensor]:
        """Its own tensors that a checkpoint has to hold."""

    @abstractmethod
    def _called(self) -> str:
        """What messages call it."""

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        *,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Any = None,
        columns: Tensor | None = None,
    ) -> LanguageOut:
        """Logits, and the loss where labels are given.

        Args:
            inputs_embeds: float (B, L, width).
            attention_mask: bool (B, P + L), False where padding; P tokens are in the cache.
            position_ids: int64 (B, L); counted along the mask when None.
            labels: int64 (B, L), token ids or IGNORE, aligned with the inputs: the label of a
                column is predicted from the columns before it.
            cache: of `new_cache`; the pass appends to it.
            columns: int64 (K,), columns whose logits are wanted. None means all, or with labels
                those that predict a label, which spares the memory of the rest.
        """
        length, device = inputs_embeds.shape[1], inputs_embeds.device
        if position_ids is None:
            position_ids = positions_of(attention_mask, length)
        if columns is None:
            whole = torch.arange(length, device=device)
            columns = whole if labels is None else labelled_columns(labels)
        with (
            nullcontext() if self.rounds_to is None
            else torch.autocast(device.type, self.rounds_to)
        ):  # fmt: skip
            logits = self._logits(inputs_embeds, attention_mask, position_ids, columns, cache)
        none = torch.zeros((), dtype=torch.int64, device=device)
        loss, tokens = (None, none) if labels is None else token_loss(logits, columns, labels)
        return LanguageOut(logits=logits, columns=columns, loss=loss, tokens=tokens)

    def generate(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        decoding: Decoding,
        *,
        stop_ids: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Continue left-padded prompts; see `decoding.generate`."""
        return generate(
            self, inputs_embeds, attention_mask, decoding, stop_ids=stop_ids, generator=generator
        )

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold, since it cannot be had from elsewhere."""
        return {name: value.detach().clone() for name, value in self._own().items()}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Take a `trainable_state`.

        Raises:
            WeightsError: a tensor is missing, unknown, or of another shape.
        """
        load_exactly(self._own(), state, self._called())


def positions_of(attention_mask: Tensor, length: int) -> Tensor:
    """Positions int64 (B, length) of the last columns: padding counts for nothing.

    Args:
        attention_mask: bool (B, P + length).
        length: Columns wanted.
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]


def labelled_columns(labels: Tensor) -> Tensor:
    """Columns int64 (K,) whose logits predict a label in some row of int64 (B, L)."""
    return (labels[:, 1:] != IGNORE).any(dim=0).nonzero()[:, 0]


def token_loss(logits: Tensor, columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the next token, in float32, and the number of tokens it is over.

    Args:
        logits: float (B, K, V).
        columns: int64 (K,), increasing, the columns of the logits; must cover
            `labelled_columns`.
        labels: int64 (B, L).
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)[:, columns]
    count = (targets != IGNORE).sum()
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / count.clamp(min=1), count
