"""SAM 2 as a predictor, built from the configurations that the `sam2` package ships."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiprep.core.errors import DeviceError, PluginUnavailableError, WeightsError
from wsiprep.tissue.segmenters._checkpoint import put_weights, read_state
from wsiprep.tissue.segmenters._prompted import BATCH, Answer
from wsiprep.tissue.segmenters._prompts import Prompts

__all__ = ["Sam2Network", "build_sam2", "load_sam2"]

CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
WIDTHS = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
"""Width and number of blocks of the image encoder -> model."""


def load_sam2(path: Path, model: str, device: str, remedy: str) -> Sam2Network:
    """The network of that name with the weights of a file.

    Args:
        path: A checkpoint of SAM 2.1 or of AtlasPatch: a state dict, as a rule under `model`.
        model: `tiny`, `small`, `base_plus` or `large`.
        device: As torch names it.
        remedy: What to do when there are no usable weights.

    Raises:
        PluginUnavailableError: the `sam2` package is not installed.
        WeightsError: the file cannot be read, or is not of this model.
    """
    network = build_sam2(model)
    state = read_state(path, remedy)
    if any(name.startswith("vision_encoder.") for name in state):
        raise WeightsError(
            f"checkpoint {path} has the names of the transformers library, not those of sam2.",
            stage="tissue",
            hint=remedy,
        )
    other = _model_of(state)
    if other not in (None, model):
        remedy = f"It holds a {other}: use --segmenter-option model={other}."
    put_weights(network, state, str(path), remedy)
    return Sam2Network(network, device)


def build_sam2(model: str, **changes: Any) -> Any:
    """A `SAM2Base` without weights, in evaluation mode.

    Args:
        model: `tiny`, `small`, `base_plus` or `large`.
        changes: Dotted keys of the configuration, with `__` for dots, and other values.

    Raises:
        PluginUnavailableError: the `sam2` package is not installed.
    """
    try:
        with _quiet():
            from hydra.utils import instantiate
            from omegaconf import OmegaConf

            where = files("sam2") / "configs" / "sam2.1" / f"sam2.1_hiera_{CONFIGS[model]}.yaml"
            settings = OmegaConf.create(where.read_text(encoding="utf-8")).model
            for key, value in changes.items():
                OmegaConf.update(settings, key.replace("__", "."), value)
            return instantiate(settings).eval()
    except ImportError as err:
        raise PluginUnavailableError(
            f"segmenter 'sam2' needs the sam2 package: {err}.",
            stage="tissue",
            hint="pip install 'wsiprep[sam2]'",
        ) from err


class Sam2Network:
    """A SAM 2 that is asked about images; see `_prompted.Predictor`.

    Args:
        network: A `SAM2Base` of 1024 px, with weights.
        device: Where it runs.
    """

    def __init__(self, network: Any, device: str = "cpu") -> None:
        with _quiet():
            from sam2.sam2_image_predictor import SAM2ImagePredictor

            self._predictor = SAM2ImagePredictor(network.to(device).eval())
        self._network = network
        self._one_at_a_time = threading.Lock()

    @property
    def input_px(self) -> int:
        """Side of the square that the network is given."""
        return int(self._network.image_size)

    @property
    def batch(self) -> int:
        """Images that are best asked about at once."""
        return 1 if self._network.device.type == "cpu" else BATCH

    def predict(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompts], multimask: bool
    ) -> list[Answer]:
        """Masks of some images; see `_prompted.Predictor`."""
        try:
            with self._one_at_a_time, torch.inference_mode():
                self._predictor.set_image_batch([np.array(image) for image in images])
                told = [
                    self._told(prompt, image.shape)
                    for image, prompt in zip(images, prompts, strict=True)
                ]
                logits, iou, _ = self._predictor.predict_batch(
                    point_coords_batch=[one[0] for one in told],
                    point_labels_batch=[one[1] for one in told],
                    box_batch=[one[2] for one in told],
                    multimask_output=multimask,
                    return_logits=True,
                    normalize_coords=False,
                )
        except torch.OutOfMemoryError as err:
            raise DeviceError(
                f"SAM 2 does not fit into the memory of {self._network.device}.",
                stage="tissue",
                hint="Use --segmenter-option device=cpu, or a smaller model.",
            ) from err
        finally:
            self._predictor.reset_predictor()
        return [
            # The predictor drops axes of length 1, which images of a pixel's width also have.
            Answer(
                mask.reshape(-1, *image.shape[:2]).astype(np.float32, copy=False),
                np.atleast_1d(estimate).astype(np.float32, copy=False),
            )
            for image, mask, estimate in zip(images, logits, iou, strict=True)
        ]

    def _told(
        self, prompt: Prompts, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.int32] | None, NDArray[np.float32] | None]:
        """Points, labels and box as shares of the square, in which the network is asked.

        The network adds half a pixel of its own frame to what it is given.
        """
        h, w = shape[:2]
        size = np.array([w, h], dtype=np.float32)
        box = (
            None
            if prompt.box is None
            else np.divide(prompt.box, np.tile(size, 2), dtype=np.float32)
        )
        if not len(prompt.points):
            return None, None, box
        points = (prompt.points + 0.5) / size - 0.5 / self.input_px
        return points.astype(np.float32), prompt.labels, box


def _model_of(state: dict[str, Any]) -> str | None:
    """Which model weights are of, by the width and depth of the image encoder."""
    first = state.get("image_encoder.trunk.patch_embed.proj.weight")
    if first is None or not first.ndim:
        return None
    blocks = {
        name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")
    }
    return WIDTHS.get((len(first), len(blocks)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that foreign packages give about each other when they are imported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"register_new_resolver\(\) is deprecated", UserWarning)
        # The predictor compiles its resizing with TorchScript, of which torch 2.15 warns.
        warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated")
        yield
