"""Judge by rules, without a model: the same texts, the same scores, anywhere.

It knows clauses, words in one form, negation, and slots (grade, differentiation, TNM, stage, marker
results, margins, types, prognosis, sizes). It does not know medicine: it will not see that two
wordings mean the same, and rewards using the reference's words. Its scores are for testing, and for
comparing models where no judge may be asked. They have names of their own, `wsi_p_offline` and
`wsi_r_offline`, and are not to be set beside scores of other judges.

A claim's score is the F1 of weighted words between it and the part of the text that is most like
it: 1 from 0.8, 0.7 from 0.5, 0.3 from 0.2, else 0. It is at most 0.3 where the text contradicts it:
a slot has another value, or what the claim affirms is denied, in a part at least as much like it
as any part that agrees. Whatever else a text says makes no difference to a claim.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise

from wsiprep.core.config import Settings
from wsiprep.metrics.judge import ClaimScore, Judge, Kind
from wsiprep.metrics.judges._clauses import clauses, tidy
from wsiprep.metrics.judges._slots import fill, strong
from wsiprep.metrics.judges._words import IDLE, expand, lemma

__all__ = ["Config", "OfflineJudge", "create"]

RUBRIC = "offline-1"
"""Raised whenever the same texts would score otherwise."""

STEPS = ((0.8, 1.0), (0.5, 0.7), (0.2, 0.3))
"""F1 from which a claim scores what."""
CONTRADICTED = 0.3
SIGNED = ("ihc:", "margin", "prognosis", "answer")
"""Slots whose value says already what a negation beside them would."""
SLOT_WEIGHT = 2.0
"""A slot's value beside a word."""
RUN = 4
"""A part of a clause is up to this many neighbours of those that commas and "and" make."""

_BEFORE = re.compile(
    r"\b(?:no|not|without|neither|nor|never|cannot|absence of|absent|lack of|lacks?|lacking|"
    r"negative for|free of|free from|devoid of|fails? to|rather than|instead of|"
    r"rules? out|ruled out|excludes?|excluding|denies)\b|n't\b"
)
_BEHIND = re.compile(
    r"\b(?:(?:not|never) (?:be |been |being |readily |clearly |definitively )?(?:identified|seen|"
    r"present|detected|observed|found|noted|evident|appreciated|involved|visible|apparent|shown)|"
    r"absent|excluded|ruled out|uninvolved|lacking|negative)\b(?!\s+(?:for|of))"
)
_STOP = re.compile(
    r"\b(?:but|however|although|though|except|yet|whereas|while|instead)\b"
    r"|,\s+(?:with|which|the|and the|(?!including)[a-z]{3,}ing)\b"
)
_BREAK = re.compile(r"[,:;()]|\b(?:and|or|with|showing|including)\b")
_TOKEN = re.compile(r"\d+(?:\.\d+)+|[^\W_]+")


class Config(Settings):
    """Options of the judge `offline`: none."""


def create(cfg: Config) -> Judge:
    """Make the judge."""
    return OfflineJudge()


@dataclass(frozen=True, slots=True)
class Part:
    """What a clause, or a part of it, says.

    Attributes:
        weights: Weight of each word and of each slot's value.
        denied: Words in the scope of a negation.
        slots: Values by slot.
    """

    weights: dict[str, float]
    denied: frozenset[str]
    slots: dict[str, frozenset[str]]


class OfflineJudge:
    """The judge of this module."""

    id = "offline"
    rubric = RUBRIC
    suffix = "_offline"

    def extract(self, question: str, answer: str) -> tuple[str, ...]:
        """Clauses of the answer that say something. The question makes no difference."""
        return tuple(clause for clause in clauses(answer) if part_of(clause).weights)

    def score(self, claims: Sequence[str], text: str, kind: Kind) -> tuple[ClaimScore, ...]:
        """Compare each claim with the text; a text bears out its own claims."""
        said = clauses(text)
        if claims and {tidy(claim) for claim in claims} == set(said):
            return tuple(ClaimScore(claim, 1.0, "the same words") for claim in claims)
        parts = [part for clause in said for part in parts_of(clause)]
        return tuple(ClaimScore(claim, *_compare(part_of(tidy(claim)), parts)) for claim in claims)


def part_of(clause: str) -> Part:
    """All that a clause says."""
    return parts_of(clause)[0]


@lru_cache(maxsize=4096)
def parts_of(clause: str) -> tuple[Part, ...]:
    """A clause, and the runs of its pieces between commas, "and" and "with"."""
    known = (
        expand(clause) if not re.search(r"\b(?:ER|PR|PgR)\b", clause) else _expand_keeping(clause)
    )
    filled = fill(known)
    rest = list(known.lower())
    for one in filled:
        rest[one.start : one.end] = " " * (one.end - one.start)
    plain = "".join(rest)
    denied = _scopes(plain)
    cues = _BEHIND.sub(_blank, plain)
    cues = _BEFORE.sub(_blank, cues)
    tokens: list[tuple[int, str, float, bool, str]] = []
    for match in _TOKEN.finditer(cues):
        if match.group() not in IDLE:
            no = any(a <= match.start() < b for a, b in denied)
            tokens.append((match.start(), lemma(match.group()), 1.0, no, ""))
    for one in filled:
        if one.key:
            no = not one.key.startswith(SIGNED) and any(a <= one.start < b for a, b in denied)
            weight = 1.0 if one.key.startswith("level:") else SLOT_WEIGHT
            tokens.append((one.start, f"{one.key}={one.value}", weight, no, one.key))
    tokens.sort()
    breaks = [0, *(match.end() for match in _BREAK.finditer(plain)), len(plain) + 1]
    pieces = [
        [token for token in tokens if start <= token[0] < end] for start, end in pairwise(breaks)
    ]
    pieces = [piece for piece in pieces if piece]
    runs = [
        list(chain(*pieces[first : first + length]))
        for length in range(1, min(RUN, len(pieces) - 1) + 1)
        for first in range(len(pieces) - length + 1)
    ]
    return tuple(map(_part, [tokens, *runs]))


def _part(tokens: Sequence[tuple[int, str, float, bool, str]]) -> Part:
    slots: dict[str, set[str]] = {}
    for _, name, _, no, key in tokens:
        if key and not no:
            slots.setdefault(key, set()).add(name.split("=", 1)[1])
    return Part(
        weights={name: weight for _, name, weight, _, _ in tokens},
        denied=frozenset(name for _, name, _, no, _ in tokens if no),
        slots={key: frozenset(values) for key, values in slots.items()},
    )


def _compare(claim: Part, parts: Sequence[Part]) -> tuple[float, str]:
    """(score, why) of a claim."""
    if not claim.weights or not parts:
        return 0.0, "nothing like it"
    alike = [_f1(claim, part) for part in parts]
    best = max(alike)
    level = next((score for least, score in STEPS if best >= least - 1e-9), 0.0)
    against = _contradiction(claim, parts, alike)
    if against:
        return min(level, CONTRADICTED), f"contradicted: {against}"
    return level, f"F1 {best:.2f}"


def _contradiction(claim: Part, parts: Sequence[Part], alike: Sequence[float]) -> str:
    """What the text says otherwise, in a part as much like the claim as any that agrees."""
    topics = [_topic(claim, part) for part in parts]
    for key, values in claim.slots.items():
        yes = no = -1.0
        for part, topic in zip(parts, topics, strict=True):
            if key in part.slots:
                if _agree(values, part.slots[key]):
                    yes = max(yes, topic)
                elif strong(key) or topic >= STEPS[1][0]:
                    no = max(no, topic)
        if no >= 0 and no >= yes:
            return key
    yes = no = -1.0
    for part, f1 in zip(parts, alike, strict=True):
        shared = claim.weights.keys() & part.weights.keys()
        flipped = {name for name in shared if (name in claim.denied) != (name in part.denied)}
        if flipped and f1 >= STEPS[1][0]:
            no = max(no, f1)
        elif shared and not flipped:
            yes = max(yes, f1)
    return "negation" if no >= 0 and no >= yes else ""


def _agree(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether values go together: one in common, or one more precise (T2 and T2b)."""
    return any(
        a == b
        or (a[:1].isdigit() and a.rstrip("abcd") == b.rstrip("abcd") and min(len(a), len(b)) == 1)
        for a in one
        for b in other
    )


def _f1(claim: Part, part: Part) -> float:
    return _overlap(claim.weights, part.weights)


def _topic(claim: Part, part: Part) -> float:
    """F1 where slots count as shared whatever their values."""
    return _overlap(_keys(claim), _keys(part))


def _keys(part: Part) -> dict[str, float]:
    return {name.split("=", 1)[0]: weight for name, weight in part.weights.items()}


def _overlap(one: dict[str, float], other: dict[str, float]) -> float:
    shared = sum(weight for name, weight in one.items() if name in other)
    total = sum(one.values()) + sum(other.values())
    return 2 * shared / total if total else 0.0


def _scopes(plain: str) -> list[tuple[int, int]]:
    """Spans of a clause that a negation denies."""
    found = [(0, match.start()) for match in _BEHIND.finditer(plain)]
    for match in _BEFORE.finditer(_BEHIND.sub(_blank, plain)):
        stop = _STOP.search(plain, match.end())
        found.append((match.end(), stop.start() if stop else len(plain)))
    return found


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _expand_keeping(clause: str) -> str:
    """As `expand`, with the markers ER and PR still in capitals."""
    return re.sub(
        r"\b(er|pr|pgr)(?=\b)", lambda m: m.group().upper().replace("PGR", "PR"), expand(clause)
    )
