"""What is said of slides of known composition: captions, questions with answers, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsiprep.synth.composition import KINDS, Kind

__all__ = ["NAMES", "Question", "prompts", "questions_on", "sentence", "wording_of"]

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
_PROMPTS = ("{}.", "Most of the tissue shows {}.", "The section shows {}.")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a slide, its answers to choose from, and which is true.

    Attributes:
        task: `main kind`, `presence` or `lesser kind`.
        text: The question.
        choices: Possible answers.
        answer: One of them.
    """

    task: str
    text: str
    choices: tuple[str, ...]
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
    """On the main kind, on a lesser one, and on the presence of each kind that is there.

    And on the presence of as many that are not, so that yes is right as often as no.

    Args:
        kinds: Of a slide, the main one first; at most three.
        rng: Chooses what is not there.
    """
    absent = [name for name in KINDS if name not in kinds]
    missing = [absent[i] for i in rng.choice(len(absent), len(kinds), replace=False)]
    every = tuple(NAMES[name] for name in KINDS)
    asked = [Question("main kind", "What does most of the tissue show?", every, NAMES[kinds[0]])]
    lesser = kinds[1:]
    if lesser:
        right = lesser[int(rng.integers(len(lesser)))]
        wrong = [absent[i] for i in rng.choice(len(absent), 3, replace=False)]
        choices = tuple(NAMES[name] for name in sorted([right, *wrong], key=KINDS.index))
        text = "Which of these does a smaller area show?"
        asked.append(Question("lesser kind", text, choices, NAMES[right]))
    for names, answer in ((kinds, "yes"), (missing, "no")):
        asked += [
            Question("presence", f"Does the section show {NAMES[n]}?", ("yes", "no"), answer)
            for n in sorted(names, key=KINDS.index)
        ]
    return tuple(asked)


def sentence(phrase: str, kind: Kind) -> str:
    """A phrase about a kind, as a sentence."""
    said = phrase.format(NAMES[kind])
    return said[0].upper() + said[1:]
