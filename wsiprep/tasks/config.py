"""Settings of the commands, composed of the stages' sections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.encoders.config import EncoderConfig
from wsiprep.grid.config import GridConfig
from wsiprep.slide.config import SlideConfig
from wsiprep.tasks.output_config import OutputSettings
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.presets import PATCH_PRESETS

__all__ = [
    "CoordsConfig",
    "EmbedConfig",
    "GridChoice",
    "InputConfig",
    "InspectConfig",
    "PrepareConfig",
    "RunConfig",
    "SegmentConfig",
    "Stages",
    "stages",
]


class InputConfig(Settings):
    """Which slides."""

    panel: ClassVar[str] = "Slides"

    slides: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(argument=True, metavar="SLIDES...")
    )
    """Slide files, DICOM folders, folders of slides, or globs."""
    manifest: Path | None = None
    """CSV with one slide a row: path, and optionally slide_id, mpp, mask, and columns named as
    the settings of tissue detection."""
    recursive: bool = False
    """Look for slides in sub-folders too."""
    ext: tuple[str, ...] = ()
    """Only files with this extension, e.g. svs; may be repeated."""


class RunConfig(OutputSettings):
    """Where results go, and how the work is done. Nothing here enters a key.

    On a GPU, `batch_size` and `device` may change the last bits of features; see docs/adr/0005.
    """

    panel: ClassVar[str] = "Run"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for results; made when absent. An earlier run in it is resumed."""

    batch_size: int = Field(default=32, ge=1)
    """Patches encoded at a time; fewer where their pixels would take more than 128 MiB, and halved
    by itself when memory runs out."""
    workers: int | None = Field(default=None, ge=1, le=256)
    """Reading threads; by default the cores this job was given, at most 16."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first of cuda, mps, cpu that is there."""
    profile: bool = False
    """Write where the time of encoding went, slide by slide, to profile.json in the output
    folder; not when nothing was encoded."""
    overwrite: bool = False
    """Do it again although it is there, and replace what was made with other settings. Stopped,
    the same command goes on with the slides that it had not done again."""
    fail_fast: bool = False
    """Stop at the first slide that fails; without it every slide is attempted."""
    overlay: bool = True
    """Draw an overlay picture for every slide."""
    dry_run: bool = False
    """Count patches and estimate time and disk; write nothing."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the report as JSON on stdout."""


class GridChoice(Settings):
    """Which of a slide's grids."""

    panel: ClassVar[str] = "Patches"

    grid: str | None = None
    """Grid to encode, as `wsiprep inspect` lists them; by default the only one."""


class SegmentConfig(Settings):
    """Settings of `wsiprep segment`."""

    inputs: InputConfig
    slide: SlideConfig
    tissue: TissueConfig
    run: RunConfig


class CoordsConfig(Settings):
    """Settings of `wsiprep coords`."""

    inputs: InputConfig
    slide: SlideConfig
    patches: GridConfig
    run: RunConfig


class EmbedConfig(Settings):
    """Settings of `wsiprep embed`."""

    inputs: InputConfig
    slide: SlideConfig
    choice: GridChoice
    encoding: EncoderConfig
    run: RunConfig


class PrepareConfig(Settings):
    """Settings of `wsiprep run`: all stages."""

    inputs: InputConfig
    slide: SlideConfig
    tissue: TissueConfig
    patches: GridConfig
    encoding: EncoderConfig
    run: RunConfig

    @model_validator(mode="wrap")
    @classmethod
    def _take_preset(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """Where patches are placed as the preset says; as in `TissueConfig`, others may win."""
        made = make(values)
        given = PATCH_PRESETS.get(made.tissue.preset, {}) if made.tissue.preset else {}
        unset = {k: v for k, v in given.items() if k not in made.patches.model_fields_set}
        if unset:
            patches = made.patches.model_copy(update=unset)
            patches.model_fields_set.difference_update(unset)
            made.__dict__["patches"] = patches
        return made


class InspectTarget(Settings):
    """What to look at."""

    panel: ClassVar[str] = "Report"

    path: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(argument=True, metavar="SLIDE|STORE...")
    )
    """Slides, or stores ending in .zarr."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print as JSON on stdout."""


class InspectConfig(Settings):
    """Settings of `wsiprep inspect`."""

    what: InspectTarget
    slide: SlideConfig
    patches: GridConfig


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that a command runs: the settings of each, or None."""

    tissue: TissueConfig | None = None
    patches: GridConfig | None = None
    choice: GridChoice | None = None
    encoding: EncoderConfig | None = None


def stages(cfg: AnyConfig) -> Stages:
    """Which stages the settings of a command are for."""
    match cfg:
        case SegmentConfig():
            return Stages(tissue=cfg.tissue)
        case CoordsConfig():
            return Stages(patches=cfg.patches)
        case EmbedConfig():
            return Stages(choice=cfg.choice, encoding=cfg.encoding)
        case PrepareConfig():
            return Stages(cfg.tissue, cfg.patches, None, cfg.encoding)


AnyConfig = SegmentConfig | CoordsConfig | EmbedConfig | PrepareConfig
