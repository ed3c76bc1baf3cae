"""WSI-Precision and WSI-Relevance: claims of one text that another bears out.

Precision takes the claims of the *reference answer* and looks for them in the response (it is a
recall of the truth, whatever its name); Relevance takes those of the *response* and looks for them
in the reference answer. A claim scores 1, 0.7, 0.3 or 0. An item scores the mean of its claims,
rounded to three decimals; a task the mean of its items; the whole the mean of all items.

An item is unscored where the judge's answer cannot be used, or the reference makes no claim. The
published scores leave such items out, which flatters whoever makes a judge stumble; so they are
counted here, and the mean with them as 0 stands beside the mean without them. A response that
says nothing scores 0, and the judge is not asked.

Source: WSI-LLaVA, Liang et al., 2024 (definition of both metrics and of the four levels).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsiprep.metrics.bootstrap import Statistic, mean_of
from wsiprep.metrics.judge import ClaimScore, Judge, Unscored

__all__ = ["ClaimReport", "Item", "Judged", "judge_item", "judge_items"]

DECIMALS = 3


@dataclass(frozen=True, slots=True)
class Item:
    """A question about slides, answered twice.

    Attributes:
        id: Its name.
        question: What was asked.
        reference: The right answer.
        response: The model's.
        task: Tasks are averaged apart.
    """

    id: str
    question: str
    reference: str
    response: str
    task: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One metric of one item.

    Attributes:
        claims: Scores of the claims; empty where there is none, or it is unscored.
        value: Mean of them to three decimals; 0 for a response without claims; None if unscored.
        reason: Why it is unscored, else empty.
    """

    claims: tuple[ClaimScore, ...]
    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """Both metrics of all items.

    Attributes:
        items: As given.
        precision: WSI-Precision of each.
        relevance: WSI-Relevance of each.
        judge: Id of the judge.
        rubric: Version of its rules or prompts.
        suffix: Behind the metrics' names: a judge of rules has names of its own.
    """

    items: tuple[Item, ...]
    precision: tuple[Judged, ...]
    relevance: tuple[Judged, ...]
    judge: str
    rubric: str
    suffix: str

    @property
    def columns(self) -> dict[str, tuple[Judged, ...]]:
        """Metrics by name: `wsi_p` and `wsi_r`, or `wsi_p_offline` and `wsi_r_offline`."""
        return {f"wsi_p{self.suffix}": self.precision, f"wsi_r{self.suffix}": self.relevance}

    @property
    def n_unscored(self) -> dict[str, int]:
        """Unscored items, by metric."""
        return {k: sum(one.value is None for one in rows) for k, rows in self.columns.items()}

    def statistics(self) -> dict[str, Statistic]:
        """For `bootstrap_interval`: means over the items that have a score."""
        return {name: mean_of(_values(rows)) for name, rows in self.columns.items()}

    def pessimistic(self) -> dict[str, Statistic]:
        """The same with unscored items as 0."""
        return {k: mean_of(np.nan_to_num(_values(rows))) for k, rows in self.columns.items()}

    def by_task(self) -> dict[str, dict[str, float | int | None]]:
        """For each task its items, the mean of each metric, and how many are unscored."""
        tasks = np.array([item.task for item in self.items], dtype=np.str_)
        found: dict[str, dict[str, float | int | None]] = {}
        for task in dict.fromkeys(item.task for item in self.items):
            rows = tasks == task
            found[task] = {"n": int(rows.sum())}
            for name, judged in self.columns.items():
                values = _values(judged)[rows]
                known = values[np.isfinite(values)]
                found[task][name] = float(known.mean()) if len(known) else None
                found[task][f"{name}_unscored"] = len(values) - len(known)
        return found

    def canonical(self) -> dict[str, Any]:
        """What a report says of the judge."""
        return {
            "judge": self.judge,
            "rubric": self.rubric,
            "n_unscored": self.n_unscored,
            "by_task": self.by_task(),
        }


def judge_items(judge: Judge, items: Iterable[Item]) -> ClaimReport:
    """Judge all items, one after another.

    Args:
        judge: The judge; wrap it in a `CachedJudge` to go on where a run ended.
        items: The items.

    Raises:
        EnvironmentProblem: the judge cannot be asked at all.
    """
    kept = tuple(items)
    pairs = [judge_item(judge, item) for item in kept]
    return ClaimReport(
        items=kept,
        precision=tuple(precision for precision, _ in pairs),
        relevance=tuple(relevance for _, relevance in pairs),
        judge=judge.id,
        rubric=judge.rubric,
        suffix=judge.suffix,
    )


def judge_item(judge: Judge, item: Item) -> tuple[Judged, Judged]:
    """(Precision, Relevance) of one item.

    Raises:
        EnvironmentProblem: the judge cannot be asked at all.
    """
    if not item.reference.strip():
        nothing = Judged((), None, "the reference answer is empty")
        return nothing, nothing
    wanted = judge.extract(item.question, item.reference)
    if not isinstance(wanted, Unscored) and not wanted:
        wanted = Unscored("the reference answer makes no claim")
    if not item.response.strip():
        reason = wanted.reason if isinstance(wanted, Unscored) else ""
        claims = () if isinstance(wanted, Unscored) else wanted
        absent = tuple(ClaimScore(claim, 0.0, "the response is empty") for claim in claims)
        return Judged(absent, None if reason else 0.0, reason), Judged((), 0.0)
    if isinstance(wanted, Unscored):
        precision = Judged((), None, wanted.reason)
    else:
        precision = _judged(judge.score(wanted, item.response, "precision"), wanted)
    made = judge.extract(item.question, item.response)
    if isinstance(made, Unscored):
        return precision, Judged((), None, made.reason)
    if not made:
        return precision, Judged((), 0.0)
    return precision, _judged(judge.score(made, item.reference, "relevance"), made)


def _judged(scores: tuple[ClaimScore, ...] | Unscored, claims: Sequence[str]) -> Judged:
    if isinstance(scores, Unscored):
        return Judged((), None, scores.reason)
    if len(scores) != len(claims):
        return Judged((), None, f"the judge scored {len(scores)} of {len(claims)} claims")
    mean = sum(one.score for one in scores) / len(scores)
    return Judged(tuple(scores), round(mean, DECIMALS))


def _values(rows: Sequence[Judged]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if one.value is None else one.value for one in rows], dtype=np.float64)
