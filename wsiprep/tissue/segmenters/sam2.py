"""Segment Anything 2 on the thumbnail, through the `sam2` package (`pip install 'wsiprep[sam2]'`).

Weights are not shipped. They are the published ones of SAM 2.1, those of AtlasPatch (Hiera-tiny,
tuned on tissue thumbnails with a box around the whole image as the only prompt: the defaults of
this segmenter fit them; mind their licence, which is not a commercial one), or your own.

The network is given the whole thumbnail as a square of 1024 px, whatever its shape. What is done
with its answer is in `_prompted`.

Source: Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024; AtlasPatch, 2026.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wsiprep.core.contracts import Segmenter
from wsiprep.tissue.segmenters._checkpoint import (
    HUB,
    NETWORKS_KEPT,
    file_sha256,
    find_checkpoint,
    pick_device,
)
from wsiprep.tissue.segmenters._prompted import PromptedConfig, PromptedSegmenter

if TYPE_CHECKING:
    from wsiprep.tissue.segmenters._sam2_network import Sam2Network

__all__ = ["VERSION", "Config", "create"]

VERSION = 1
"""Raised whenever the same thumbnail and weights would give another mask."""

Model = Literal["tiny", "small", "base_plus", "large"]

_loading = threading.Lock()


class Config(PromptedConfig):
    """Options of the segmenter `sam2`."""

    model: Model = "tiny"
    """Which network of SAM 2.1 (Hiera) the weights are of."""
    points: int = Field(default=0, ge=0, le=64)
    """Most points on tissue, and most off it, taken from the classical mask."""
    multimask: bool = False
    """Let the network give three masks and take the best by its own estimate."""

    def checkpoint_file(self) -> Path:
        """The file of the weights; see `find_checkpoint`."""
        files = (f"sam2.1_hiera_{self.model}.pt", "model.pth", "model.pt")
        return find_checkpoint(
            self.checkpoint or _repository(self.model), files, remedy(self.model)
        )


def remedy(model: str) -> str:
    """What to do without usable weights."""
    return (
        f"Download sam2.1_hiera_{model}.pt of SAM 2, or model.pth of the hub repository"
        " AtlasAnalyticsLab/AtlasPatch (model=tiny; not for commercial use), and give it with"
        f" --segmenter-option checkpoint=PATH --segmenter-option model={model}; or run once with"
        " access to the hub."
    )


def create(cfg: Config) -> Segmenter:
    """Make the segmenter.

    Raises:
        WeightsError: the checkpoint is not there, or is not of `cfg.model`.
        PluginUnavailableError: the `sam2` package is not installed.
        DeviceError: the device is not there.
    """
    path = cfg.checkpoint_file()
    with _loading:
        network = _network(str(path), file_sha256(path), cfg.model, str(pick_device(cfg.device)))
    return PromptedSegmenter(cfg, "SAM 2", network)


def _repository(model: str) -> str:
    return f"{HUB}facebook/sam2.1-hiera-{model.replace('_', '-')}"


@lru_cache(maxsize=NETWORKS_KEPT)
def _network(path: str, sha256: str, model: str, device: str) -> Sam2Network:
    """The network with its weights: read once, for all slides."""
    from wsiprep.tissue.segmenters._sam2_network import load_sam2

    return load_sam2(Path(path), model, device, remedy(model))
