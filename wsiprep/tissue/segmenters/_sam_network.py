"""SAM as a predictor: images of several shapes go through its image encoder together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from wsiprep.core.errors import DeviceError
from wsiprep.tissue.sam_frame import box_to_frame, fit_to_frame, points_to_frame
from wsiprep.tissue.segmenters._checkpoint import put_weights, read_state
from wsiprep.tissue.segmenters._prompted import BATCH, Answer
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_names import is_transformers_sam, original_names

__all__ = ["SamNetwork", "framed", "load_sam", "low_masks"]

WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def load_sam(path: Path, model: str, device: str, remedy: str) -> SamNetwork:
    """The network of that name with the weights of a file.

    Args:
        path: A checkpoint with the names of segment-anything or of transformers.
        model: `vit_b`, `vit_l` or `vit_h`.
        device: As torch names it.
        remedy: What to do when there are no usable weights.

    Raises:
        WeightsError: the file cannot be read, or is not of this model.
    """
    state = read_state(path, remedy)
    if is_transformers_sam(state):
        state = original_names(state)
    patches = state.get("image_encoder.patch_embed.proj.weight")
    other = WIDTHS.get(len(patches)) if patches is not None and patches.ndim else None
    if other not in (None, model):
        remedy = f"It holds a {other}: use --segmenter-option model={other}."
    # The networks are large: memory for their first, random weights is not even taken.
    with torch.device("meta"):
        sam = sam_model_registry[model]()
    sam = sam.to_empty(device="cpu")
    # Not in the state: constants of the published preprocessing.
    sam.pixel_mean.copy_(torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1))
    sam.pixel_std.copy_(torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1))
    put_weights(sam, state, str(path), remedy)
    return SamNetwork(sam, device)


class SamNetwork:
    """A SAM that is asked about images; see `_prompted.Predictor`.

    Args:
        sam: The network, with weights.
        device: Where it runs.
    """

    def __init__(self, sam: Sam, device: str = "cpu") -> None:
        self._sam = sam.to(device).eval()
        self._one_at_a_time = threading.Lock()

    @property
    def sam(self) -> Sam:
        """The network itself."""
        return self._sam

    @property
    def input_px(self) -> int:
        """Side of the square that the network is given."""
        return int(self._sam.image_encoder.img_size)

    @property
    def batch(self) -> int:
        """Images that are best asked about at once."""
        return 1 if self._sam.device.type == "cpu" else BATCH

    def predict(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompts], multimask: bool
    ) -> list[Answer]:
        """Masks of some images; see `_prompted.Predictor`."""
        try:
            with self._one_at_a_time, torch.inference_mode():
                return self._predict(images, prompts, multimask)
        except torch.OutOfMemoryError as err:
            raise DeviceError(
                f"SAM does not fit into the memory of {self._sam.device}.",
                stage="tissue",
                hint="Use --segmenter-option device=cpu, or a smaller model.",
            ) from err

    def _predict(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompts], multimask: bool
    ) -> list[Answer]:
        sam = self._sam
        fitted = [framed(sam, image) for image in images]
        embedded = sam.image_encoder(torch.stack([sam.preprocess(x) for x in fitted]))
        answers = []
        for image, x, embedding, prompt in zip(images, fitted, embedded, prompts, strict=True):
            low, iou = low_masks(sam, embedding, prompt, image.shape, multimask)
            logits = sam.postprocess_masks(low, tuple(x.shape[1:]), image.shape[:2])[0]
            answers.append(Answer(logits.float().cpu().numpy(), iou[0].float().cpu().numpy()))
        return answers


def framed(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    """An image in the frame of the network, uint8 (3, h, w) on its device, for `Sam.preprocess`.

    Args:
        sam: The network.
        image: uint8 (h, w, 3) RGB.
    """
    fitted = np.ascontiguousarray(fit_to_frame(image, int(sam.image_encoder.img_size)))
    return torch.from_numpy(fitted).to(sam.device).permute(2, 0, 1)


def low_masks(
    sam: Sam, embedding: Tensor, prompt: Prompts, shape: tuple[int, ...], multimask: bool
) -> tuple[Tensor, Tensor]:
    """What the network says of one image, at the resolution of its decoder.

    Args:
        sam: The network.
        embedding: float (C, L / 4, L / 4), of its image encoder.
        prompt: What it is told, in pixels of the image.
        shape: Of the image's array.
        multimask: The three masks of an ambiguous prompt instead of the one mask.

    Returns:
        Logits (1, M, L, L) over the padded square of the input, and the predicted IoU (1, M).
    """
    box, points = _told(sam, prompt, shape)
    sparse, dense = sam.prompt_encoder(points=points, boxes=box, masks=None)
    low, iou = sam.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return low, iou


def _told(
    sam: Sam, prompt: Prompts, shape: tuple[int, ...]
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """Prompts in the frame of the network, which adds half a pixel to what it is given."""
    side_px, device = int(sam.image_encoder.img_size), sam.device
    box = points = None
    if prompt.box is not None:
        box = torch.from_numpy(box_to_frame(prompt.box, shape, side_px))[None].to(device)
    if len(prompt.points):
        at = torch.from_numpy(points_to_frame(prompt.points, shape, side_px))[None].to(device)
        points = (at, torch.from_numpy(prompt.labels)[None].to(device))
    return box, points
