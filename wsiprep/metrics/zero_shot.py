"""Classes given by words: how often the right one is chosen, and how well scores order them.

Conventions, those of scikit-learn: balanced accuracy is the mean recall of the classes that occur;
F1 is over the classes that occur or are predicted, and 0 where a class is never right; AUROC of
two classes is that of the difference of the scores, of more the mean over classes of one against
the rest, of the classes that some but not all samples have.

Source: quadratic weighted kappa: Cohen, 1968; the rest as in Maier-Hein et al., Metrics reloaded,
Nature Methods 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsiprep.metrics.bootstrap import Statistic, of_rows, of_sums, quotient
from wsiprep.metrics.ranking import auroc

__all__ = ["ZeroShot", "score_classes"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Confusions = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShot:
    """Predictions of n samples among C classes.

    Attributes:
        scores: float64 (n, C).
        labels: int64 (n,), the right class.
        classes: Their names.
        ordinal: The order of the classes means something (grades).
    """

    scores: Floats
    labels: Ints
    classes: tuple[str, ...]
    ordinal: bool = False

    @property
    def predicted(self) -> Ints:
        """int64 (n,), the class of the highest score; of equal ones the first."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)

    @property
    def confusion(self) -> Ints:
        """int64 (C, C), right class by predicted class."""
        counts = self._one_hot().sum(axis=0).reshape(self._square)
        return np.asarray(counts, dtype=np.int64)

    @property
    def auroc_by_class(self) -> dict[str, float | None]:
        """One class against the rest; None where all or no samples are of it."""
        values = (auroc(self._margin(c), self.labels == c) for c in range(len(self.classes)))
        return {
            name: None if np.isnan(value) else value
            for name, value in zip(self.classes, values, strict=True)
        }

    @property
    def majority(self) -> str:
        """The commonest class: what a model says that looks at nothing."""
        return self.classes[self._majority()]

    def values(self) -> dict[str, float | None]:
        """All numbers; None where undefined."""
        whole = np.ones((1, len(self.labels)))
        found = {name: float(stat(whole)[0]) for name, stat in self.statistics().items()}
        return {name: None if np.isnan(value) else value for name, value in found.items()}

    def statistics(self) -> dict[str, Statistic]:
        """For `bootstrap_interval`: accuracy, balanced_accuracy, macro_f1, weighted_f1, auroc.

        And quadratic_weighted_kappa, where the classes are ordinal.
        """
        said = self._of_confusion(self._one_hot())
        said["auroc"] = of_rows(self._auroc)
        return said

    def majority_statistics(self) -> dict[str, Statistic]:
        """The same of a model that always says the commonest class."""
        constant = np.full(len(self.labels), self._majority())
        said = self._of_confusion(self._one_hot(constant))
        labels = self.labels
        said["auroc"] = of_rows(lambda rows: 0.5 if len(np.unique(labels[rows])) > 1 else np.nan)
        return said

    @property
    def _square(self) -> tuple[int, int]:
        return len(self.classes), len(self.classes)

    def _majority(self) -> int:
        return int(np.bincount(self.labels, minlength=len(self.classes)).argmax())

    def _one_hot(self, predicted: Ints | None = None) -> Floats:
        """float64 (n, C * C): which entry of the confusion a sample is."""
        said = self.predicted if predicted is None else predicted
        table = np.zeros((len(self.labels), len(self.classes) ** 2))
        table[np.arange(len(table)), self.labels * len(self.classes) + said] = 1
        return table

    def _of_confusion(self, table: Floats) -> dict[str, Statistic]:
        functions = [accuracy, balanced_accuracy, macro_f1, weighted_f1]
        if self.ordinal:
            functions.append(quadratic_weighted_kappa)
        square = self._square

        def of(function: Confusions) -> Statistic:
            return of_sums(table, lambda sums: function(sums.reshape(-1, *square)))

        return {function.__name__: of(function) for function in functions}

    def _margin(self, column: int) -> Floats:
        """Score of a class; of two classes, how far it is above the other."""
        if len(self.classes) == 2:
            return np.asarray(self.scores[:, column] - self.scores[:, 1 - column])
        return np.asarray(self.scores[:, column])

    def _auroc(self, rows: Ints) -> float:
        columns = [1] if len(self.classes) == 2 else range(len(self.classes))
        labels = self.labels[rows]
        values = np.array([auroc(self._margin(c)[rows], labels == c) for c in columns])
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")


def score_classes(
    scores: ArrayLike, labels: ArrayLike, classes: Sequence[str], *, ordinal: bool = False
) -> ZeroShot:
    """Scores of classes against the right ones.

    Args:
        scores: (n, C) finite numbers, higher is likelier; no probabilities needed.
        labels: int (n,), 0 to C - 1.
        classes: C names, different ones; in order where `ordinal`.
        ordinal: Give the quadratic weighted kappa too.

    Raises:
        ValueError: shapes do not fit, fewer than two classes, or numbers that are none.
    """
    table, right = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"there must be two classes of different names, not {list(classes)}")
    if table.shape != (len(right), len(classes)) or not len(right):
        raise ValueError(f"scores {table.shape} for {len(right)} samples, {len(classes)} classes")
    if not np.isfinite(table).all():
        raise ValueError("a score is not a finite number")
    if right.ndim != 1 or right.dtype.kind not in "iu":
        raise ValueError("labels are whole numbers (n,)")
    if right.min() < 0 or right.max() >= len(classes):
        raise ValueError(f"a label is none of the {len(classes)} classes")
    return ZeroShot(table, right.astype(np.int64), tuple(classes), ordinal)


def accuracy(confusion: Floats) -> Floats:
    """Share of samples that are right.

    Args:
        confusion: float64 (B, C, C), right class by predicted class.

    Returns:
        float64 (B,).
    """
    return quotient(np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2)))


def balanced_accuracy(confusion: Floats) -> Floats:
    """Mean recall of the classes that occur; shapes as of `accuracy`."""
    there = confusion.sum(axis=2)
    recall = quotient(_diagonal(confusion), there)
    return quotient(np.nansum(recall, axis=1), (there > 0).sum(axis=1).astype(np.float64))


def macro_f1(confusion: Floats) -> Floats:
    """Mean F1 of the classes that occur or are predicted; shapes as of `accuracy`."""
    f1 = _f1(confusion)
    return quotient(np.nansum(f1, axis=1), np.isfinite(f1).sum(axis=1).astype(np.float64))


def weighted_f1(confusion: Floats) -> Floats:
    """Mean F1, classes weighted by how often they occur; shapes as of `accuracy`."""
    there = confusion.sum(axis=2)
    return quotient((np.nan_to_num(_f1(confusion)) * there).sum(axis=1), there.sum(axis=1))


def quadratic_weighted_kappa(confusion: Floats) -> Floats:
    """Agreement beyond chance, errors weighted by the square of the distance between classes.

    NaN where chance leaves no disagreement. Shapes as of `accuracy`.
    """
    steps = np.arange(confusion.shape[1], dtype=np.float64)
    weight = (steps[:, None] - steps[None, :]) ** 2
    rows, columns = confusion.sum(axis=2), confusion.sum(axis=1)
    found = (confusion * weight).sum(axis=(1, 2)) * confusion.sum(axis=(1, 2))
    chance = np.einsum("bi,ij,bj->b", rows, weight, columns)
    return 1 - quotient(found, chance)


def _f1(confusion: Floats) -> Floats:
    """float64 (B, C); NaN where a class neither occurs nor is predicted."""
    return quotient(2 * _diagonal(confusion), confusion.sum(axis=2) + confusion.sum(axis=1))


def _diagonal(confusion: Floats) -> Floats:
    return np.asarray(np.diagonal(confusion, axis1=1, axis2=2))
