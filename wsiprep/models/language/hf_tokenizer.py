"""A tokenizer of transformers as `interface.ChatTokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from wsiprep.core.errors import ConfigError

__all__ = ["HfTokenizer"]

ANCHOR = "\n"


class HfTokenizer:
    """Reads texts as text: names of special tokens in them are spelled out.

    SentencePiece vocabularies put a space before every text they are given. The pieces of a
    conversation are encoded one by one, so here they are encoded as if in the middle of a text.

    Args:
        tokenizer: A `PreTrainedTokenizer` or fast one.

    Raises:
        ConfigError: it has no token that ends a text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.raw = tokenizer
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer of this language model has no end token.", stage="models"
            )

    @property
    def pad_id(self) -> int:
        """Token that fills; the end token where there is none of its own."""
        pad = self.raw.pad_token_id
        return self.eos_id if pad is None else int(pad)

    @cached_property
    def bos_id(self) -> int | None:
        """Token before a text, if the tokenizer puts one there by itself."""
        bos = self.raw.bos_token_id
        ids = self.raw("a", add_special_tokens=True)["input_ids"]
        return int(bos) if bos is not None and ids[0] == bos else None

    @property
    def eos_id(self) -> int:
        """Token that ends a text."""
        return int(self.raw.eos_token_id)

    @property
    def vocab_size(self) -> int:
        """All tokens, also added ones."""
        return len(self.raw)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        added = self.raw.added_tokens_decoder
        marked = {int(id_) for id_, token in added.items() if token.special}
        return frozenset({*map(int, self.raw.all_special_ids), *marked})

    @cached_property
    def _adds_space(self) -> bool:
        ids = self._ids("a", literal=True)
        return bool(ids) and str(self.raw.convert_ids_to_tokens(ids[0])).startswith("▁")

    def encode(self, text: str, /) -> list[int]:
        """Ids of a text."""
        return self._encode(text, literal=True)

    def encode_markup(self, text: str, /) -> list[int]:
        """Ids of a text in which names of special tokens are those tokens."""
        return self._encode(text, literal=False)

    def decode(self, ids: list[int], /) -> str:
        """Text of ids, special tokens left out."""
        text: str = self.raw.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @property
    def has_chat_template(self) -> bool:
        """Whether it brings a chat template."""
        return bool(self.raw.chat_template)

    def render(self, messages: Sequence[Mapping[str, str]], open_end: bool, /) -> str:
        """Markup of messages; `open_end` appends the start of an answer.

        Templates of models that think before they answer are asked for an answer without.

        Raises:
            ConfigError: the template refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            text: str = self.raw.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=open_end,
                enable_thinking=False,
            )
        except (TemplateError, ValueError) as err:
            raise ConfigError(
                f"the chat template of this language model refuses the conversation: {err}.",
                stage="models",
                hint="Leave out the system's turn, or use the template llava_v1.",
            ) from err
        return text

    def _encode(self, text: str, literal: bool) -> list[int]:
        if not text or not self._adds_space:
            return self._ids(text, literal)
        anchor, ids = self._ids(ANCHOR, literal), self._ids(ANCHOR + text, literal)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._ids(text, literal)

    def _ids(self, text: str, literal: bool) -> list[int]:
        made = self.raw(
            text,
            add_special_tokens=False,
            split_special_tokens=literal,
            return_attention_mask=False,
            verbose=False,
        )
        return [int(id_) for id_ in made["input_ids"]]
