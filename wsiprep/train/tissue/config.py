"""Settings of the training of tissue segmenters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, field_validator

from wsiprep.core.config import Settings, flag
from wsiprep.synth.thumbnails.stains import HELD_OUT

__all__ = ["TissueTraining", "TrainTissueConfig"]


class _Own(NamedTuple):
    """What suits a model where nothing else is asked for."""

    learning_rate: float
    batch_size: int
    real_share: float


_OWN: Final = {
    "net": _Own(learning_rate=3e-3, batch_size=16, real_share=0.1),
    # A whole thumbnail holds some 1.1 GiB with vit_b and 1.9 with vit_h (float32 activations), and
    # about as much again while gradients are made. What is drawn has no end, for a network from
    # scratch; one that others have trained is to be tuned to true slides.
    "sam": _Own(learning_rate=1e-4, batch_size=4, real_share=1.0),
}


def _by_model(name: str) -> str:
    return " and ".join(f"{getattr(own, name):g} for {model}" for model, own in _OWN.items())


class TissueTraining(Settings):
    """How a network is trained. How the one that ships was: `examples/train_tissue/net.yaml`."""

    panel: ClassVar[str] = "Training"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for the network, checkpoints, log and pictures."""
    model: Literal["net", "sam"] = "net"
    """net is the small network of the segmenter net, from scratch; sam tunes Segment Anything."""
    checkpoint: Path | None = None
    """Weights to begin with: of Segment Anything for sam; for net a network that was trained before
    (without it, net begins from nothing)."""
    widths: tuple[int, ...] = ()
    """Channels of net's five levels, finest first; without it those of the network it begins with,
    else the usual ones. One that is narrower is widened, and first answers as it did."""
    sam: Literal["vit_b", "vit_l", "vit_h"] = "vit_b"
    """Which network those weights are of."""
    lora_rank: int = Field(default=0, ge=0, le=256)
    """Rank of LoRA updates of the image encoder's attention, for sam; 0 for none."""
    data: Path | None = None
    """CSV of slides or thumbnails: image, and any of tissue, pen, edge, fold (masks as PNG or TIFF,
    or GeoJSON in level-0 pixels of the slide, or pixels of the thumbnail), ignore, mpp, slide_mpp,
    split (train, val). A class without a mask is unknown; sam takes the rows with tissue."""
    textures: Path | None = None
    """Folder of pictures of tissue and nothing else, whose colours drawn tissue may take."""
    stains: Path | None = None
    """YAML of stains of your own, which are drawn besides ours: name to nuclear and counter
    (optical density in red, green and blue of a unit of each dye), amount (of the two), odds."""
    steps: int = Field(default=4500, ge=1)
    """Steps of the optimiser."""
    batch_size: int | None = Field(
        default=None, ge=1,
        description=f"Thumbnails a step; without it {_by_model('batch_size')}.",
    )  # fmt: skip
    crop_px: int = Field(default=256, ge=64, multiple_of=32)
    """Side of the pieces that net is trained on; sam is trained on whole thumbnails."""
    learning_rate: float | None = Field(
        default=None, gt=0,
        description="Highest learning rate; it rises over the first 200 steps and falls as a"
        f" cosine. Without it {_by_model('learning_rate')}.",
    )  # fmt: skip
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    real_share: float | None = Field(
        default=None, ge=0, le=1,
        description="Share of real thumbnails among those trained on, where `data` has any to"
        f" train on; the others are drawn. Without it {_by_model('real_share')}.",
    )  # fmt: skip
    more_ink: float = Field(default=0.0, ge=0, le=1)
    """Chance that a drawn thumbnail without pen strokes is given some; others have them anyway."""
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
    overwrite: bool = False
    """Begin anew where the output folder holds a training; without it or --resume that is an
    error."""

    @field_validator("widths")
    @classmethod
    def _five(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if widths and (len(widths) != 5 or min(widths) < 1):
            raise ValueError("five numbers of at least 1, one for each level")
        return widths

    @property
    def state_file(self) -> Path:
        """What a training that was stopped goes on from."""
        return self.output / "checkpoint.pt"

    @property
    def peak_rate(self) -> float:
        """The learning rate that is used."""
        given = self.learning_rate
        return _OWN[self.model].learning_rate if given is None else given

    @property
    def thumbnails_a_step(self) -> int:
        """The batch size that is used."""
        given = self.batch_size
        return _OWN[self.model].batch_size if given is None else given

    @property
    def share_of_real(self) -> float:
        """The share of real thumbnails that is used where there are any."""
        given = self.real_share
        return _OWN[self.model].real_share if given is None else given

    def canonical(self) -> dict[str, Any]:
        """Values as they are used, of what is left to the model as well."""
        used = {
            "learning_rate": self.peak_rate,
            "batch_size": self.thumbnails_a_step,
            "real_share": self.share_of_real,
        }
        return {**super().canonical(), **used}


class TrainTissueConfig(Settings):
    """Settings of `wsiprep train tissue`."""

    training: TissueTraining
