"""One vector from the tokens of a transformer, where its network does not make one itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ClassAndMean"]


class ClassAndMean(nn.Module):
    """Class token and mean of the patch tokens, one after the other.

    Register tokens, which stand between the two, are left out.

    Args:
        network: A timm vision transformer: `forward_features` gives (B, tokens, D) with
            `num_prefix_tokens` tokens (the class token first) before those of the patches.

    Source: Vorontsov et al., "A foundation model for clinical-grade computational pathology and
    rare cancers detection", Nature Medicine 2024, which defines the embedding so.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, S, S) to (B, 2 D)."""
        tokens: Tensor = self.network.forward_features(x)  # type: ignore[operator]
        first = int(self.network.num_prefix_tokens)  # type: ignore[arg-type]
        return torch.cat([tokens[:, 0], tokens[:, first:].mean(dim=1)], dim=-1)
