"""What SAM and SAM 2 have in common: prompts in, the best mask out, or the classical mask.

1. The classical segmenter (`otsu`) looks at the thumbnail. Its tissue gives the points, its ink
   is the ink of the result.
2. The thumbnail is shrunk, if need be, to the side of the network's input; the network is told a
   box around the whole image and the points, and predicts masks with an IoU for each.
3. The mask of highest predicted IoU is taken. Where that is below `min_iou` the classical tissue
   is taken instead, and `notes` says so.

Source: Kirillov et al., Segment Anything, ICCV 2023; a box around the whole thumbnail as the only
prompt is that of AtlasPatch (2026).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsiprep.core.config import Settings
from wsiprep.core.errors import DeviceError
from wsiprep.core.types import Segmentation
from wsiprep.tissue.sam_frame import fit_to_frame
from wsiprep.tissue.segmenters import otsu
from wsiprep.tissue.segmenters._checkpoint import file_sha256
from wsiprep.tissue.segmenters._prompts import Prompts, make_prompts

__all__ = ["BATCH", "Answer", "Predictor", "PromptedConfig", "PromptedSegmenter"]

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PLAIN = 6
"""An image whose channels each vary by less than this many levels shows nothing."""
AGREEMENT = 0.5
"""IoU with the classical mask below which the user is told to look."""
BATCH = 4
"""Slides that go through the image encoder at once on an accelerator. Attention over 64 x 64
places takes a gigabyte or more for each, and a CPU gains nothing from a batch."""


class Answer(NamedTuple):
    """What a network says of an image.

    Attributes:
        logits: float32 (C, h, w) in the frame of the image; above 0 is tissue.
        iou: float32 (C,), the network's own estimate of each mask's IoU.
    """

    logits: NDArray[np.float32]
    iou: NDArray[np.float32]


class Predictor(Protocol):
    """A promptable network with its weights."""

    @property
    def input_px(self) -> int:
        """Side of the square that the network is given."""
        ...

    @property
    def batch(self) -> int:
        """Images that are best asked about at once."""
        ...

    def predict(
        self, images: Sequence[Image], prompts: Sequence[Prompts], multimask: bool
    ) -> list[Answer]:
        """Masks of some images, which go through the image encoder together.

        Args:
            images: uint8 (h, w, 3) RGB, no side above `input_px`.
            prompts: In the frames of the images.
            multimask: Three masks of each instead of one.

        Raises:
            DeviceError: out of memory.
        """
        ...


class PromptedConfig(Settings, ABC):
    """Options that `sam` and `sam2` share."""

    checkpoint: str = ""
    """Weights: a path, or hf-hub:owner/name[@revision]. Empty for the published ones."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda, cuda:N, mps."""
    box: bool = True
    """Prompt with a box around the whole thumbnail."""
    points: int = Field(default=8, ge=0, le=64)
    """Most points on tissue, and most off it, taken from the classical mask."""
    multimask: bool = True
    """Let the network give three masks and take the best by its own estimate."""
    min_iou: float = Field(default=0.5, ge=0, le=1)
    """Take the classical mask where the network's own estimate of its IoU is below this."""
    pen: bool = True
    """Look for pen ink. Switch off for stains as green or blue as ink (Masson, Alcian blue)."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.box and not self.points:
            raise ValueError("with box=false there must be points")
        return self

    @abstractmethod
    def checkpoint_file(self) -> Path:
        """The file of the weights.

        Raises:
            WeightsError: it is not there, and cannot be fetched.
        """

    def canonical(self) -> dict[str, Any]:
        """Values as they are hashed: the checkpoint by content, and not where the network runs.

        Raises:
            WeightsError: the checkpoint is not there.
        """
        values = super().canonical()
        del values["device"]
        values["checkpoint"] = file_sha256(self.checkpoint_file())
        values["classical"] = otsu.VERSION
        return values


class PromptedSegmenter:
    """A promptable network and the classical segmenter that prompts it; see the module.

    Args:
        cfg: Options.
        name: What the network is called in notes.
        predictor: The network.
    """

    def __init__(self, cfg: PromptedConfig, name: str, predictor: Predictor) -> None:
        self.cfg = cfg
        self.name = name
        self.predictor = predictor
        self._classical = otsu.create(otsu.Config(pen=cfg.pen))

    def segment(self, thumbnail: Image, mpp: float) -> Segmentation:
        """Find tissue and pen.

        Args:
            thumbnail: uint8 (h, w, 3) RGB of the whole slide.
            mpp: Its µm/px.

        Raises:
            DeviceError: out of memory.
        """
        return self.segment_many([thumbnail], [mpp])[0]

    @property
    def batch(self) -> int:
        """Slides that share a pass: 1 on a CPU, which gains nothing by it."""
        return self.predictor.batch

    def segment_many(
        self, thumbnails: Sequence[Image], mpps: Sequence[float]
    ) -> list[Segmentation]:
        """Find tissue and pen on several slides, which share passes of the image encoder.

        The results are those of `segment`, but for rounding in the network.

        Args:
            thumbnails: uint8 (h, w, 3) RGB each.
            mpps: Their µm/px.

        Raises:
            DeviceError: out of memory.
        """
        found: list[Segmentation] = []
        pairs = list(zip(thumbnails, mpps, strict=True))
        step = self.predictor.batch
        for start in range(0, len(pairs), step):
            found += self._batch(pairs[start : start + step])
        return found

    def _batch(self, pairs: Sequence[tuple[Image, float]]) -> list[Segmentation]:
        classical = [self._classical.segment(image, mpp) for image, mpp in pairs]
        asked: dict[int, tuple[Image, Prompts]] = {}
        for index, ((thumbnail, _), seen) in enumerate(zip(pairs, classical, strict=True)):
            if _plain(thumbnail):
                continue
            image = np.ascontiguousarray(thumbnail)
            if max(image.shape) > self.predictor.input_px:
                image = fit_to_frame(image, self.predictor.input_px)
            size = image.shape[:2]
            prompts = make_prompts(
                _mask_at(seen.tissue, size),
                _mask_at(seen.pen, size),
                box=self.cfg.box,
                points=self.cfg.points,
            )
            if not prompts.empty:
                asked[index] = (image, prompts)
        answers: dict[int, Answer] = {}
        if asked:
            images, prompted = zip(*asked.values(), strict=True)
            answers = dict(zip(asked, self._ask(images, prompted), strict=True))
        return [self._judge(seen, answers.get(index)) for index, seen in enumerate(classical)]

    def _ask(self, images: Sequence[Image], prompts: Sequence[Prompts]) -> list[Answer]:
        """Ask about all at once, or where memory does not allow that about one half at a time."""
        try:
            return self.predictor.predict(images, prompts, self.cfg.multimask)
        except DeviceError:
            if len(images) == 1:
                raise
        half = len(images) // 2
        return self._ask(images[:half], prompts[:half]) + self._ask(images[half:], prompts[half:])

    def _judge(self, seen: Segmentation, answer: Answer | None) -> Segmentation:
        """Take the network's best mask, or the classical one."""
        if answer is None:
            note = f"{self.name} was not asked, for the image shows nothing to prompt it with."
            return Segmentation(seen.tissue, seen.pen, notes=(note, *seen.notes))
        # NaN compares false with everything: it never wins, and is never good enough.
        best = int(np.argmax(np.where(np.isnan(answer.iou), -np.inf, answer.iou)))
        iou = float(answer.iou[best])
        if not iou >= self.cfg.min_iou:
            note = (
                f"{self.name} gives its own mask an IoU of {iou:.2f}, below min_iou"
                f" {self.cfg.min_iou:g}; the tissue is that of the classical segmenter."
            )
            return Segmentation(seen.tissue, seen.pen, notes=(note, *seen.notes))
        h, w = seen.tissue.shape
        logits = answer.logits[best]
        if logits.shape != (h, w):
            logits = cv2.resize(logits, (w, h), interpolation=cv2.INTER_LINEAR)
        tissue = np.asarray(logits > 0)
        notes = self._disagreement(tissue, seen)
        if seen.tissue.any() or seen.pen.any():
            # What the classical segmenter says of a slide it cannot read is about itself alone.
            notes += seen.notes
        return Segmentation(tissue, seen.pen, notes=notes)

    def _disagreement(self, tissue: Mask, seen: Segmentation) -> tuple[str, ...]:
        union = int((tissue | seen.tissue).sum())
        both = int((tissue & seen.tissue).sum())
        if union == 0 or both >= AGREEMENT * union:
            return ()
        return (
            f"{self.name} and the classical segmenter agree on {both / union:.0%} of what either"
            " calls tissue; look at the overlay.",
        )


def _plain(thumbnail: Image) -> bool:
    """Whether there is nothing on an image, not even noise of a camera."""
    pixels = thumbnail.reshape(-1, 3)
    return bool((np.ptp(pixels, axis=0) < PLAIN).all())


def _mask_at(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """True where a mask covers at least half of a pixel of a coarser grid."""
    if mask.shape == shape:
        return mask
    cover = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(cover >= 0.5)
