"""Conversations to token ids and labels; only answers and the token that ends them are learned.

A conversation is cut into pieces (`templates`), each piece is encoded by itself, and the prompt of
a question asked later is made of the same pieces. So the ids before an answer are the same in
training and when asking, whatever the tokenizer joins, and however a chat template writes answers
that others follow. `<image>` in a user's text becomes `SLIDE_ID`; the number of them must be that
of the slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wsiprep.core.errors import ManifestError
from wsiprep.models.language.interface import (
    IGNORE,
    SLIDE_ID,
    SLIDE_MARK,
    MarkupTokenizer,
    Tokenizer,
)
from wsiprep.models.language.templates import Piece, TemplateName, Turn, pieces_of

__all__ = ["Encoded", "Turn", "encode_conversation", "encode_prompt", "with_slides"]

Overflow = Literal["error", "drop_oldest"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A conversation as ids.

    Attributes:
        ids: int64 (L,), tokens, and SLIDE_ID where a slide goes.
        labels: int64 (L,), the id where it is learned, else IGNORE.
        stop_ids: Tokens that end an answer in this template.
        dropped: Exchanges left out because there was no room for them.
    """

    ids: Tensor
    labels: Tensor
    stop_ids: tuple[int, ...]
    dropped: int = 0

    @property
    def slides(self) -> int:
        """Places of slides."""
        return int((self.ids == SLIDE_ID).sum())


def with_slides(turns: Sequence[Turn], slides: int) -> list[Turn]:
    """Put places for slides before the first question, if the conversation has none anywhere."""
    turns = list(turns)
    if any(SLIDE_MARK in turn.text for turn in turns):
        return turns
    for index, turn in enumerate(turns):
        if turn.role == "user":
            text = "\n".join([*([SLIDE_MARK] * slides), turn.text])
            turns[index] = replace(turn, text=text)
            break
    return turns


def encode_conversation(
    turns: Sequence[Turn],
    tokenizer: Tokenizer,
    template: TemplateName,
    *,
    slide_tokens: Sequence[int] = (),
    max_tokens: int | None = None,
    overflow: Overflow = "error",
    name: str | None = None,
) -> Encoded:
    """A conversation to learn from: ends with an answer.

    Args:
        turns: At most one of the system, then user and assistant in turn.
        tokenizer: Of the language model.
        template: How turns are written.
        slide_tokens: Embeddings of each slide, to count the length; needed with `max_tokens`.
        max_tokens: Most tokens, those of slides included.
        overflow: What to do with a longer one: `error`, or `drop_oldest` exchanges until it fits.
            Places of slides in dropped questions move to the first one kept.
        name: Sample, for messages.

    Raises:
        ManifestError: the turns are not a conversation, or do not fit.
        ConfigError: the tokenizer lacks what the template needs.
    """
    _check(turns, "assistant", name)
    fit = _Fit(tokenizer, template, slide_tokens, max_tokens, overflow, name)
    return fit.encode(turns, open_end=False)


def encode_prompt(
    turns: Sequence[Turn],
    tokenizer: Tokenizer,
    template: TemplateName,
    *,
    slide_tokens: Sequence[int] = (),
    max_tokens: int | None = None,
    overflow: Overflow = "error",
    name: str | None = None,
) -> Encoded:
    """A conversation that a model goes on with: ends with a question; nothing is labelled.

    Arguments and errors are those of `encode_conversation`; `max_tokens` is of the prompt alone.
    """
    _check(turns, "user", name)
    fit = _Fit(tokenizer, template, slide_tokens, max_tokens, overflow, name)
    return fit.encode(turns, open_end=True)


@dataclass(frozen=True, slots=True)
class _Fit:
    tokenizer: Tokenizer
    template: TemplateName
    slide_tokens: Sequence[int]
    max_tokens: int | None
    overflow: Overflow
    name: str | None

    def encode(self, turns: Sequence[Turn], open_end: bool) -> Encoded:
        dropped = 0
        while True:
            encoded = self._once(turns, open_end)
            length = self._length(encoded)
            if self.max_tokens is None or length <= self.max_tokens:
                return replace(encoded, dropped=dropped)
            shorter = _without_oldest(turns) if self.overflow == "drop_oldest" else None
            if shorter is None:
                last = " even with its last exchange alone" if dropped else ""
                raise ManifestError(
                    f"a conversation has {length} tokens{last}; {self.max_tokens} are allowed.",
                    slide=self.name,
                    stage="models",
                    hint="Allow more tokens, or drop the oldest exchanges."
                    if self.overflow == "error"
                    else "Allow more tokens, or show fewer of the slide.",
                )
            turns, dropped = shorter, dropped + 1

    def _once(self, turns: Sequence[Turn], open_end: bool) -> Encoded:
        pieces, stop_ids = pieces_of(self.template, turns, self.tokenizer, open_end)
        ids: list[int] = []
        labels: list[int] = []
        for piece in pieces:
            made = _encode_piece(piece, self.tokenizer)
            ids += made
            labels += made if piece.learned and not open_end else [IGNORE] * len(made)
        return Encoded(torch.tensor(ids), torch.tensor(labels), stop_ids)

    def _length(self, encoded: Encoded) -> int:
        if self.max_tokens is None:
            return len(encoded.ids)
        if encoded.slides != len(self.slide_tokens):
            raise ManifestError(
                f"a conversation has {encoded.slides} places '{SLIDE_MARK}' for slides, and "
                f"there are {len(self.slide_tokens)} slides.",
                slide=self.name,
                stage="models",
                hint=f"Write '{SLIDE_MARK}' once for each slide.",
            )
        return len(encoded.ids) - encoded.slides + sum(self.slide_tokens)


def _encode_piece(piece: Piece, tokenizer: Tokenizer) -> list[int]:
    if piece.kind == "token":
        return [piece.token]
    if piece.kind == "markup" and isinstance(tokenizer, MarkupTokenizer):
        return tokenizer.encode_markup(piece.text)
    ids: list[int] = []
    parts = piece.text.split(SLIDE_MARK) if piece.kind == "user" else [piece.text]
    for index, part in enumerate(parts):
        if index:
            ids.append(SLIDE_ID)
        ids += tokenizer.encode(part) if part else []
    return ids


def _without_oldest(turns: Sequence[Turn]) -> list[Turn] | None:
    """The conversation without its first exchange; None when there is but one."""
    system = [turn for turn in turns if turn.role == "system"]
    rest = [turn for turn in turns if turn.role != "system"]
    if len(rest) <= 2:
        return None
    places = rest[0].text.count(SLIDE_MARK)
    first = rest[2]
    if places:
        first = replace(first, text="\n".join([*([SLIDE_MARK] * places), first.text]))
    return [*system, first, *rest[3:]]


def _check(turns: Sequence[Turn], last: str, name: str | None) -> None:
    wrong = _what_is_wrong(turns, last)
    if wrong is not None:
        raise ManifestError(f"{wrong}.", slide=name, stage="models")


def _what_is_wrong(turns: Sequence[Turn], last: str) -> str | None:
    if turns and turns[0].role == "system" and SLIDE_MARK in turns[0].text:
        return f"the system's turn has the place of a slide, '{SLIDE_MARK}'"
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    for index, turn in enumerate(rest):
        expected = ("user", "assistant")[index % 2]
        if turn.role != expected:
            return f"turn {index + 1} is of the {turn.role}, not of the {expected}"
        if turn.role == "assistant" and SLIDE_MARK in turn.text:
            return f"an answer has the place of a slide, '{SLIDE_MARK}'"
        if turn.role == "assistant" and not turn.text.strip():
            return f"turn {index + 1} is an empty answer"
    if not rest or rest[-1].role != last:
        return f"a conversation must end with a turn of the {last}"
    return None
