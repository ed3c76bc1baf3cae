"""Segment Anything on the thumbnail, prompted by a box and by the classical mask.

Weights are not shipped. They are the published ones (`vit_b`, `vit_l`, `vit_h`) in their original
form or in that of the transformers library, or a network tuned on tissue. What is done with them
is in `_prompted`.

Source: Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    from wsiprep.tissue.segmenters._sam_network import SamNetwork

__all__ = ["VERSION", "Config", "create"]

VERSION = 1
"""Raised whenever the same thumbnail and weights would give another mask."""

Model = Literal["vit_b", "vit_l", "vit_h"]

PUBLISHED: dict[str, tuple[str, str]] = {
    "vit_b": ("facebook/sam-vit-base", "sam_vit_b_01ec64.pth"),
    "vit_l": ("facebook/sam-vit-large", "sam_vit_l_0b3195.pth"),
    "vit_h": ("facebook/sam-vit-huge", "sam_vit_h_4b8939.pth"),
}
"""Hub repository, and name of the original file, of each model."""

_loading = threading.Lock()


class Config(PromptedConfig):
    """Options of the segmenter `sam`."""

    model: Model = "vit_b"
    """Which network the weights are of."""

    def checkpoint_file(self) -> Path:
        """The file of the weights; see `find_checkpoint`."""
        repo, original = PUBLISHED[self.model]
        files = ("model.safetensors", original, "model.pth", "pytorch_model.bin")
        return find_checkpoint(self.checkpoint or HUB + repo, files, remedy(self.model))


def remedy(model: str) -> str:
    """What to do without usable weights."""
    repo, original = PUBLISHED[model]
    return (
        f"Download {original} of the segment-anything project, or model.safetensors of the hub"
        f" repository {repo}, and give it with --segmenter-option checkpoint=PATH"
        f" --segmenter-option model={model}; or run once with access to the hub."
    )


def create(cfg: Config) -> Segmenter:
    """Make the segmenter.

    Raises:
        WeightsError: the checkpoint is not there, or is not of `cfg.model`.
        DeviceError: the device is not there.
    """
    path = cfg.checkpoint_file()
    with _loading:
        network = _network(str(path), file_sha256(path), cfg.model, str(pick_device(cfg.device)))
    return PromptedSegmenter(cfg, "SAM", network)


@lru_cache(maxsize=NETWORKS_KEPT)
def _network(path: str, sha256: str, model: str, device: str) -> SamNetwork:
    """The network with its weights: read once, for all slides."""
    from wsiprep.tissue.segmenters._sam_network import load_sam

    return load_sam(Path(path), model, device, remedy(model))
