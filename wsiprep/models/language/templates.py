"""How the turns of a conversation are written for a language model, and what of it is learned.

`plain`: the slides, then the answer, and nothing else: the text of the question is left out, as in
LLaVA's first stage, which learns the projector from captions.
`llava_v1`: the conversation of Vicuna and LLaVA-1.5.
`chatml`: `<|im_start|>role ... <|im_end|>`, for vocabularies that have these tokens.
`chat`: the template that comes with the tokenizer, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.models.language.interface import (
    SLIDE_MARK,
    ChatTokenizer,
    MarkupTokenizer,
    Tokenizer,
)

__all__ = ["VICUNA_SYSTEM", "Piece", "TemplateName", "Turn", "pieces_of"]

TemplateName = Literal["plain", "llava_v1", "chatml", "chat"]
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says.

    Attributes:
        role: Who.
        text: What; a user's `<image>` is the place of a slide.
    """

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a conversation that is encoded by itself.

    Attributes:
        kind: `markup` may name special tokens; `text` and `user` are read as text, and only in
            `user` is `<image>` the place of a slide; `token` is one id.
        text: The text.
        token: The id.
        learned: Whether it has labels.
    """

    kind: Literal["markup", "text", "user", "token"]
    text: str = ""
    token: int = -1
    learned: bool = False


def pieces_of(
    template: TemplateName, turns: Sequence[Turn], tokenizer: Tokenizer, open_end: bool
) -> tuple[list[Piece], tuple[int, ...]]:
    """Pieces of a conversation, and the tokens that end an answer.

    Args:
        template: Which writing.
        turns: A checked conversation.
        tokenizer: Of the language model.
        open_end: The last turn is a question; the start of an answer is appended.

    Raises:
        ConfigError: the tokenizer lacks what the template needs.
        ManifestError: `plain` and more than one exchange.
    """
    write = {"plain": _plain, "llava_v1": _llava_v1, "chatml": _chatml, "chat": _chat}
    if template not in write:
        raise ConfigError(
            f"there is no template '{template}' for conversations.",
            stage="models",
            hint=f"Known: {', '.join(write)}.",
        )
    return write[template](turns, tokenizer, open_end)


def _start(tokenizer: Tokenizer) -> list[Piece]:
    return [] if tokenizer.bos_id is None else [Piece("token", token=tokenizer.bos_id)]


def _plain(
    turns: Sequence[Turn], tokenizer: Tokenizer, open_end: bool
) -> tuple[list[Piece], tuple[int, ...]]:
    if len(turns) != (1 if open_end else 2) or turns[0].role != "user":
        raise ManifestError(
            "the template 'plain' takes one question with one answer.",
            stage="models",
            hint="Use the template llava_v1, chatml or chat.",
        )
    slides = SLIDE_MARK * turns[0].text.count(SLIDE_MARK)
    pieces = [*_start(tokenizer), Piece("user", slides)]
    if not open_end:
        pieces += _answer(turns[1].text, tokenizer.eos_id)
    return pieces, (tokenizer.eos_id,)


def _llava_v1(
    turns: Sequence[Turn], tokenizer: Tokenizer, open_end: bool
) -> tuple[list[Piece], tuple[int, ...]]:
    # The conversation fixes the system's sentences; a system turn of the data replaces them.
    system = turns[0].text if turns[0].role == "system" else VICUNA_SYSTEM
    pieces = [*_start(tokenizer), Piece("text", system), Piece("markup", " USER:")]
    rest = [turn for turn in turns if turn.role != "system"]
    for index, turn in enumerate(rest):
        if turn.role == "user":
            if index:
                pieces.append(Piece("markup", "USER:"))
            # Spaces stand before words, where vocabularies have them.
            pieces += [Piece("user", f" {turn.text}"), Piece("markup", " ASSISTANT:")]
        else:
            pieces += _answer(f" {turn.text}", tokenizer.eos_id)
    return pieces, (tokenizer.eos_id,)


def _chatml(
    turns: Sequence[Turn], tokenizer: Tokenizer, open_end: bool
) -> tuple[list[Piece], tuple[int, ...]]:
    end = _only_token("<|im_end|>", tokenizer)
    _only_token("<|im_start|>", tokenizer)
    pieces = _start(tokenizer)
    for turn in turns:
        pieces.append(Piece("markup", f"<|im_start|>{turn.role}\n"))
        if turn.role == "assistant":
            pieces += _answer(turn.text, end)
        else:
            pieces += [Piece("user" if turn.role == "user" else "text", turn.text)]
            pieces += [Piece("token", token=end)]
        pieces.append(Piece("markup", "\n"))
    if open_end:
        pieces.append(Piece("markup", "<|im_start|>assistant\n"))
    return pieces, tuple(dict.fromkeys([end, tokenizer.eos_id]))


def _chat(
    turns: Sequence[Turn], tokenizer: Tokenizer, open_end: bool
) -> tuple[list[Piece], tuple[int, ...]]:
    """The tokenizer's template, with marks for the texts, which then take the marks' places.

    So the template decides on everything around the texts, and no text is read as markup, nor can
    a template leave part of one out. White space around texts is trimmed, as most templates do.
    """
    if not isinstance(tokenizer, ChatTokenizer) or not tokenizer.has_chat_template:
        raise ConfigError(
            "the tokenizer of this language model has no chat template.",
            stage="models",
            hint="Use the template llava_v1.",
        )
    # Private-use characters: no template writes or looks for them.
    marks = [f"\ue000{index}\ue001" for index in range(len(turns))]
    messages = [
        {"role": turn.role, "content": mark} for turn, mark in zip(turns, marks, strict=True)
    ]
    whole = tokenizer.render(messages, open_end)
    pieces: list[Piece] = []
    ends: list[int] = []
    previous: Turn | None = None
    at = 0
    for index, (turn, mark) in enumerate(zip(turns, marks, strict=True)):
        place = whole.find(mark, at)
        if place < 0 or whole.count(mark) > 1:
            raise ConfigError(
                f"the chat template does not write each turn once (it fails for a turn of the "
                f"{turn.role}).",
                stage="models",
                hint="Use the template chatml or llava_v1.",
            )
        text, begin = turn.text.strip(), place
        if turn.role == "assistant":
            prompt = tokenizer.render(messages[:index], True)
            if at <= len(prompt) <= place and whole.startswith(prompt):
                begin = len(prompt)
        pieces += _between(whole[at:begin], previous, tokenizer, ends)
        # What stands between prompt and answer is for the model to say: it is learned too.
        lead = whole[begin:place]
        if lead.strip():
            pieces.append(Piece("markup", lead, learned=True))
        else:
            text = lead + text
        kind: Literal["user", "text"] = "user" if turn.role == "user" else "text"
        pieces.append(Piece(kind, text, learned=turn.role == "assistant"))
        previous, at = turn, place + len(mark)
    pieces += _between(whole[at:], previous, tokenizer, ends)
    if not ends:
        ends = _end_of_answers(tokenizer)
    return pieces, tuple(dict.fromkeys([*ends, tokenizer.eos_id]))


def _between(
    markup: str, previous: Turn | None, tokenizer: MarkupTokenizer, ends: list[int]
) -> list[Piece]:
    """Markup between two texts; after an answer, it is learned up to its first special token."""
    ids = tokenizer.encode_markup(markup) if markup else []
    learned = 0
    if previous is not None and previous.role == "assistant":
        special = [index for index, id_ in enumerate(ids) if id_ in tokenizer.special_ids]
        if not special:
            raise ConfigError(
                "the chat template ends answers with no special token, so a model could not "
                "learn where to stop.",
                stage="models",
                hint="Use the template chatml or llava_v1.",
            )
        learned = special[0] + 1
        ends.append(ids[special[0]])
    return [Piece("token", token=id_, learned=index < learned) for index, id_ in enumerate(ids)]


def _end_of_answers(tokenizer: ChatTokenizer) -> list[int]:
    """The token that ends answers, seen on an exchange of its own; for prompts with none."""
    turns = [Turn("user", "q"), Turn("assistant", "a")]
    _, ends = _chat(turns, tokenizer, False)
    return list(ends)


def _answer(text: str, end: int) -> list[Piece]:
    return [Piece("text", text, learned=True), Piece("token", token=end, learned=True)]


def _only_token(name: str, tokenizer: Tokenizer) -> int:
    ids = tokenizer.encode_markup(name) if isinstance(tokenizer, MarkupTokenizer) else []
    if len(ids) != 1:
        raise ConfigError(
            f"the template 'chatml' needs a vocabulary with the token {name}.",
            stage="models",
            hint="Use the template llava_v1, or chat for the model's own.",
        )
    return ids[0]
