"""How well scores order what is wanted before what is not: area under ROC, average precision.

Source: AUROC as the Mann-Whitney statistic, ties counted half (Hanley and McNeil, 1982). Average
precision as the sum of precision over steps of recall, one step for all that share a score
(Davis and Goadrich, 2006, without interpolation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["auroc", "average_precision", "mid_ranks"]

Floats = NDArray[np.float64]


def mid_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, those of equal values averaged.

    Args:
        values: (n,) numbers.

    Returns:
        float64 (n,).
    """
    column = np.asarray(values, dtype=np.float64)
    _, group, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def auroc(scores: ArrayLike, wanted: ArrayLike) -> float:
    """Chance that one that is wanted scores higher than one that is not.

    Args:
        scores: (n,) finite numbers.
        wanted: bool (n,).

    Returns:
        0 to 1; NaN where all or none are wanted.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    column, positive = _checked(scores, wanted)
    above = int(positive.sum())
    below = len(positive) - above
    if not above or not below:
        return float("nan")
    total = float(mid_ranks(column)[positive].sum())
    return (total - above * (above + 1) / 2) / (above * below)


def average_precision(scores: ArrayLike, wanted: ArrayLike) -> float:
    """Mean precision at the places of those that are wanted, best score first.

    Args:
        scores: (n,) finite numbers.
        wanted: bool (n,).

    Returns:
        0 to 1; NaN where none is wanted.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    column, positive = _checked(scores, wanted)
    if not positive.any():
        return float("nan")
    order = np.argsort(-column, kind="stable")
    ranked, hit = column[order], np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = hit[ends]
    gained = np.diff(found, prepend=0)
    return float((gained * found / (ends + 1)).sum() / hit[-1])


def _checked(scores: ArrayLike, wanted: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    column, positive = np.asarray(scores, dtype=np.float64), np.asarray(wanted, dtype=np.bool_)
    if column.ndim != 1 or column.shape != positive.shape:
        raise ValueError(f"scores {column.shape} and labels {positive.shape} must be (n,) both")
    if not np.isfinite(column).all():
        raise ValueError("a score is not a finite number")
    return column, positive
