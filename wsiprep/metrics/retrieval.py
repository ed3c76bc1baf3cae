"""Finding the text of a slide, and the slide of a text.

Reports repeat themselves: where two slides have the same caption, either is right. For slides that
look for texts, the gallery is therefore the *distinct* captions; for texts that look for slides,
every slide that has the caption of the query counts as found. The rank of a query is the place of
the first right item. Where scores are equal, every order of them is equally likely, and recall,
rank and reciprocal rank are expectations over these orders: a model that says the same of
everything is at chance, neither above nor below.

Source: recall at k and median rank as usual in image-text retrieval; mean reciprocal rank:
Voorhees, TREC-8, 1999.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsiprep.metrics.bootstrap import Statistic, mean_of, of_rows
from wsiprep.metrics.ranking import average_precision

__all__ = [
    "ClassRetrieval",
    "Direction",
    "Retrieval",
    "caption_numbers",
    "retrieve",
    "retrieve_by_class",
    "retrieve_commonest",
    "retrieve_direction",
]

Floats = NDArray[np.float64]
DEPTHS = (1, 5, 10)
"""The k of recall at k."""


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """How queries of one kind find their items; one row a query.

    Attributes:
        rank: float64 (n,), place of the first right item, from 1.
        reciprocal: float64 (n,), 1 over it.
        recall: float64 (n,) for each depth: whether a right item is among the first k.
        chance: For each depth, the mean recall of a gallery in random order.
        gallery: Items that are searched.
    """

    rank: Floats
    reciprocal: Floats
    recall: Mapping[int, Floats]
    chance: Mapping[int, float]
    gallery: int

    @property
    def median_rank(self) -> float:
        """Median over queries."""
        return float(np.median(self.rank))

    @property
    def mean_reciprocal_rank(self) -> float:
        """Mean over queries."""
        return float(self.reciprocal.mean())

    def recall_at(self, depth: int) -> float:
        """Mean over queries."""
        return float(self.recall[depth].mean())

    def statistics(self, prefix: str = "") -> dict[str, Statistic]:
        """For `bootstrap_interval`: queries are drawn again, the gallery stays as it is."""
        said = {f"{prefix}r_at_{k}": mean_of(rows) for k, rows in self.recall.items()}
        said[f"{prefix}mrr"] = mean_of(self.reciprocal)
        said[f"{prefix}median_rank"] = of_rows(lambda rows: _median(self.rank[rows]))
        return said

    def chances(self, prefix: str = "") -> dict[str, float]:
        """Recall by chance, under the names of `statistics`."""
        return {f"{prefix}r_at_{k}": value for k, value in self.chance.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """Both directions.

    Attributes:
        to_text: Slides that look for their text.
        to_slide: Texts that look for their slide.
        duplicates: Samples whose caption another sample has too.
    """

    to_text: Direction
    to_slide: Direction
    duplicates: int

    def statistics(self) -> dict[str, Statistic]:
        """Of both directions, named `slide_to_text_...` and `text_to_slide_...`."""
        return {
            **self.to_text.statistics("slide_to_text_"),
            **self.to_slide.statistics("text_to_slide_"),
        }

    def chances(self) -> dict[str, float]:
        """Recall by chance, under the names of `statistics`."""
        return {
            **self.to_text.chances("slide_to_text_"),
            **self.to_slide.chances("text_to_slide_"),
        }


@dataclass(frozen=True, slots=True, eq=False)
class ClassRetrieval:
    """How slides find slides of their class.

    Attributes:
        precision: float64 (n,), average precision of each query; NaN where no other item is of
            its class.
        labels: The class of each query.
    """

    precision: Floats
    labels: tuple[Hashable, ...]

    @property
    def mean(self) -> float:
        """Mean average precision over queries that have something to find; NaN if none has."""
        known = self.precision[np.isfinite(self.precision)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def by_class(self) -> dict[Hashable, float]:
        """Mean average precision of each class that has something to find."""
        found: dict[Hashable, list[float]] = {}
        for label, value in zip(self.labels, self.precision, strict=True):
            if np.isfinite(value):
                found.setdefault(label, []).append(float(value))
        return {label: float(np.mean(values)) for label, values in found.items()}

    @property
    def macro(self) -> float:
        """Mean over classes; NaN where no class has something to find."""
        values = list(self.by_class.values())
        return float(np.mean(values)) if values else float("nan")


def caption_numbers(captions: Sequence[str]) -> NDArray[np.int64]:
    """One number for captions that say the same: letters and digits compared, case ignored.

    Returns:
        int64 (n,), from 0 in order of first appearance.
    """
    number: dict[str, int] = {}
    keys = (" ".join(re.findall(r"[^\W_]+|[+%<>/-]", _folded(text))) for text in captions)
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def retrieve(
    similarity: ArrayLike, captions: Sequence[str], *, depths: Sequence[int] = DEPTHS
) -> Retrieval:
    """Retrieval in both directions.

    Args:
        similarity: (n, n) finite numbers, slides by texts; slide i belongs to text i.
        captions: n texts.
        depths: The k of recall at k.

    Raises:
        ValueError: not n by n, no sample, or a number that is not finite.
    """
    table = np.asarray(similarity, dtype=np.float64)
    if table.shape != (len(captions), len(captions)):
        raise ValueError(f"similarity {table.shape} must be slides by texts of {len(captions)}")
    number = caption_numbers(captions)
    same = number[:, None] == number[None, :]
    distinct = int(number.max(initial=-1)) + 1
    # An encoder in another batch may give equal texts scores that differ in the last bit.
    texts = np.full((len(captions), distinct), -np.inf)
    for column, caption in enumerate(number):
        np.maximum(texts[:, caption], table[:, column], out=texts[:, caption])
    own = number[:, None] == np.arange(distinct)[None, :]
    return Retrieval(
        to_text=retrieve_direction(texts, own, depths=depths),
        to_slide=retrieve_direction(table.T, same, depths=depths),
        duplicates=int((same.sum(axis=1) > 1).sum()),
    )


def retrieve_commonest(captions: Sequence[str], *, depths: Sequence[int] = DEPTHS) -> Retrieval:
    """What one order for every query finds: the commonest caption first, then the next.

    Where no two captions are the same, that is chance.

    Args:
        captions: n texts, of slides in this order.
        depths: The k of recall at k.

    Raises:
        ValueError: no sample.
    """
    number = caption_numbers(captions)
    often = np.bincount(number)[number]
    # Along a row only the text's part differs, along a column only the slide's.
    return retrieve(often[:, None] + often[None, :], captions, depths=depths)


def retrieve_direction(
    similarity: ArrayLike, right: ArrayLike, *, depths: Sequence[int] = DEPTHS
) -> Direction:
    """Queries against a gallery.

    Args:
        similarity: (n, g) finite numbers, queries by items.
        right: bool (n, g), which items answer which query; each row has one.
        depths: The k of recall at k.

    Raises:
        ValueError: shapes differ, no query, a query without a right item, numbers not finite.
    """
    table, answers = np.asarray(similarity, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    if table.ndim != 2 or table.shape != answers.shape or not len(table):
        raise ValueError(f"similarity {table.shape} and answers {answers.shape} must be (n, g)")
    if not np.isfinite(table).all():
        raise ValueError("a similarity is not a finite number")
    if not answers.any(axis=1).all():
        raise ValueError(f"query {int((~answers.any(axis=1)).argmax())} has no right item")
    best = np.where(answers, table, -np.inf).max(axis=1, keepdims=True)
    above = (table > best).sum(axis=1)
    good = ((table == best) & answers).sum(axis=1)
    tied = ((table == best) & ~answers).sum(axis=1)
    gallery = table.shape[1]
    wrong = gallery - answers.sum(axis=1)
    return Direction(
        rank=above + (good + tied + 1) / (good + 1),
        reciprocal=np.array([_reciprocal(*row) for row in zip(above, good, tied, strict=True)]),
        recall={k: 1 - _all_wrong(tied, good, k - above) for k in depths},
        chance={
            k: float((1 - _all_wrong(wrong, gallery - wrong, np.full(len(wrong), k))).mean())
            for k in depths
        },
        gallery=gallery,
    )


def retrieve_by_class(
    similarity: ArrayLike,
    labels: Sequence[Hashable],
    gallery_labels: Sequence[Hashable] | None = None,
) -> ClassRetrieval:
    """Items of the query's class before the others: mean average precision.

    Args:
        similarity: (n, g) finite numbers, queries by items.
        labels: Class of each query.
        gallery_labels: Class of each item; None where queries are the items (a query does not
            find itself).

    Raises:
        ValueError: shapes do not fit.
    """
    table = np.asarray(similarity, dtype=np.float64)
    items = labels if gallery_labels is None else gallery_labels
    if table.shape != (len(labels), len(items)):
        raise ValueError(f"similarity {table.shape} for {len(labels)} queries, {len(items)} items")
    values = np.full(len(labels), np.nan)
    for row, label in enumerate(labels):
        wanted = np.array([item == label for item in items], dtype=np.bool_)
        keep = np.ones(len(items), dtype=np.bool_)
        keep[row : row + 1] = gallery_labels is not None
        values[row] = average_precision(table[row][keep], wanted[keep])
    return ClassRetrieval(values, tuple(labels))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _all_wrong(
    wrong: NDArray[np.int64], good: NDArray[np.int64], places: NDArray[np.int64]
) -> Floats:
    """Chance that the first `places` of wrong and good ones in random order are all wrong."""
    chance = np.ones(len(wrong))
    for step in range(int(places.max(initial=0))):
        left = np.maximum(wrong - step, 0)
        chance = np.where(step < places, chance * left / np.maximum(left + good, 1), chance)
    return np.asarray(chance, dtype=np.float64)


def _reciprocal(above: int, good: int, tied: int) -> float:
    """Expected 1 / rank: right ones and others of the best right score stand in random order."""
    expected, still = 0.0, 1.0
    for step in range(int(tied) + 1):
        left = int(tied) - step
        hit = good / (good + left)
        expected += still * hit / (above + step + 1)
        still *= 1 - hit
    return float(expected)
