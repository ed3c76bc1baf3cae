"""Settings of `wsiprep train align`, `caption` and `instruct`: what is not in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings, flag

__all__ = ["LanguageTraining", "StoredSamples", "TrainAlignConfig"]


class StoredSamples(Settings):
    """Samples and where their slides are: what trainings and evaluations are given alike."""

    data: Path
    """Manifest (JSONL) of samples."""
    stores: Path
    """Folder of the slides' stores, as `wsiprep run` or `wsiprep embed` made them."""
    skip_missing: bool = False
    """Leave out samples of slides without a store or without features, and say which; without it
    they are an error. Samples whose slides have no patch with features are always left out."""


class LanguageTraining(StoredSamples):
    """What every training of the slide-language system is given."""

    panel: ClassVar[str] = "Training"

    data: Path
    """Manifest (JSONL) of the samples to learn from; those of split val and test in it are not."""
    output: Path = Field(json_schema_extra=flag("-o", "--out"))
    """Folder for checkpoints, log and state."""
    val: Path | None = None
    """Manifest to validate on; by default the samples of split val in --data."""
    recipe: str = "pathflip"
    """What is trained, and how: name of a recipe, or a YAML file."""
    set: tuple[str, ...] = Field(default=(), json_schema_extra=flag(metavar="NAME=VALUE"))
    """Changes of the recipe, e.g. optimisation.epochs=5; may be given several times."""
    validate_every: int = Field(default=200, ge=1)
    """Steps between validations; a checkpoint is written with each."""
    seed: int = 1
    """Of everything: the same seed, recipe, samples and machine give the same weights."""
    device: str = "auto"
    """cpu, cuda, mps; auto takes the first that is there."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products; losses are in fp32 always."""
    features_grid: str | None = None
    """Name of the grid, where stores have several."""
    features_encoder: str | None = None
    """Name of the encoder, where stores have features of several."""
    tensorboard: bool = False
    """Write events for TensorBoard besides log.csv."""
    resume: bool = False
    """Go on from the state in the output folder."""
    overwrite: bool = False
    """Begin anew where the output folder holds a training; without it or --resume that is an
    error."""
    dry_run: bool = False
    """Print parameters, patches and memory, take one step without keeping it, and stop."""


class TrainAlignConfig(Settings):
    """Settings of `wsiprep train align`."""

    training: LanguageTraining
