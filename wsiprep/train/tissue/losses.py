"""Loss of the network: cross-entropy and Dice for each class, where it is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["class_bits", "masked_loss"]

CLASS_WEIGHTS = (1.0, 1.0, 0.5, 0.5)
"""tissue, pen, edge, fold: the latter two are thin, and their borders a matter of taste."""
DICE_SHARE = 1.0


def class_bits(bits: Tensor, classes: int) -> Tensor:
    """Bits as planes: uint8 (B, h, w) to float32 (B, classes, h, w) of 0 and 1."""
    places = torch.arange(classes, device=bits.device, dtype=torch.uint8).view(1, -1, 1, 1)
    return (bits.unsqueeze(1) >> places & 1).float()


def masked_loss(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice (Milletari et al. 2016), both over known pixels only.

    Args:
        logits: (B, C, h, w) at half the side of the labels; enlarged by linear interpolation.
        label: uint8 (B, 2 h, 2 w), a bit for each class.
        known: uint8 (B, 2 h, 2 w), the same bits.

    Returns:
        A scalar. Dice is taken of each picture and class that occurs in it, so that a thin core
        weighs as much as a resection.
    """
    full = functional.interpolate(
        logits.float(), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    target, weight = (class_bits(bits, full.shape[1]) for bits in (label, known))
    entropy = functional.binary_cross_entropy_with_logits(full, target, reduction="none")
    entropy = (entropy * weight).sum((0, 2, 3)) / weight.sum((0, 2, 3)).clamp(min=1)
    chance = full.sigmoid() * weight
    target = target * weight
    overlap, there = (chance * target).sum((2, 3)), target.sum((2, 3))
    missed = 1 - (2 * overlap + 1) / (chance.sum((2, 3)) + there + 1)
    occurs = (there > 0).float()
    dice = (missed * occurs).sum(0) / occurs.sum(0).clamp(min=1)
    share = full.new_tensor(CLASS_WEIGHTS)
    return ((entropy + DICE_SHARE * dice) * share).sum() / share.sum()
