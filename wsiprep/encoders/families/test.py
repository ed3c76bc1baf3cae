"""`test`: the mean colour of a patch. For tests, and for measuring everything but the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import ConfigError, UnknownPluginError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.config import EncoderConfig

if TYPE_CHECKING:
    import torch

__all__ = ["SPECS", "MeanColour", "create"]

_SPEC = EncoderSpec(
    name="test",
    dim=3,
    input_px=None,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    pooling="mean over all pixels",
    license="Apache-2.0",
    source="computed; it has no weights",
    weights="none",
    note="Mean colour of a patch, 0 to 1: for tests and for measuring the data path.",
)
SPECS = (_SPEC,)


class MeanColour:
    """Mean of R, G and B over a patch, divided by 255."""

    @property
    def spec(self) -> EncoderSpec:
        """Facts; there are no weights to hash."""
        return _SPEC

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches.

        Args:
            pixels: uint8 (B, T, T, 3) RGB.

        Returns:
            float32 (B, 3), 0 to 1.
        """
        import cv2

        # Sums of bytes are exact, also in float64, so the result does not depend on the batch.
        total = np.array([cv2.sumElems(patch)[:3] for patch in pixels])
        count = pixels.shape[1] * pixels.shape[2]
        mean: NDArray[np.float32] = (total / (255 * count)).astype(np.float32)
        return mean


def create(model: str | None, cfg: EncoderConfig, device: torch.device) -> MeanColour:
    """The encoder; device and precision make no difference to it.

    Raises:
        UnknownPluginError: a model is named.
        ConfigError: weights are given.
    """
    if model is not None:
        raise UnknownPluginError(
            "encoder 'test' has no models to choose from.",
            stage="encoder",
            hint="Write --encoder test.",
        )
    if cfg.weights is not None:
        raise ConfigError(
            "encoder 'test' has no weights.", stage="encoder", hint="Leave --weights out."
        )
    return MeanColour()
