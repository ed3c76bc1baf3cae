"""The real modules of SAM at a tiny size, with random weights; nothing knows what tissue is."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from tests.tissue import pictures as p
from wsiprep.core.errors import DeviceError
from wsiprep.tissue import TissueConfig
from wsiprep.tissue.segmenters._prompted import Answer
from wsiprep.tissue.segmenters._prompts import Prompts

SIDE = 128
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def tiny_sam(seed: int = 0, side: int = SIDE) -> Sam:
    """A SAM of some 60,000 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(
            ImageEncoderViT(
                img_size=side,
                embed_dim=32,
                depth=2,
                num_heads=2,
                mlp_ratio=2,
                out_chans=32,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            PromptEncoder(
                embed_dim=32,
                image_embedding_size=(side // 16, side // 16),
                input_image_size=(side, side),
                mask_in_chans=16,
            ),
            MaskDecoder(
                transformer_dim=32,
                transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64),
                iou_head_hidden_dim=32,
            ),
            pixel_mean=MEAN,
            pixel_std=STD,
        )
    return sam.eval()


def noise(h, w, seed=0):
    """Random pixels: every one matters."""
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def no_points():
    return np.empty((0, 2), np.float32), np.empty(0, np.int32)


def all_of(h, w):
    """A box around the whole image, and no points."""
    return Prompts(np.array([0, 0, w, h], np.float32), *no_points())


def picture(h=300, w=400):
    """A thumbnail with one piece of tissue, and where it is."""
    image = p.glass(h, w)
    truth = p.ellipse((h, w))
    p.stain(image, truth)
    return p.finish(image), truth


def sam_options(*more):
    return TissueConfig(segmenter="sam", segmenter_option=more)


class DiscPrompts(nn.Module):
    """In place of a prompt encoder: hands the coordinates on, as SAM's own would place them."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.told: list[tuple[object, object]] = []

    def forward(self, points, boxes, masks):
        self.told.append((points, boxes))
        at = points[0][:, points[1][0] == 1] if points is not None else torch.zeros(1, 0, 2)
        return at + 0.5, torch.zeros(1)

    def get_dense_pe(self):
        return torch.zeros(1)


class DiscMasks(nn.Module):
    """In place of a mask decoder: discs around the points, at a quarter of the side."""

    def __init__(self, side: int, radius: float) -> None:
        super().__init__()
        self.side, self.radius = side, radius

    def forward(
        self,
        image_embeddings,
        image_pe,
        sparse_prompt_embeddings,
        dense_prompt_embeddings,
        multimask_output,
        **_,
    ):
        centre = (torch.arange(self.side // 4) + 0.5) * 4
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        logits = torch.full_like(x, -1e3)
        for px, py in sparse_prompt_embeddings[0]:
            logits = torch.maximum(logits, self.radius - torch.hypot(x - px, y - py))
        return logits[None, None], torch.ones(1, 1)


class Scripted:
    """A predictor that answers with a function of the image and of what it is told."""

    batch = 4

    def __init__(self, answer, input_px: int = 1024, room_for: int = 4) -> None:
        self.answer, self._input_px, self.room_for = answer, input_px, room_for
        self.asked: list[tuple[np.ndarray, object, bool]] = []
        self.batches: list[int] = []

    @property
    def input_px(self) -> int:
        return self._input_px

    def predict(self, images, prompts, multimask):
        self.batches.append(len(images))
        if len(images) > self.room_for:
            raise DeviceError("out of memory")
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            self.asked.append((image, prompt, multimask))
            logits, iou = self.answer(image, prompt)
            found.append(Answer(np.float32(logits), np.float32(iou)))
        return found


def by_colour(image, prompt):
    """What a network that knows tissue would say: here, what is not as pale as glass."""
    return (215.0 - image.min(axis=2))[None].astype(np.float32), [0.9]
