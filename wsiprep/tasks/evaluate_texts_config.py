"""Settings of `wsiprep evaluate vqa` and `evaluate caption`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings, flag
from wsiprep.tasks.ask_config import AnsweringConfig, AssistantChoice
from wsiprep.tasks.report_config import ReportSettings
from wsiprep.train.language.config import StoredSamples

__all__ = [
    "EvaluateCaptionConfig",
    "EvaluateVqaConfig",
    "JudgeConfig",
    "SamplesConfig",
    "TextReportConfig",
]


class SamplesConfig(StoredSamples):
    """Which samples."""

    panel: ClassVar[str] = "Samples"

    data: Path
    """Manifest (JSONL) of samples with questions and answers, or with captions."""
    split: Literal["test", "val", "train", "all"] = "test"
    """Only samples of this split; a manifest without any splits is taken whole."""
    tasks: tuple[str, ...] = Field(default=(), json_schema_extra=flag("--task"))
    """Only samples of this task; may be repeated."""
    most: int | None = Field(default=None, ge=1)
    """At most so many samples, drawn with --seed; the report says so."""
    features_grid: str | None = None
    """Name of the grid, where stores have several."""
    features_encoder: str | None = None
    """Name of the encoder, where stores have features of several."""
    batch_size: int = Field(default=8, ge=1)
    """Answers that are drawn at once."""


class JudgeConfig(Settings):
    """Who says how much of a free text is right."""

    panel: ClassVar[str] = "Judge"

    judge: str = "offline"
    """offline: fixed rules, whose scores have names of their own; hf: a language model on this
    machine; http: one behind an OpenAI-compatible address; none: no claims are judged."""
    judge_option: tuple[str, ...] = Field(default=(), json_schema_extra=flag(metavar="KEY=VALUE"))
    """Option of the judge, as model=... or url=...; may be repeated."""
    judge_cache: Path | None = None
    """Folder where answers of the judge are kept, so that nothing is asked twice; by default
    `judge` in the output folder."""


class TextReportConfig(ReportSettings):
    """What is reported, and where it goes."""

    blind: bool = True
    """Ask the model without the slides too, and report that beside; takes twice the time."""


class EvaluateVqaConfig(Settings):
    """Settings of `wsiprep evaluate vqa`."""

    samples: SamplesConfig
    model: AssistantChoice
    answers: AnsweringConfig
    judge: JudgeConfig
    report: TextReportConfig


class EvaluateCaptionConfig(Settings):
    """Settings of `wsiprep evaluate caption`."""

    samples: SamplesConfig
    model: AssistantChoice
    answers: AnsweringConfig
    judge: JudgeConfig
    report: TextReportConfig
