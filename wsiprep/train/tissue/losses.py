"""Loss of the network: cross-entropy and Dice of each class, and Dice of the tissue left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["class_bits", "masked_loss"]

CLASS_WEIGHTS = (1.0, 1.0, 0.5, 0.5)
"""tissue, pen, edge, fold: the latter two are thin, and their borders a matter of taste."""
DICE_SHARE = 1.0
LEFT_SHARE = 1.0
"""Of the Dice of the tissue that is left when ink and edges are taken out of it."""


def class_bits(bits: Tensor, classes: int) -> Tensor:
    """Bits as planes: uint8 (B, h, w) to float32 (B, classes, h, w) of 0 and 1."""
    places = torch.arange(classes, device=bits.device, dtype=torch.uint8).view(1, -1, 1, 1)
    return (bits.unsqueeze(1) >> places & 1).float()


def masked_loss(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice (Milletari et al. 2016), over known pixels only.

    The first three classes are tissue, pen and edge. Patches come from tissue that is neither of
    the others, so its Dice is learnt too: all three answers must be right for it to be kept.

    Args:
        logits: (B, C, h, w) at half the side of the labels; enlarged by linear interpolation.
        label: uint8 (B, 2 h, 2 w), a bit for each class.
        known: uint8 (B, 2 h, 2 w), the same bits.

    Returns:
        A scalar. Dice is taken of each picture, for what occurs in it, so that a thin core weighs
        as much as a resection.
    """
    full = functional.interpolate(
        logits.float(), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    target, weight = (class_bits(bits, full.shape[1]) for bits in (label, known))
    entropy = functional.binary_cross_entropy_with_logits(full, target, reduction="none")
    entropy = (entropy * weight).sum((0, 2, 3)) / weight.sum((0, 2, 3)).clamp(min=1)
    chance = full.sigmoid()
    share = full.new_tensor(CLASS_WEIGHTS)
    parts = ((entropy + DICE_SHARE * _missed(chance, target, weight)) * share).sum()
    left, left_target = (
        kept[:, :1] * (1 - kept[:, 1:2]) * (1 - kept[:, 2:3]) for kept in (chance, target)
    )
    known_left = weight[:, :3].prod(1, keepdim=True)
    parts = parts + LEFT_SHARE * _missed(left, left_target, known_left).sum()
    return parts / (share.sum() + LEFT_SHARE)


def _missed(chance: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """One minus Dice, of each class, (C,): the mean of the pictures where it occurs."""
    chance, target = chance * weight, target * weight
    overlap, there = (chance * target).sum((2, 3)), target.sum((2, 3))
    missed = 1 - (2 * overlap + 1) / (chance.sum((2, 3)) + there + 1)
    occurs = (there > 0).float()
    dice: Tensor = (missed * occurs).sum(0) / occurs.sum(0).clamp(min=1)
    return dice
