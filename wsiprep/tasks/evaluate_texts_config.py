"""Settings of `wsiprep evaluate vqa` and `evaluate caption`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from wsiprep.core.config import Settings, flag
from wsiprep.tasks.ask_config import AnsweringConfig, AssistantChoice

__all__ = [
    "EvaluateCaptionConfig",
    "EvaluateVqaConfig",
    "JudgeConfig",
    "SamplesConfig",
    "TextReportConfig",
]


class SamplesConfig(Settings):
    """Which samples."""

    panel: ClassVar[str] = "Samples"

    data: Path
    """Manifest (JSONL) of samples with questions and answers, or with captions."""
    stores: Path
    """Folder of the slides' stores."""
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


class TextReportConfig(Settings):
    """What is reported, and where it goes."""

    panel: ClassVar[str] = "Report"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for the report and every answer; made when absent."""
    blind: bool = True
    """Ask the model without the slides too, and report that beside; takes twice the time."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the bootstrap intervals."""
    resamples: int = Field(default=1000, ge=100, le=1_000_000)
    """Bootstrap resamples of patients."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the report as JSON on stdout."""

    @field_validator("output", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if value == "":  # an unset variable of a script would mean the current folder
            raise ValueError("the folder has no name")
        return value


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
