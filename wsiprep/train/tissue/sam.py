"""Segment Anything, tuned on tissue: few parameters of a network that others have trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn

from wsiprep.core.errors import ConfigError
from wsiprep.tissue.sam_frame import frame_size
from wsiprep.tissue.segmenters import sam as segmenter
from wsiprep.tissue.segmenters._sam_network import load_sam
from wsiprep.train.sam_files import save_merged
from wsiprep.train.sam_tuning import (
    Target,
    Tuning,
    choose_parameters,
    compute_anew,
    dice_bce,
    forward,
    iou_error,
    target_of,
)
from wsiprep.train.tissue.config import TissueTraining
from wsiprep.train.tissue.data import Sample
from wsiprep.train.tissue.framing import Framing, Wholes
from wsiprep.train.tissue.inputs import start_file

__all__ = ["SamStudent", "sam_student"]

POINTS_ODDS = 0.5
"""Share of thumbnails that are prompted with points besides the box."""
MOST_POINTS = 8


def sam_student(cfg: TissueTraining, device: torch.device) -> SamStudent:
    """The network of `cfg.checkpoint`, ready to be tuned.

    Raises:
        ConfigError: no checkpoint is given.
        WeightsError: it cannot be used.
        PluginUnavailableError: LoRA is asked for, and `peft` is not installed.
    """
    path = start_file(cfg)
    if path is None:
        raise ConfigError(
            "--model sam is tuned from weights that exist already.",
            hint="Give --checkpoint FILE, and --sam vit_b, vit_l or vit_h as they are.",
        )
    network = load_sam(path, cfg.sam, str(device), segmenter.remedy(cfg.sam))
    return SamStudent(network.sam, cfg.sam, Tuning(cfg.lora_rank), cfg.seed)


class SamStudent:
    """Norm layers of the image encoder and the mask decoder, with LoRA where asked.

    It learns from whole thumbnails, as the segmenter asks about them. Prompts are those of the
    segmenter: the box of the whole thumbnail, and for some points on tissue and beside it. The
    loss is Dice and cross-entropy of one mask, and the error of the IoU that the network predicts
    of it. It is validated, and meant to be used, with the box alone.

    To save memory the blocks of the image encoder are computed once more for their gradients, and
    on CUDA the encoder learns in bfloat16. All else is float32; so is what is validated.

    Args:
        sam: The network with its weights; changed in place.
        kind: `vit_b`, `vit_l` or `vit_h`.
        tuning: What is tuned.
        seed: Of the points.
    """

    classes = ("tissue",)

    def __init__(self, sam: Sam, kind: str, tuning: Tuning, seed: int) -> None:
        self._sam, self._kind, self._tuning, self._seed = sam, kind, tuning, seed
        choose_parameters(sam, tuning)
        compute_anew(sam)
        self.framing: Framing = Wholes(int(sam.image_encoder.img_size))

    @property
    def module(self) -> nn.Module:
        """The network."""
        module: nn.Module = self._sam
        return module

    def loss(self, batch: Sequence[Sample], step: int) -> Tensor:
        """See `Student.loss`."""
        rng = np.random.default_rng([self._seed, step, 31])
        pictures = [_picture(pixels) for pixels, _, _ in batch]
        tissue = [(label.numpy() & 1) > 0 for _, label, _ in batch]
        clear = [(known.numpy() & 1) > 0 for _, _, known in batch]
        points = [_points(rng, t, c) for t, c in zip(tissue, clear, strict=True)]
        boxes = [_box(p) for p in pictures]
        on_cuda = self._sam.device.type == "cuda"
        logits, iou = forward(self._sam, pictures, boxes, points, bfloat16=on_cuda)
        target, sure = target_of(self._sam, tissue), target_of(self._sam, clear)
        target = Target(target.cover, target.valid * sure.cover)
        return (dice_bce(logits, target) + iou_error(iou, logits, target)).mean()

    def masks(self, pixels: Tensor) -> Tensor:
        """See `Student.masks`."""
        picture = _picture(pixels)
        logits, _ = forward(self._sam, [picture], [_box(picture)], [None])
        size = frame_size(picture.shape, int(self._sam.image_encoder.img_size))
        full: Tensor = self._sam.postprocess_masks(logits, size, picture.shape[:2])
        return (full[0] > 0).cpu()

    def save(self, folder: Path, facts: dict[str, Any]) -> tuple[Path, str]:
        """See `Student.save`."""
        path = folder / "sam.safetensors"
        save_merged(path, self._sam, self._tuning, {"wsiprep": json.dumps(facts)})
        options = (f"checkpoint={path}", f"model={self._kind}", "multimask=false", "points=0")
        flags = " ".join(f"--segmenter-option {option}" for option in options)
        return path, f"--segmenter sam {flags}"


def _picture(planes: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(planes.permute(1, 2, 0).numpy())


def _box(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    h, w = picture.shape[:2]
    return np.array([0, 0, w, h], np.float32)


def _points(
    rng: np.random.Generator, tissue: NDArray[np.bool_], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
    """Some points on tissue and some beside it, x and y of pixels; or none."""
    if rng.random() > POINTS_ODDS:
        return None
    found: list[NDArray[np.float32]] = []
    labels: list[int] = []
    for there, label in ((tissue & known, 1), (~tissue & known, 0)):
        places = np.argwhere(there)
        if len(places):
            some = places[rng.integers(0, len(places), int(rng.integers(1, MOST_POINTS + 1)))]
            found.append(some[:, ::-1].astype(np.float32))
            labels += [label] * len(some)
    if not found:
        return None
    return np.concatenate(found), np.array(labels, np.int32)
