"""How the turns of a conversation are written for a language model, and what of it is learned.

`plain`: the slides, then the answer, and nothing else: the text of the question is left out, as in
LLaVA's first stage, which learns the projector from captions.
`llava_v1`: the conversation of Vicuna and LLaVA-1.5.
`chatml`: `<|im_start|>role ... <|im_end|>`, for vocabularies that have these tokens.
`chat`: the template that comes with the tokenizer, whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

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
_MARK: Final = re.compile("\ue000([0-9]+)\ue001")


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

    A template may write an answer otherwise once others follow it: those of models that think put
    an empty thought into the start of an answer, and leave it out of earlier ones. So each question
    is written as it was when it was the last, and its answer stays behind what was asked then.
    """
    if not isinstance(tokenizer, ChatTokenizer) or not tokenizer.has_chat_template:
        raise ConfigError(
            "the tokenizer of this language model has no chat template.",
            stage="models",
            hint="Use the template llava_v1.",
        )
    pieces: list[Piece] = []
    ends: list[int] = []
    for answered in [index + 1 for index, turn in enumerate(turns) if turn.role == "user"]:
        said = turns[:answered]
        start, lead, close = _exchange(said, tokenizer)
        pieces += _filled(start, said, tokenizer, ends)
        if answered < len(turns):
            pieces.append(Piece("text", lead + turns[answered].text.strip(), learned=True))
        if answered == len(turns) - 1:
            pieces += _between(close, True, tokenizer, ends)
    if open_end:
        ends += _ends_of_answers(tokenizer)
    return pieces, tuple(dict.fromkeys([*ends, tokenizer.eos_id]))


def _exchange(turns: Sequence[Turn], tokenizer: ChatTokenizer) -> tuple[str, str, str]:
    """Markup of the last question and around its answer.

    Args:
        turns: Ending with the question.
        tokenizer: With a chat template.

    Returns:
        What stands between the answer before and this one, with marks; white space that the answer
        begins with; and what stands behind it, if it is the last.
    """
    messages = [{"role": turn.role, "content": _mark(i)} for i, turn in enumerate(turns)]
    start = tokenizer.render(messages, True)
    for index, turn in enumerate(turns):
        if start.count(_mark(index)) != 1:
            raise _not_once(turn.role)
    mark = _mark(len(turns))
    whole = tokenizer.render([*messages, {"role": "assistant", "content": mark}], False)
    if whole.count(mark) != 1:
        raise _not_once("assistant")
    before, close = whole.split(mark)
    lead = before.removeprefix(start) if before.startswith(start) else ""
    if _MARK.search(lead + close):
        raise _not_once("user")
    if lead.strip():
        # It is the same before every answer: a model need not say it, and is asked with it.
        start, lead = start + lead, ""
    if _follows_answer(turns):
        start = start.partition(_mark(len(turns) - 2))[2]
    return start, lead, close


def _filled(
    markup: str,
    turns: Sequence[Turn],
    tokenizer: ChatTokenizer,
    ends: list[int],
) -> list[Piece]:
    """Pieces of markup, with texts for marks: of the last turn, and of the system."""
    parts = _MARK.split(markup)  # markup, index, markup, ...
    shown = [int(index) for index in parts[1::2]]
    if [index for index in shown if turns[index].role != "system"] != [len(turns) - 1]:
        raise _not_once("user")
    pieces = _between(parts[0], _follows_answer(turns), tokenizer, ends)
    for index, between in zip(shown, parts[2::2], strict=True):
        kind: Literal["user", "text"] = "user" if turns[index].role == "user" else "text"
        pieces.append(Piece(kind, turns[index].text.strip()))
        pieces += _between(between, False, tokenizer, ends)
    return pieces


def _follows_answer(turns: Sequence[Turn]) -> bool:
    return len(turns) > 1 and turns[-2].role == "assistant"


def _mark(index: int) -> str:
    """What stands for the text of a turn; of private-use characters, which no template writes."""
    return f"\ue000{index}\ue001"


def _not_once(role: str) -> ConfigError:
    return ConfigError(
        f"the chat template does not write each turn once (it fails for a turn of the {role}).",
        stage="models",
        hint="Use the template chatml or llava_v1.",
    )


def _between(
    markup: str, after_answer: bool, tokenizer: MarkupTokenizer, ends: list[int]
) -> list[Piece]:
    """Markup between two texts; after an answer, it is learned up to its first special token."""
    ids = tokenizer.encode_markup(markup) if markup else []
    learned = 0
    if after_answer:
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


def _ends_of_answers(tokenizer: ChatTokenizer) -> list[int]:
    """Tokens that end answers, the last and earlier ones, seen on conversations of its own."""
    exchange = [Turn("user", "q"), Turn("assistant", "a")]
    _, last = _chat(exchange, tokenizer, False)
    try:
        _, earlier = _chat(exchange * 2, tokenizer, False)
    except ConfigError:  # A template of one exchange; longer talks are refused where they occur.
        earlier = ()
    return [*last, *earlier]


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
