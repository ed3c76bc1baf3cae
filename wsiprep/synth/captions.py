"""What is said of slides of known composition: captions, questions with answers, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsiprep.synth.composition import KINDS, Kind

__all__ = [
    "MAIN_QUESTION",
    "NAMES",
    "Question",
    "prompts",
    "questions_on",
    "sentence",
    "wording_of",
]

NAMES: dict[Kind, str] = {
    "adipose": "adipose tissue",
    "lymphoid": "dense lymphoid infiltrate",
    "tubular": "small tubular glands",
    "cystic": "dilated cystic glands",
    "solid": "solid tumour nests",
    "blood": "lakes of blood",
}
"""What each kind is called in texts."""

_MOSTLY = (
    "Most of the tissue shows {}.",
    "The section consists largely of {}.",
    "Predominantly {}.",
)
_FOCALLY = (
    "There is a smaller area with {}.",
    "Focally, {} can be seen.",
    "A part of the section shows {}.",
)
_IDLE = (
    "The stroma is fibrous.",
    "The section is stained with haematoxylin and eosin.",
    "One piece of tissue was submitted.",
    "The margins of the section are irregular.",
)
MAIN_QUESTION = "What does most of the tissue show?"

_PROMPTS = ("{}.", "Most of the tissue shows {}.", "The section shows {}.")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a slide, and the answer.

    Attributes:
        task: `main kind`, `lesser kinds` or `presence`.
        text: The question.
        answer: What is true.
    """

    task: str
    text: str
    answer: str


def prompts(kind: Kind) -> tuple[str, ...]:
    """Texts that name a kind, for zero-shot classification and grounding."""
    return tuple(sentence(phrase, kind) for phrase in _PROMPTS)


def wording_of(kinds: Sequence[Kind], rng: np.random.Generator) -> str:
    """A caption: a sentence on each kind, in any order, and at most one that says nothing.

    Args:
        kinds: Of a slide, the main one first.
        rng: Chooses phrases, their order and the idle sentence.
    """
    phrases = (_MOSTLY, *(_FOCALLY for _ in kinds[1:]))
    said = [
        sentence(of[int(rng.integers(len(of)))], name)
        for of, name in zip(phrases, kinds, strict=True)
    ]
    if rng.random() < 0.5:
        said.append(_IDLE[int(rng.integers(len(_IDLE)))])
    return " ".join(said[i] for i in rng.permutation(len(said)))


def questions_on(kinds: Sequence[Kind], rng: np.random.Generator) -> tuple[Question, ...]:
    """On the main kind, the lesser ones, the presence of each, and of as many that are absent.

    Args:
        kinds: Of a slide, the main one first; at most three.
        rng: Chooses what is asked for and is not there.
    """
    absent = [name for name in KINDS if name not in kinds]
    missing = [absent[i] for i in rng.permutation(len(absent))[: len(kinds)]]
    lesser = " and ".join(NAMES[name] for name in sorted(kinds[1:], key=KINDS.index))
    return (
        Question("main kind", MAIN_QUESTION, NAMES[kinds[0]]),
        Question("lesser kinds", "What do smaller areas show?", lesser or "stroma alone"),
        *(
            Question("presence", f"Does the section show {NAMES[name]}?", answer)
            for some, answer in ((kinds, "yes"), (missing, "no"))
            for name in some
        ),
    )


def sentence(phrase: str, kind: Kind) -> str:
    """A phrase about a kind, as a sentence."""
    said = phrase.format(NAMES[kind])
    return said[0].upper() + said[1:]
