"""Settings of the training of tissue segmenters."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings, flag
from wsiprep.synth.thumbnails.stains import HELD_OUT

__all__ = ["TissueTraining", "TrainTissueConfig"]


class TissueTraining(Settings):
    """How a network is trained. The defaults are those of the network that is shipped."""

    panel: ClassVar[str] = "Training"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for the network, checkpoints, log and pictures."""
    model: Literal["net", "sam"] = "net"
    """net is the small network of the segmenter net, from scratch; sam tunes Segment Anything."""
    checkpoint: Path | None = None
    """Weights to begin with: of Segment Anything for sam; for net a network that was trained before
    (without it, net begins from nothing)."""
    sam: Literal["vit_b", "vit_l", "vit_h"] = "vit_b"
    """Which network those weights are of."""
    lora_rank: int = Field(default=0, ge=0, le=256)
    """Rank of LoRA updates of the image encoder's attention, for sam; 0 for none."""
    data: Path | None = None
    """CSV of real thumbnails: image, and any of tissue, pen, edge, fold (masks as PNG or TIFF, or
    GeoJSON in pixels of the image), mpp, split (train, val). A class without a mask is unknown."""
    textures: Path | None = None
    """Folder of pictures of tissue and nothing else, whose colours drawn tissue may take."""
    steps: int = Field(default=4500, ge=1)
    """Steps of the optimiser."""
    batch_size: int = Field(default=16, ge=1)
    """Thumbnails a step."""
    crop_px: int = Field(default=256, ge=64, multiple_of=32)
    """Side of the pictures trained on."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate, by default 3e-3 for net and 1e-4 for sam; it rises over the first 200
    steps and falls as a cosine."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    real_share: float = Field(default=0.1, ge=0, le=1)
    """Share of real thumbnails among those trained on, where `data` has any."""
    leave_out: tuple[str, ...] = HELD_OUT
    """Stains not drawn for training; kept to see how unseen ones are read."""
    validate_every: int = Field(default=500, ge=1)
    """Steps between validations; a checkpoint is written with each."""
    seed: int = 1
    """Of everything: the same seed, settings and machine give the same network."""
    workers: int = Field(default=1, ge=0)
    """Processes that draw thumbnails."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first that is there."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder."""

    @property
    def peak_rate(self) -> float:
        """The learning rate that is used."""
        return self.learning_rate or {"net": 3e-3, "sam": 1e-4}[self.model]


class TrainTissueConfig(Settings):
    """Settings of `wsiprep train tissue`."""

    training: TissueTraining
