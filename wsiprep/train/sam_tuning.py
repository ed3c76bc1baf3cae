"""Building blocks for tuning SAM on tissue: few parameters, gradients, and the loss.

Tuned are the normalisation layers of the image encoder and the whole of the mask decoder; with
LoRA also low-rank updates of the encoder's attention. `sam_files` saves them.

Source: Kirillov et al., Segment Anything, ICCV 2023; Hu et al., LoRA, ICLR 2022; normalisation
layers as in AtlasPatch, 2026; Dice loss of Milletari et al., V-Net, 3DV 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wsiprep.core.errors import PluginUnavailableError
from wsiprep.tissue.sam_frame import fit_to_frame
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_network import framed, low_masks

__all__ = [
    "Target",
    "Tuning",
    "choose_parameters",
    "compute_anew",
    "dice_bce",
    "forward",
    "iou_error",
    "target_of",
]
_LORA = "qkv"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a network is tuned.

    Attributes:
        lora_rank: Rank of the updates of each attention's query, key and value; 0 for none.
        lora_alpha: Updates are scaled by lora_alpha / lora_rank.
    """

    lora_rank: int = 0
    lora_alpha: int = 16


@dataclass(frozen=True, slots=True)
class Target:
    """Reference masks at the resolution of the network's logits.

    Attributes:
        cover: float32 (B, 1, L, L), tissue share of each pixel.
        valid: float32 (B, 1, L, L), share of each pixel that is image and not padding.
    """

    cover: Tensor
    valid: Tensor


def choose_parameters(sam: Sam, tuning: Tuning) -> dict[str, nn.Parameter]:
    """Freeze a network but for what is tuned, in place; adds LoRA layers where asked.

    Args:
        sam: The network with its weights, not tuned with LoRA before.
        tuning: What is tuned.

    Returns:
        Name -> parameter of all that is tuned, by the names of `sam.named_parameters()`.

    Raises:
        PluginUnavailableError: LoRA is asked for, and `peft` is not installed.
    """
    if tuning.lora_rank:
        _add_lora(sam, tuning)
    sam.requires_grad_(False)
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.LayerNorm | LayerNorm2d):
            module.requires_grad_(True)
    sam.mask_decoder.requires_grad_(True)
    for name, parameter in sam.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
    return {name: p for name, p in sam.named_parameters() if p.requires_grad}


def compute_anew(sam: Sam) -> None:
    """Keep no activations of the image encoder's blocks, in place; gradients stay as they are.

    Of each block its input alone is kept, and the rest computed once more on the way back.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.

    Args:
        sam: The network. Its weights and their names stay as they are.
    """
    for block in sam.image_encoder.blocks:
        # Nothing in a block is drawn by lot, so no state of a generator need be restored.
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )


def forward(
    sam: Sam,
    thumbnails: Sequence[NDArray[np.uint8]],
    boxes: Sequence[NDArray[np.float32] | None],
    points: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]] | None],
    *,
    multimask: bool = False,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Masks with gradients, from the same input that the segmenter `sam` gives the network.

    Args:
        sam: The network.
        thumbnails: uint8 (h, w, 3) RGB each, of any size.
        boxes: For each float32 (4,), left, top, right, bottom along borders of its pixels, or
            None.
        points: For each float32 (n, 2) pixels x, y and int32 (n,) labels, 1 on tissue and 0 off
            it, or None.
        multimask: The three masks of an ambiguous prompt instead of the one mask.
        bfloat16: Products and convolutions of the image encoder in bfloat16, where nearly all
            memory goes. Prompts and the mask decoder stay in float32: eight bits do not tell
            where a point is.

    Returns:
        float32 (B, C, L, L), logits over the padded square of the input, L a quarter of its side at
        a patch size of 16, and (B, C), the predicted IoU; C is 3 with `multimask`, else 1.
    """
    none = (np.empty((0, 2), np.float32), np.empty(0, np.int32))
    pixels = torch.stack([sam.preprocess(framed(sam, image)) for image in thumbnails])
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=bfloat16):
        embedded = sam.image_encoder(pixels)
    embedded = embedded.float()
    logits, ious = [], []
    for image, embedding, box, told in zip(thumbnails, embedded, boxes, points, strict=True):
        prompt = Prompts(box, *(none if told is None else told))
        low, iou = low_masks(sam, embedding, prompt, image.shape, multimask)
        logits.append(low)
        ious.append(iou)
    return torch.cat(logits), torch.cat(ious)


def target_of(sam: Sam, masks: Sequence[NDArray[np.bool_]]) -> Target:
    """Reference masks in the frame and at the resolution of the logits of `forward`.

    Args:
        sam: The network.
        masks: bool (h, w), of the shapes of the thumbnails.
    """
    side_px = int(sam.image_encoder.img_size)
    low_px = 4 * int(sam.prompt_encoder.image_embedding_size[0])
    cover = torch.zeros(len(masks), 1, side_px, side_px)
    valid = torch.zeros_like(cover)
    for index, mask in enumerate(masks):
        fitted = fit_to_frame(mask.astype(np.uint8) * np.uint8(255), side_px)
        h, w = fitted.shape
        cover[index, 0, :h, :w] = torch.from_numpy(fitted).float() / 255
        valid[index, 0, :h, :w] = 1
    step = side_px // low_px
    share = functional.avg_pool2d(valid, step)
    # Where a pixel is in part padding, the share of tissue is that of its part in the image.
    inside = functional.avg_pool2d(cover, step) / share.clamp(min=1e-6)
    return Target(inside.to(sam.device), share.to(sam.device))


def dice_bce(logits: Tensor, target: Target, *, dice_share: float = 0.5) -> Tensor:
    """Soft Dice loss and binary cross-entropy, both over the image and not its padding.

    Per image, with p = sigmoid(logits), t the cover and v the validity:
    dice = 1 - (2 sum(v p t) + 1) / (sum(v p) + sum(v t) + 1), bce = sum(v BCE(p, t)) / sum(v).

    Args:
        logits: (B, C, L, L).
        target: Of the same B and L.
        dice_share: Weight of Dice, 0 to 1; the cross-entropy has the rest.

    Returns:
        (B, C), the loss of each mask: take the mean, or the least over C for several masks.
    """
    wanted = target.cover.expand_as(logits)
    valid = target.valid.expand_as(logits)
    dims = (2, 3)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    entropy = (entropy * valid).sum(dims) / valid.sum(dims).clamp(min=1)
    chance = logits.sigmoid() * valid
    wanted = wanted * valid
    overlap = (chance * wanted).sum(dims)
    dice = 1 - (2 * overlap + 1) / (chance.sum(dims) + wanted.sum(dims) + 1)
    return dice_share * dice + (1 - dice_share) * entropy


def iou_error(iou: Tensor, logits: Tensor, target: Target) -> Tensor:
    """Squared error of the predicted IoU, so that `min_iou` means something after tuning.

    Args:
        iou: (B, C), as predicted; has the gradient.
        logits: (B, C, L, L); above 0 is tissue. Has none.
        target: Cover of at least a half is tissue.

    Returns:
        (B, C). An empty mask of an empty reference has an IoU of 1.
    """
    with torch.no_grad():
        found = (logits > 0) * target.valid
        truth = (target.cover.expand_as(logits) >= 0.5) * target.valid
        both = (found * truth).sum((2, 3))
        either = torch.maximum(found, truth).sum((2, 3))
        actual = torch.where(either > 0, both / either.clamp(min=1e-6), torch.ones_like(both))
    return (iou - actual) ** 2


def _add_lora(sam: Sam, tuning: Tuning) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as err:
        raise PluginUnavailableError(
            f"LoRA needs the peft package: {err}.",
            stage="tissue",
            hint="pip install 'wsiprep[lora]', or tune without it.",
        ) from err
    config = LoraConfig(
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        target_modules=[_LORA],
        lora_dropout=0.0,
        bias="none",
    )
    inject_adapter_in_model(config, sam.image_encoder)
