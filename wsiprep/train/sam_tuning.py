"""Building blocks for tuning SAM on tissue: few parameters, gradients, the loss, and the files.

Tuned are the normalisation layers of the image encoder and the whole of the mask decoder; with
LoRA also low-rank updates of the encoder's attention. A tuned file holds these and nothing else;
`save_merged` makes a whole checkpoint of it, which `--segmenter sam` loads.

Source: Kirillov et al., Segment Anything, ICCV 2023; Hu et al., LoRA, ICLR 2022; normalisation
layers as in AtlasPatch, 2026; Dice loss of Milletari et al., V-Net, 3DV 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.core.errors import PluginUnavailableError, WeightsError
from wsiprep.tissue.sam_frame import box_to_frame, fit_to_frame, points_to_frame

__all__ = [
    "Target",
    "Tuning",
    "choose_parameters",
    "dice_bce",
    "forward",
    "iou_error",
    "load_tuned",
    "merged_state",
    "save_merged",
    "save_tuned",
    "target_of",
]

_FORMAT = "wsiprep-sam-tuned-1"
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


def forward(
    sam: Sam,
    thumbnails: Sequence[NDArray[np.uint8]],
    boxes: Sequence[NDArray[np.float32] | None],
    points: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]] | None],
    *,
    multimask: bool = False,
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

    Returns:
        Logits (B, C, L, L) over the padded square of the input, L a quarter of its side at a
        patch size of 16, and the predicted IoU (B, C); C is 3 with `multimask`, else 1.
    """
    side_px = int(sam.image_encoder.img_size)
    device = sam.device
    inputs = [
        sam.preprocess(
            torch.from_numpy(np.ascontiguousarray(fit_to_frame(image, side_px)))
            .to(device)
            .permute(2, 0, 1)
        )
        for image in thumbnails
    ]
    embedded = sam.image_encoder(torch.stack(inputs))
    logits, ious = [], []
    for image, embedding, box, told in zip(thumbnails, embedded, boxes, points, strict=True):
        at = None
        if told is not None and len(told[0]):
            xy = torch.from_numpy(points_to_frame(told[0], image.shape, side_px))
            at = (xy[None].to(device), torch.from_numpy(told[1])[None].to(device))
        frame = None
        if box is not None:
            frame = torch.from_numpy(box_to_frame(box, image.shape, side_px))[None].to(device)
        sparse, dense = sam.prompt_encoder(points=at, boxes=frame, masks=None)
        low, iou = sam.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
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


def save_tuned(path: Path, sam: Sam, tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write what was tuned, and nothing else.

    Args:
        path: A `.safetensors` file.
        sam: A network after `choose_parameters`.
        tuning: What was given to `choose_parameters`.
        facts: Kept in the file: what the base was, epochs, whatever matters.
    """
    tuned = {
        name: p.detach().cpu().contiguous() for name, p in sam.named_parameters() if p.requires_grad
    }
    own = {
        "format": _FORMAT,
        "lora_rank": str(tuning.lora_rank),
        "lora_alpha": repr(tuning.lora_alpha),
    }
    save_file(tuned, path, metadata={**facts, **own})


def load_tuned(path: Path, sam: Sam) -> tuple[Tuning, dict[str, str]]:
    """Put a tuned file into a network with the weights it was tuned from, in place.

    The network is left as `choose_parameters` leaves it, so that tuning can go on.

    Args:
        path: What `save_tuned` wrote.
        sam: The network; with the weights of the base, and without LoRA layers or with those of
            the file.

    Returns:
        How it was tuned, and the facts kept in the file.

    Raises:
        WeightsError: the file cannot be read, is no tuned file, or does not fit the network.
        PluginUnavailableError: the file has LoRA layers, and `peft` is not installed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            tuned = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as err:
        raise _unusable(path, f"cannot be read ({err})") from err
    if facts.pop("format", None) != _FORMAT:
        raise _unusable(path, "was not written by tuning")
    tuning = Tuning(int(facts.pop("lora_rank")), int(facts.pop("lora_alpha")))
    has_lora = any(".lora_" in name for name, _ in sam.named_parameters())
    chosen = choose_parameters(sam, Tuning() if has_lora else tuning)
    wrong = sorted(chosen.keys() ^ tuned.keys()) + sorted(
        name for name in chosen.keys() & tuned.keys() if chosen[name].shape != tuned[name].shape
    )
    if wrong:
        more = ", ..." if len(wrong) > 4 else ""
        raise _unusable(path, f"does not fit the network: {', '.join(wrong[:4])}{more}")
    with torch.no_grad():
        for name, parameter in chosen.items():
            parameter.copy_(tuned[name])
    return tuning, facts


def merged_state(sam: Sam, tuning: Tuning) -> dict[str, Tensor]:
    """Weights of a plain network that gives what the tuned one gives.

    LoRA updates are added to the weights that they update: W + alpha / rank * B A.

    Args:
        sam: The tuned network; not changed.
        tuning: How it was tuned.

    Returns:
        Name -> tensor on the CPU, with the names of segment-anything.
    """
    state = {name: value.detach().cpu() for name, value in sam.state_dict().items()}
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and name.endswith(".weight"):
            stem = name.removesuffix("base_layer.weight")
            down = state[f"{stem}lora_A.default.weight"]
            up = state[f"{stem}lora_B.default.weight"]
            value = value + (tuning.lora_alpha / tuning.lora_rank) * (up @ down)
        merged[plain] = value.contiguous()
    return merged


def save_merged(path: Path, sam: Sam, tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write a whole checkpoint, which `--segmenter-option checkpoint=PATH` takes.

    Args:
        path: A `.safetensors` file.
        sam: The tuned network; not changed.
        tuning: How it was tuned.
        facts: Kept in the file.
    """
    # A file holds every array once; copies keep parameters that share memory apart.
    state = {name: value.clone() for name, value in merged_state(sam, tuning).items()}
    save_file(state, path, metadata=dict(facts))


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


def _unusable(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"tuned file {path} {what}.",
        stage="tissue",
        hint="Give the file and the base checkpoint of one and the same tuning.",
    )
