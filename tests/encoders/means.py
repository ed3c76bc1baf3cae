"""The mean colour as an encoder, and patches whose mean is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiprep.core.types import EncoderSpec

CPU = torch.device("cpu")
SPEC = EncoderSpec(
    name="mean", dim=3, input_px=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), weights="none"
)


class Mean(nn.Module):
    """Mean colour; calls `before` with the first value of each group."""

    def __init__(self, before: Callable[[int, int], object] = lambda first, count: None) -> None:
        super().__init__()
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        self.before(round(float(x[0, 0, 0, 0]) * 255), len(x))
        return x.mean(dim=(2, 3))


def flat(*values: int) -> NDArray[np.uint8]:
    """A patch of one value for each value."""
    return np.repeat(np.array(values, np.uint8), 4 * 4 * 3).reshape(-1, 4, 4, 3)


def means(*values: int) -> NDArray[np.float32]:
    return np.repeat(np.array(values, np.float32)[:, None] / 255, 3, axis=1)


def no_memory(*_: object) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
