"""Percentile bootstrap over rows, or over groups of rows (patients): how sure a number is.

A resample draws as many groups as there are, with replacement, and takes all rows of each. It is
handed to a statistic as weights: how often each row was drawn. Means and quotients of sums are then
one matrix product for all resamples; `of_rows` takes any other function, at the cost of a loop.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile
interval); Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8 (clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "Statistic",
    "bootstrap_interval",
    "mean_of",
    "of_rows",
    "of_sums",
    "quotient",
]

Floats = NDArray[np.float64]

Statistic = Callable[[Floats], Floats]
"""From weights, float64 (B, n), to one value for each of the B resamples; NaN where undefined."""

BLOCK = 1 << 22
"""Weights held at a time (32 MiB)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and the interval that resampling gives it.

    Attributes:
        value: The statistic of the rows as they are; None where it is undefined.
        low: Lower end; None where fewer than two groups say anything.
        high: Upper end; likewise.
        groups: Groups drawn from (rows, where there are no groups).
    """

    value: float | None
    low: float | None
    high: float | None
    groups: int

    def canonical(self) -> dict[str, float | int | None]:
        """Plain JSON types."""
        return asdict(self)


def bootstrap_interval(
    statistic: Statistic,
    rows: int,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic.

    Resamples on which the statistic is undefined are left out.

    Args:
        statistic: From weights to values: `mean_of`, `of_sums`, `of_rows`, or your own.
        rows: Number of rows.
        groups: One label a row; rows of one label are drawn together. Every row alone if None.
        confidence: Between 0 and 1.
        resamples: How many to draw.
        seed: The same seed draws the same resamples.

    Raises:
        ValueError: a confidence outside 0 to 1, no resamples, or a label missing.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    if resamples < 1:
        raise ValueError(f"there must be resamples, not {resamples}")
    if groups is not None and len(groups) != rows:
        raise ValueError(f"{len(groups)} labels for {rows} rows")
    member = _members(groups, rows)
    count = int(member.max()) + 1 if rows else 0
    value = float(statistic(np.ones((1, rows)))[0]) if rows else np.nan
    if count < 2 or np.isnan(value):
        return Interval(None if np.isnan(value) else value, None, None, count)
    drawn = np.concatenate(
        [statistic(weights[:, member]) for weights in _draws(count, rows, resamples, seed)]
    )
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(value, None, None, count)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high), count)


def mean_of(values: ArrayLike) -> Statistic:
    """Mean over rows; rows that are NaN are left out.

    Args:
        values: (n,) numbers.
    """
    column = np.asarray(values, dtype=np.float64)
    known = np.isfinite(column).astype(np.float64)
    table = np.stack([np.where(known > 0, column, 0.0), known], axis=1)
    return of_sums(table, lambda sums: quotient(sums[:, 0], sums[:, 1]))


def of_sums(columns: ArrayLike, function: Callable[[Floats], Floats]) -> Statistic:
    """A function of column sums: pooled IoU or F1 of counts, a quotient of totals.

    Args:
        columns: (n, k) numbers, finite.
        function: From sums, float64 (B, k), to values (B,).
    """
    table = np.asarray(columns, dtype=np.float64)
    return lambda weights: function(weights @ table)


def of_rows(function: Callable[[NDArray[np.int64]], float]) -> Statistic:
    """Any function of the rows drawn, called once for each resample.

    Args:
        function: From row numbers, int64 (m,), each as often as it was drawn, to a value.
    """

    def statistic(weights: Floats) -> Floats:
        numbers = np.arange(weights.shape[1])
        drawn = (np.repeat(numbers, row.astype(np.int64)) for row in weights)
        return np.array([function(chosen) for chosen in drawn], dtype=np.float64)

    return statistic


def quotient(above: Floats, below: Floats) -> Floats:
    """`above / below`, NaN where `below` is 0."""
    out = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=out, where=below != 0))


def _members(groups: Sequence[Hashable] | None, rows: int) -> NDArray[np.int64]:
    """Number of each row's group, in order of first appearance."""
    if groups is None:
        return np.arange(rows)
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(g, len(number)) for g in groups], dtype=np.int64)


def _draws(count: int, rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, float64 (b, count), block by block; b sums to `resamples`."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(count, rows))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count)
        yield times.reshape(size, count).astype(np.float64)
