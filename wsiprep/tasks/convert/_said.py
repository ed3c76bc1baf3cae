"""What public sets write into questions and answers: placeholders, lettered choices, barcodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from wsiprep.train.language.manifest import PLACEHOLDER, Role, Turn
from wsiprep.train.language.splits import tcga_patient

__all__ = [
    "choice_of",
    "one_patient",
    "slide_of",
    "split_choices",
    "turns_of",
    "without_placeholder",
]

_SUFFIX: Final = re.compile(
    r"\.(pt|pth|csv|h5|hdf5|npy|npz|zarr|svs|tiff?|ndpi|mrxs|scn|bif|vms|dcm|jpe?g|png)$", re.I
)
_LETTERS: Final = "ABCDEFGH"
_ROLES: Final[dict[str, Role]] = {
    **{"human": "user", "user": "user"},
    **{"gpt": "assistant", "assistant": "assistant"},
    "system": "system",
}


def slide_of(name: str) -> str:
    """A slide id from the name of its feature file: `TCGA-LUSC/X.pt` is X."""
    plain = PurePosixPath(PureWindowsPath(name).as_posix()).name
    return _SUFFIX.sub("", plain) or plain


def one_patient(slides: Sequence[str]) -> str:
    """The TCGA patient of all slides of a sample, or empty.

    Raises:
        ValueError: they are of several.
    """
    patients = {tcga_patient(slide) for slide in slides}
    if len(patients) > 1:
        raise ValueError(f"its slides are of several patients: {', '.join(sorted(patients))}")
    return patients.pop()


def without_placeholder(value: str) -> str:
    """A text without the slide's placeholder, which may stand before or after it.

    Raises:
        ValueError: it stands inside the text, or nothing else does.
    """
    plain = value.strip()
    while plain.startswith(PLACEHOLDER) or plain.endswith(PLACEHOLDER):
        plain = plain.removeprefix(PLACEHOLDER).removesuffix(PLACEHOLDER).strip()
    if PLACEHOLDER in plain:
        raise ValueError(f"{PLACEHOLDER} stands inside a text, where taking it out would garble it")
    if not plain:
        raise ValueError("a turn says nothing")
    return plain


def turns_of(value: Any) -> tuple[Turn, ...]:
    """Turns of `[{"from": "human", "value": …}, …]`, or of `[{"role": …, "content": …}, …]`.

    Only the first user turn may hold the placeholder of the slide.

    Raises:
        ValueError: it is no such list, or a side speaks out of turn.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("'conversations' must be a list of turns")
    turns: list[Turn] = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise ValueError(f"turn {number} is no object")
        who, said = (item.get(a, item.get(b)) for a, b in (("from", "role"), ("value", "content")))
        if not isinstance(who, str) or who not in _ROLES or not isinstance(said, str):
            raise ValueError(f"turn {number} does not say who speaks and what")
        role = _ROLES[who]
        expected = ("user", "assistant")[sum(turn.role != "system" for turn in turns) % 2]
        if role != expected and not (role == "system" and number == 1):
            raise ValueError(f"turn {number} is by '{who}', where the {expected} speaks")
        first = role == "user" and not any(turn.role == "user" for turn in turns)
        turns.append(Turn(role, without_placeholder(said) if first else said.strip()))
    return tuple(turns)


def split_choices(question: str) -> tuple[str, tuple[str, ...]]:
    """A question and its lettered choices: `Which? A) one B) two` gives `Which?`, (one, two).

    The choices are the last run of A), B), … in order, or else of A., B., …; without one there
    are none.
    """
    for mark in (r"\(?([A-H])\)", r"([A-H])\."):
        marks = list(re.finditer(rf"(?:^|(?<=\s)){mark}\s*", question))
        starts = [place for place, m in enumerate(marks) if m.group(1) == "A"]
        run = marks[starts[-1] :] if starts else []
        if len(run) > 1 and [m.group(1) for m in run] == list(_LETTERS[: len(run)]):
            ends = [m.start() for m in run[1:]] + [len(question)]
            pieces = [question[m.end() : end] for m, end in zip(run, ends, strict=True)]
            choices = tuple(piece.strip() for piece in pieces)
            return question[: run[0].start()].strip(), choices
    return question.strip(), ()


def choice_of(answer: str, choices: Sequence[str]) -> str:
    """The choice that an answer names: by letter, by letter and text, or by its text.

    Raises:
        ValueError: it names none, or more than one.
    """
    plain = answer.strip().strip("`*\"' \n")
    same = [c for c in choices if c.casefold() == plain.casefold()]
    if len(same) == 1:
        return same[0]
    match = re.fullmatch(r"\(?([A-Ha-h])(?:[).:,]+(?:\s+(.*))?)?", plain, re.S)
    if match and (place := _LETTERS.index(match.group(1).upper())) < len(choices):
        said = (match.group(2) or "").strip()
        if not said or said.casefold().rstrip(".") == choices[place].casefold().rstrip("."):
            return choices[place]
    raise ValueError(f"the answer {answer[:60]!r} names none of {len(choices)} choices")
