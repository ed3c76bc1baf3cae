"""What a judge of texts is, and answers of a judge kept on disk.

A judge takes a text apart into claims, and says how well another text bears each of them out.
`wsiprep.metrics.judges` has some; `wsiprep.metrics.claims` makes WSI-Precision and WSI-Relevance
of what they say.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

from wsiprep.core.config import digest
from wsiprep.core.errors import OutputError

__all__ = ["LEVELS", "CachedJudge", "ClaimScore", "Judge", "Kind", "Unscored", "as_level"]

LEVELS: Final = (1.0, 0.7, 0.3, 0.0)
"""What a claim may score: borne out, mostly, named but wrong at its core, wrong or absent."""

Kind = Literal["precision", "relevance"]
"""Whose claims they are: `precision` those of the reference answer, looked for in the response;
`relevance` those of the response, looked for in the reference answer."""


@dataclass(frozen=True, slots=True)
class ClaimScore:
    """A claim, and how well a text bears it out.

    Attributes:
        claim: As `extract` gave it.
        score: One of `LEVELS`.
        why: A few words; may be empty.
    """

    claim: str
    score: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Unscored:
    """A judge's answer that cannot be used; it is counted, and never taken for a score.

    Attributes:
        reason: One sentence.
    """

    reason: str


@runtime_checkable
class Judge(Protocol):
    """Takes texts apart and compares them."""

    @property
    def id(self) -> str:
        """Which judge it is: everything that may change what it says. Never a secret."""
        ...

    @property
    def rubric(self) -> str:
        """Version of its rules or prompts."""
        ...

    @property
    def suffix(self) -> str:
        """Behind the names of the metrics: empty for models, `_offline` for rules."""
        ...

    def extract(self, question: str, answer: str) -> tuple[str, ...] | Unscored:
        """Claims of an answer that bear on the question, each once.

        Raises:
            EnvironmentProblem: the judge cannot be asked at all.
        """
        ...

    def score(
        self, claims: Sequence[str], text: str, kind: Kind
    ) -> tuple[ClaimScore, ...] | Unscored:
        """How well a text bears out each claim, in their order.

        Raises:
            EnvironmentProblem: the judge cannot be asked at all.
        """
        ...


def as_level(value: object) -> float | None:
    """The level a number is, or None where it is none of them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return next((level for level in LEVELS if abs(level - value) < 1e-6), None)


class CachedJudge:
    """A judge that is asked everything once.

    An answer is a file named by the sha256 of the judge's id, its rubric's version, and what it
    was asked. Answers that could not be used are not kept. Several processes may share a folder.

    Args:
        judge: The judge to ask.
        folder: Where answers are kept; made if it is not there. They hold the claims, so keep the
            folder as private as the texts.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge = judge
        self.folder = folder
        self.hits = 0
        self.asked = 0

    @property
    def id(self) -> str:
        """Of the judge."""
        return self.judge.id

    @property
    def rubric(self) -> str:
        """Of the judge."""
        return self.judge.rubric

    @property
    def suffix(self) -> str:
        """Of the judge."""
        return self.judge.suffix

    def extract(self, question: str, answer: str) -> tuple[str, ...] | Unscored:
        """As the judge, or as it answered before."""
        path = self._path("extract", [question, answer])
        kept = _read(path)
        if isinstance(kept, list) and all(isinstance(claim, str) for claim in kept):
            self.hits += 1
            return tuple(kept)
        self.asked += 1
        said = self.judge.extract(question, answer)
        if not isinstance(said, Unscored):
            _write(path, self._entry(list(said)))
        return said

    def score(
        self, claims: Sequence[str], text: str, kind: Kind
    ) -> tuple[ClaimScore, ...] | Unscored:
        """As the judge, or as it answered before."""
        path = self._path("score", [list(claims), text, kind])
        kept = _scores(_read(path), claims)
        if kept is not None:
            self.hits += 1
            return kept
        self.asked += 1
        said = self.judge.score(claims, text, kind)
        if not isinstance(said, Unscored):
            _write(path, self._entry([asdict(one) for one in said]))
        return said

    def _path(self, what: str, inputs: list[Any]) -> Path:
        key = digest({"judge": self.id, "rubric": self.rubric, "what": what, "inputs": inputs})
        return self.folder / key[:2] / f"{key}.json"

    def _entry(self, answer: list[Any]) -> dict[str, Any]:
        return {"judge": self.id, "rubric": self.rubric, "answer": answer}


def _scores(kept: Any, claims: Sequence[str]) -> tuple[ClaimScore, ...] | None:
    """Scores of a file, if they are of these claims."""
    if not isinstance(kept, list) or len(kept) != len(claims):
        return None
    found = []
    for row, claim in zip(kept, claims, strict=True):
        level = as_level(row.get("score")) if isinstance(row, dict) else None
        if level is None or row.get("claim") != claim:
            return None
        found.append(ClaimScore(claim, level, str(row.get("why", ""))))
    return tuple(found)


def _read(path: Path) -> Any:
    """The answer in a file; None where there is none that can be read."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry.get("answer") if isinstance(entry, dict) else None


def _write(path: Path, entry: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file, ensure_ascii=False, indent=1)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as err:
        raise OutputError(
            f"cannot keep a judge's answer in {path.parent}: {err.strerror}.",
            hint="Check permissions and free space of the cache folder.",
        ) from err
