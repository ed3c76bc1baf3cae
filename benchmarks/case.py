"""What is timed, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Literal

__all__ = ["Case", "Clock", "Done", "Result"]

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True)
class Done:
    """What one run did.

    Attributes:
        amount: How much, in the unit of the case.
        facts: Other things worth a column, e.g. bytes on disk; those of the last round are shown.
    """

    amount: float
    facts: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """Something that is timed.

    Attributes:
        name: Unique within a comparison.
        params: What it was run with; for the reader.
        unit: What `run` counts, e.g. `tiles`.
        setup: Entered before each run and left after it, both untimed.
        run: Does the work with what `setup` yields.
    """

    name: str
    params: Mapping[str, Any]
    unit: str
    setup: Callable[[], AbstractContextManager[Any]]
    run: Callable[[Any], Done]


@dataclass(frozen=True, slots=True)
class Result:
    """The rounds of one case that count; CPU seconds are of the process and its children."""

    case: Case
    amount: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    facts: dict[str, float | str] = field(default_factory=dict)

    def rates(self, clock: Clock = "wall") -> list[float]:
        """Amount a second, one value a round."""
        seconds = self.wall_s if clock == "wall" else self.cpu_s
        return [n / max(s, 1e-9) for n, s in zip(self.amount, seconds, strict=True)]

    def rate(self) -> float:
        """Median amount a wall second."""
        return median(self.rates())

    def iqr(self) -> float:
        """Interquartile range of the wall rates, as a share of their median."""
        rates = self.rates()
        if len(rates) < 2 or not self.rate():
            return 0.0
        low, _, high = quantiles(rates, n=4, method="inclusive")
        return (high - low) / self.rate()

    def ratio(self, other: Result, clock: Clock = "wall") -> float:
        """Median over rounds of own rate / the other's: above 1 is faster than the other."""
        pairs = zip(self.rates(clock), other.rates(clock), strict=True)
        return median(mine / theirs for mine, theirs in pairs)
