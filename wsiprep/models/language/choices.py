"""Questions with options: how they are asked, and what answers are compared.

Training writes the answer that evaluation scores, so both use these two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from wsiprep.core.errors import ManifestError

__all__ = ["ChoiceStyle", "option_texts", "question_text"]

ChoiceStyle = Literal["both", "letter", "text"]
"""An option is answered as `B. high`, `B` or `high`."""

_ASKED = {
    "both": "Answer with one of these options.",
    "letter": "Answer with the letter of one of these options.",
    "text": "Answer with the words of one of these options.",
}


def question_text(question: str, choices: Sequence[str], style: ChoiceStyle) -> str:
    """A question with its options below it; without options the question alone.

    Raises:
        ManifestError: more than 26 options.
    """
    if not choices:
        return question
    marks = ["-"] * len(choices) if style == "text" else [f"{k}." for k in _letters(choices)]
    lines = [f"{mark} {text}" for mark, text in zip(marks, choices, strict=True)]
    return "\n".join([question, _ASKED[style], *lines])


def option_texts(choices: Sequence[str], style: ChoiceStyle) -> list[str]:
    """Each option as it is answered.

    Raises:
        ManifestError: more than 26 options.
    """
    if style == "text":
        return list(choices)
    letters = _letters(choices)
    if style == "letter":
        return list(letters)
    return [f"{letter}. {text}" for letter, text in zip(letters, choices, strict=True)]


def _letters(choices: Sequence[str]) -> str:
    if len(choices) > len(ascii_uppercase):
        raise ManifestError(
            f"a question has {len(choices)} options; there are letters for 26.", stage="models"
        )
    return ascii_uppercase[: len(choices)]
