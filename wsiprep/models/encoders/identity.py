"""Patches as they are: a slide or region is the mean of its patches, tokens are the patches.

The baseline that a projector and a language model stand on by themselves (SlideChat shows a model
its patches). Has no parameters. A bag without patches is zeros and has no tokens.
"""

from __future__ import annotations

from torch import nn

from wsiprep.core.config import Settings
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._parts import check_width
from wsiprep.models.ragged import segment_mean

__all__ = ["Config", "IdentityEncoder", "create"]


class Config(Settings):
    """There is nothing to set."""


def create(cfg: Config, input_dim: int) -> IdentityEncoder:
    """Make the encoder."""
    return IdentityEncoder(input_dim)


class IdentityEncoder(nn.Module):
    """See the module."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.input_dim = self.dim = input_dim

    def forward(self, bags: PackedBags) -> SlideOut:
        """Means, and the patches as they are; all patches of a bag weigh the same."""
        check_width(bags, self.input_dim)
        x = bags.features
        return SlideOut(
            slide=segment_mean(x, bags.starts),
            region=segment_mean(x, bags.region_starts),
            tokens=x,
            token_starts=bags.starts,
            attention=(1.0 / bags.lengths.float())[bags.bag],
            patch=x,
        )
