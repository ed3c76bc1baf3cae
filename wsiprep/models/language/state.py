"""Weights of a checkpoint back into a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsiprep.core.errors import WeightsError

__all__ = ["load_exactly"]


def load_exactly(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into tensors of the same names and shapes.

    Args:
        own: Tensors written to.
        state: Tensors read.
        what: Whose they are, for messages.

    Raises:
        WeightsError: a tensor is missing, unknown, or of another shape; nothing is written.
    """
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ),
    }
    said = [f"{len(n)} {kind} (as {n[0]})" for kind, n in wrong.items() if n]
    if said:
        raise WeightsError(
            f"these weights do not fit {what}: {', '.join(said)}.",
            stage="models",
            hint="Use the settings that the checkpoint was trained with.",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
