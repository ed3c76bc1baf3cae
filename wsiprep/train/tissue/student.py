"""What the loop needs of a model that learns to find tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Student"]


class Student(Protocol):
    """A network, how it is judged, and how it is kept."""

    @property
    def module(self) -> nn.Module:
        """The network; what has `requires_grad` is trained."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Of `synth.thumbnails.labels.CLASSES`, those that it tells, the first ones."""
        ...

    def loss(self, pixels: Tensor, label: Tensor, known: Tensor, step: int) -> Tensor:
        """A scalar with gradients.

        Args:
            pixels: uint8 (B, 3, h, w) RGB on the host.
            label: uint8 (B, h, w), a bit for each class.
            known: uint8 (B, h, w), the same bits: where it is known.
            step: Number of the step, which seeds what is drawn by lot.
        """
        ...

    def masks(self, pixels: Tensor) -> Tensor:
        """What it finds, bool (B, classes, h, w) on the host; called without gradients."""
        ...

    def save(self, folder: Path, facts: dict[str, Any]) -> tuple[Path, str]:
        """Write the trained network.

        Returns:
            The file, and the flags of `wsiprep segment` that use it.
        """
        ...
