"""Settings of `wsiprep evaluate align` and `wsiprep evaluate ground`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings
from wsiprep.tasks.report_config import ReportSettings
from wsiprep.tasks.use_config import AskedModelChoice, GroundMethodName
from wsiprep.train.language.config import StoredSamples

__all__ = [
    "AlignTasks",
    "EvaluateAlignConfig",
    "EvaluateGroundConfig",
    "EvaluatedSamples",
    "GroundTruth",
    "LanguageReport",
]


class EvaluatedSamples(StoredSamples):
    """Which samples."""

    panel: ClassVar[str] = "Samples"

    data: Path
    """Manifest (JSON Lines) with captions, labels, or both."""
    split: Literal["train", "val", "test", "all"] = "test"
    """Samples of this split; samples without a split count as every one."""


class LanguageReport(ReportSettings):
    """What is reported, and where it goes."""

    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""


class AlignTasks(Settings):
    """What the model is asked."""

    panel: ClassVar[str] = "Classes"

    classes: str | None = None
    """Classes in words, as for `wsiprep classify`: samples with a label are classified without an
    example of any. Their labels are names of these classes."""
    templates: str | None = None
    """Sentences that names are put into, as for `wsiprep classify`."""
    mode: Literal["slide", "patches"] = "slide"
    """How slides are classified, as for `wsiprep classify`."""


class EvaluateAlignConfig(Settings):
    """Settings of `wsiprep evaluate align`."""

    samples: EvaluatedSamples
    tasks: AlignTasks
    model: AskedModelChoice
    report: LanguageReport


class GroundTruth(Settings):
    """What is true, and how heat maps are held against it."""

    panel: ClassVar[str] = "Truth"

    truth: Path
    """CSV with the columns slide (id in --stores, or path of a store), text, and reference: a
    GeoJSON file, a mask image of the whole slide, or .npy of the lattice (rows, columns); and
    optionally class (of the GeoJSON features that count), patient_id and task."""
    stores: Path | None = None
    """Folder of the slides' stores, where the CSV has slide ids."""
    method: tuple[GroundMethodName, ...] = ()
    """attention, cosine or occlusion; may be repeated, to have them side by side. By default
    attention, or cosine where the model has learned none."""
    cover: float = Field(default=0.5, gt=0, le=1)
    """Share of a patch that lies in the reference, from which the patch counts as inside."""
    tolerance_cells: int = Field(default=0, ge=0, le=64)
    """Pointing also counts this many cells beside the reference."""


class EvaluateGroundConfig(Settings):
    """Settings of `wsiprep evaluate ground`."""

    truth: GroundTruth
    model: AskedModelChoice
    report: LanguageReport
