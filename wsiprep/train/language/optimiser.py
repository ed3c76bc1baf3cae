"""AdamW of every training of the slide-language system: what it moves, how fast, what decays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wsiprep.core.errors import ConfigError
from wsiprep.train.language.recipe import Optimisation

__all__ = ["Rate", "make_optimiser"]


@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """Parameters and how fast they learn.

    Attributes:
        parameters: By name.
        factor: Times the learning rate.
    """

    parameters: Mapping[str, nn.Parameter]
    factor: float = 1.0


def make_optimiser(rates: Sequence[Rate], cfg: Optimisation) -> torch.optim.Optimizer:
    """AdamW on what has a rate; each group of it has a `factor`.

    Raises:
        ConfigError: nothing has one.
    """
    groups: list[dict[str, Any]] = []
    for rate in rates:
        if not rate.factor:
            continue
        for decays in (True, False):
            some = [p for n, p in rate.parameters.items() if _decays(n, p) is decays]
            if some:
                decay = cfg.weight_decay if decays else 0.0
                groups.append({"params": some, "weight_decay": decay, "factor": rate.factor})
    if not groups:
        raise ConfigError("nothing is left to learn: all rates are 0.")
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(0.9, 0.98))


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; biases, norms, scales, queries, latents and embeddings do not."""
    last = name.rsplit(".", 2)
    words = {"queries", "latents", "token", "position", "word", "embedding", "embeddings"}
    return parameter.ndim > 1 and not words & set(last)
