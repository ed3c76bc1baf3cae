"""What the loop needs of a model that learns to find tissue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from wsiprep.train.tissue.data import Sample
from wsiprep.train.tissue.framing import Framing

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

    @property
    def framing(self) -> Framing:
        """What part of a thumbnail it is shown."""
        ...

    def loss(self, batch: Sequence[Sample], step: int) -> Tensor:
        """A scalar with gradients.

        Args:
            batch: Thumbnails on the host, framed by `framing`.
            step: Number of the step, which seeds what is drawn by lot.
        """
        ...

    def masks(self, pixels: Tensor) -> Tensor:
        """What it finds on a thumbnail; called without gradients.

        Args:
            pixels: uint8 (3, h, w) RGB on the host.

        Returns:
            bool (classes, h, w) on the host.
        """
        ...

    def save(self, folder: Path, facts: dict[str, Any]) -> tuple[Path, str]:
        """Write the trained network.

        Returns:
            The file, and the flags of `wsiprep segment` that use it.
        """
        ...
