"""Objectives added up by weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from wsiprep.core.errors import ConfigError

__all__ = ["Combined", "combine"]


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """The sum, and what it is made of.

    Attributes:
        total: float32 scalar with a gradient.
        parts: Losses before weighting, without gradient, for the log.
    """

    total: Tensor
    parts: dict[str, Tensor]


def combine(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Combined:
    """The sum of weight times loss.

    Args:
        losses: Name of an objective -> its loss, a scalar.
        weights: Name -> weight; 0 leaves its loss out of the sum, but in the log.

    Raises:
        ConfigError: a loss without a weight, a weight without a loss, a negative weight, or no
            weight above 0.
    """
    unmatched = sorted(losses.keys() ^ weights.keys())
    if unmatched:
        raise ConfigError(
            f"objectives and weights do not go together: {', '.join(unmatched)}.",
            hint="Give one weight for each objective.",
        )
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError(
            f"weights {dict(weights)} cannot be used.",
            hint="None may be negative, and one must be above 0.",
        )
    terms = [weights[name] * loss.float() for name, loss in losses.items() if weights[name]]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return Combined(total, {name: loss.detach() for name, loss in losses.items()})
