"""Answers to questions with options: what a text chooses, and what likelihoods choose.

A parser that is too strict counts right answers as wrong; one that guesses counts wrong ones as
right. This one takes a letter or the text of an option, wrapped as models wrap them, and chooses
nothing where the text says two things, or denies what it names. What it could not read is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiprep.metrics.bootstrap import Statistic, mean_of

__all__ = ["Choice", "Likelihood", "Vqa", "choose_by_likelihood", "compare_answers"]
__all__ += ["exact_match", "parse_choice"]

How = Literal["letter", "text", "both", "none", "ambiguous"]

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", re.DOTALL | re.IGNORECASE)
_CUE = re.compile(
    r"\b(?:(?:final|correct|best|right|most likely)\s+)*(?:answer|option|choice)\b"
    r"(?:\s+(?:is|would be|should be|must be|has to be))?\s*[:=]?\s*",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|n't|no|never|neither|nor|without|rather than|instead of|unlike|excludes?|excluding|"
    r"rules? out|ruled out|incorrect|wrong|less likely(?: than)?)\s+(?:an?\s+|the\s+|option\s+)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a text chooses.

    Attributes:
        index: Number of the option, or None.
        how: `letter`, `text` or `both` of it found; `none`: no option found; `ambiguous`: more
            than one, or a letter with the text of another.
    """

    index: int | None
    how: How


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What likelihoods choose; of equal ones the first option.

    Attributes:
        raw: Option whose tokens are likeliest together: favours short ones.
        normalised: Option whose tokens are likeliest on average.
    """

    raw: int
    normalised: int


@dataclass(frozen=True, slots=True, eq=False)
class Vqa:
    """Answers of n questions.

    Attributes:
        correct: bool (n,).
        parsed: bool (n,), whether the answer could be read; where not, it is not correct.
        majority: float64 (n,), whether the commonest right answer is right here; see
            `compare_answers`.
    """

    correct: NDArray[np.bool_]
    parsed: NDArray[np.bool_]
    majority: NDArray[np.float64]

    @property
    def n_unparsed(self) -> int:
        """Answers that could not be read."""
        return int((~self.parsed).sum())

    @property
    def accuracy(self) -> float:
        """Share of all questions that are right; NaN without questions."""
        return float(self.correct.mean()) if len(self.correct) else float("nan")

    def by_group(self, groups: Sequence[Hashable]) -> dict[Hashable, tuple[int, float]]:
        """(questions, accuracy) of each group, in order of first appearance.

        Raises:
            ValueError: not one group a question.
        """
        if len(groups) != len(self.correct):
            raise ValueError(f"{len(groups)} groups for {len(self.correct)} questions")
        rows: dict[Hashable, list[bool]] = {}
        for group, right in zip(groups, self.correct.tolist(), strict=True):
            rows.setdefault(group, []).append(right)
        return {group: (len(said), sum(said) / len(said)) for group, said in rows.items()}

    def statistics(self) -> dict[str, Statistic]:
        """For `bootstrap_interval`."""
        return {"accuracy": mean_of(self.correct)}

    def majority_statistics(self) -> dict[str, Statistic]:
        """The same of always giving the commonest answer."""
        return {"accuracy": mean_of(self.majority)}


def parse_choice(text: str, options: Sequence[str]) -> Choice:
    """What a text chooses among options A, B, C, ...

    The last "answer is ..." of the text is read alone, if it names an option; else the whole. A
    letter counts where it opens or closes what is read, stands in brackets, or has a mark behind
    it: "A tumour" is no A. The text of an option counts where it is named, not denied, and is not
    part of a longer option that is named.

    Args:
        text: What a model wrote.
        options: Texts of the options, without letters; at most 26.

    Raises:
        ValueError: no options, more than 26, or two that read the same.
    """
    plain = [_plain(option) for option in options]
    if not 1 <= len(options) <= 26 or len(set(plain)) != len(plain) or not all(plain):
        raise ValueError(f"options must be 1 to 26 different texts, not {list(options)}")
    said = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text)).replace("*", "").strip()
    cues = [cue.end() for cue in _CUE.finditer(said)]
    for start in reversed(cues):
        line = said[start:].split("\n", 1)[0]
        found = _read(line, plain)
        if found.how != "none":
            return found
    return _read(said, plain)


def choose_by_likelihood(log_likelihood: Sequence[float], tokens: Sequence[int]) -> Likelihood:
    """Choose the likeliest option.

    Args:
        log_likelihood: For each option, the sum of the log probabilities of its tokens (nats).
        tokens: How many tokens each has.

    Raises:
        ValueError: no options, shapes differ, an option without tokens, or a NaN.
    """
    total, count = np.asarray(log_likelihood, dtype=np.float64), np.asarray(tokens)
    if total.ndim != 1 or total.shape != count.shape or not len(total) or count.min() < 1:
        raise ValueError("every option needs a likelihood and at least one token")
    if np.isnan(total).any():
        raise ValueError("a likelihood is not a number")
    return Likelihood(int(total.argmax()), int((total / count).argmax()))


def compare_answers(
    chosen: Sequence[int | None], right: Sequence[int], options: Sequence[Sequence[str]]
) -> Vqa:
    """Answers by number against the right ones.

    The commonest answer is one of two, whichever is right more often: the commonest letter, or
    the commonest text (as "Yes", where questions share options in other orders).

    Args:
        chosen: Number of the option chosen for each question, None where none could be read.
        right: Number of the right option.
        options: Texts of the options of each question.

    Raises:
        ValueError: lengths differ, or a number is no option.
    """
    if not len(chosen) == len(right) == len(options):
        raise ValueError("there must be one choice, one right answer and options a question")
    for number, (said, answer, texts) in enumerate(zip(chosen, right, options, strict=True)):
        if not all(0 <= k < len(texts) for k in (answer, 0 if said is None else said)):
            raise ValueError(f"question {number} has no option of that number")
    texts = [_plain(texts[answer]) for texts, answer in zip(options, right, strict=True)]
    guesses = [_commonest(right), _commonest(texts)] if len(right) else [np.zeros(0)]
    return Vqa(
        correct=np.array([a == b for a, b in zip(chosen, right, strict=True)], dtype=np.bool_),
        parsed=np.array([said is not None for said in chosen], dtype=np.bool_),
        majority=max(guesses, key=lambda rows: float(rows.sum())),
    )


def exact_match(answer: str, reference: str) -> bool:
    """Whether two short texts say the same: words and signs compared, case and articles ignored."""
    return _plain(answer) == _plain(reference)


def _commonest(values: Sequence[Hashable]) -> NDArray[np.float64]:
    best, _ = Counter(values).most_common(1)[0]
    return np.array([value == best for value in values], dtype=np.float64)


def _read(said: str, options: Sequence[str]) -> Choice:
    letters = _letters(_without(said, options), len(options))
    texts = _texts(_plain(said), options)
    if len(letters) > 1 or (letters and texts and texts != letters):
        return Choice(None, "ambiguous")
    if letters:
        return Choice(letters.pop(), "both" if texts else "letter")
    if len(texts) == 1:
        return Choice(texts.pop(), "text")
    return Choice(None, "ambiguous" if texts else "none")


def _without(said: str, options: Sequence[str]) -> str:
    """A text without the texts of options, so that "luminal A" is no letter."""
    for option in sorted(options, key=len, reverse=True):
        if len(option) > 2:
            tokens = r"\W*".join(re.escape(token) for token in option.split())
            said = re.sub(rf"(?<!\w){tokens}(?!\w)", "\0", said, flags=re.IGNORECASE)
    return said


def _letters(said: str, count: int) -> set[int]:
    """Options that are named by their letter."""
    upper = "".join(chr(65 + k) for k in range(count))
    either = upper + upper.lower()
    spots = [
        rf"^\W*([{either}])\W*$",  # alone
        rf"^\W*([{either}])\s*[).:\]]",  # b) ...
        rf"^\W*([{upper}])(?:\s*[,;]|\s+-|\n|\s+(?:because|since|as)\b|\s*\0)",  # B, because
        rf"[(\[]([{either}])[)\]]",  # ... (b)
        rf"\b(?i:option|answer|choice|letter|choose|pick|select)\s+([{upper}])\b",  # option B
        rf"(?:'s|\b(?:is|be|was|as))\s+([{upper}])(?=\W*$|[).:,;]|\s+(?:because|since)\b)",  # is B.
        rf"\b([{upper}])\s*(?:,|/|or|and|&)\s*([{upper}])\b",  # A or B
        rf"\b(?:or|and)\s+([{upper}])[).:]",  # A) or B)
    ]
    found: set[int] = set()
    for spot in spots:
        for match in re.finditer(spot, said):
            if not _DENIED.search(said[: match.start(1)].rstrip("([ ") + " "):
                found.update(ord(letter.upper()) - 65 for letter in match.groups())
    return found


def _texts(said: str, options: Sequence[str]) -> set[int]:
    """Options that are named by their text and not denied; the longest first."""
    tight = said.replace(" ", "")
    for number, option in enumerate(options):
        if tight == option.replace(" ", ""):
            return {number}
    opening = [k for k, text in enumerate(options) if re.match(rf"{re.escape(text)}(?!\S)", said)]
    if opening and all(len(text) <= 5 for text in options):
        return {max(opening, key=lambda k: len(options[k]))}  # "Yes, there is no necrosis"
    rest = said
    found: set[int] = set()
    for number in sorted(range(len(options)), key=lambda k: -len(options[k])):
        spot = re.compile(rf"(?<!\S){re.escape(options[number])}(?!\S)")
        for match in spot.finditer(rest):
            if not _DENIED.search(rest[: match.start()]):
                found.add(number)
        rest = spot.sub(lambda match: "\0" * len(match.group()), rest)
    return found


def _plain(text: str) -> str:
    """Lower case, words and signs with one blank between, without articles."""
    lower = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    tokens = re.findall(r"\d+(?:\.\d+)+|[^\W_]+(?:'[^\W_]+)?|[+%<>/-]", lower)
    last = len(tokens) - 1  # "luminal a" is not luminal
    kept = (t for k, t in enumerate(tokens) if k == last or t not in ("a", "an", "the"))
    return " ".join(kept)
