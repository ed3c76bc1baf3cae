"""Settings of `wsiprep evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from wsiprep.core.config import Settings, flag
from wsiprep.slide.config import SlideConfig
from wsiprep.tasks.report_config import ReportSettings
from wsiprep.tissue.config import TissueConfig

__all__ = ["ComparedTissue", "EvaluateTissueConfig", "EvaluationConfig", "PairsConfig"]


class PairsConfig(Settings):
    """Which slides, and what is true of them."""

    panel: ClassVar[str] = "Slides and references"

    pairs: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(argument=True, metavar="FOLDERS...")
    )
    """Folders of pairs: X.svs (or .png, ...) beside X_mask.png, X-mask.tif or X.geojson; or the
    sub-folders `images` and `masks` with files of the same names."""
    manifest: Path | None = None
    """CSV with one slide a row: path and reference (a mask image, non-zero is tissue, or GeoJSON),
    and optionally slide_id, mpp, patient_id, split, reference_pen, predicted, and columns named as
    the settings of tissue detection."""
    split: str | None = None
    """Only rows of the manifest whose column `split` has this value."""


class ComparedTissue(TissueConfig):
    """Tissue detection by several segmenters, side by side, with one clean-up for all."""

    segmenter: tuple[str, ...] = Field(  # type: ignore[assignment]
        default=(), json_schema_extra=flag(metavar="NAME|LABEL=NAME")
    )
    """Segmenter to evaluate; may be repeated, also the same one under several labels. By default
    what `wsiprep segment` does with each slide, also by the columns `segmenter` and `preset`,
    unless --predicted or the column `predicted` is given."""
    segmenter_option: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(metavar="[LABEL:]KEY=VALUE")
    )
    """Option of the segmenter of that name or label, or of every one; may be repeated."""
    mask: ClassVar[None] = None  # type: ignore[misc]

    @classmethod
    def _of_preset(cls, preset: str, segmenter: Any) -> Mapping[str, Any]:
        """All but the segmenter and its options, which each that is compared takes for itself."""
        given = super()._of_preset(preset, segmenter)
        return {k: v for k, v in given.items() if not k.startswith("segmenter")}


class EvaluationConfig(ReportSettings):
    """What is reported, and where it goes."""

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for tissue.csv, tissue.json and worst.jpg; made when absent."""
    predicted: tuple[Path, ...] = ()
    """Output folder of an earlier run whose tissue is evaluated as it is there; may be repeated."""
    worst: int = Field(default=12, ge=1, le=100)
    """Slides on the contact sheet: those with the lowest IoU."""
    resamples: int = Field(default=2000, ge=100, le=1_000_000)
    """Bootstrap resamples of slides, or of patients where the manifest names them."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""


class EvaluateTissueConfig(Settings):
    """Settings of `wsiprep evaluate tissue`."""

    pairs: PairsConfig
    slide: SlideConfig
    tissue: ComparedTissue
    report: EvaluationConfig
