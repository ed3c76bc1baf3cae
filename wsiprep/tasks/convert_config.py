"""Settings of `wsiprep convert`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.core.errors import ConfigError

__all__ = ["ConvertConfig", "ConvertedConfig", "SplitConfig"]


class ConvertedConfig(Settings):
    """What is converted, and where it goes."""

    panel: ClassVar[str] = "Files"

    files: tuple[Path, ...] = Field(
        min_length=1, json_schema_extra=flag(argument=True, metavar="FILES...")
    )
    """Files of the set, plain or gzip; give training and test files together, so that patients
    of one are kept out of the other."""
    out: Path = Field(json_schema_extra=flag("-o"))
    """The manifest to be written, e.g. train.jsonl; gzip where it ends in .gz."""
    stores: Path | None = None
    """Folder of stores: samples of slides that are not there, or have no features yet, are left out
    and counted, and slides named without the end of their file name get it."""
    skip_bad: bool = False
    """Leave out records that cannot be used, and count them; without it the first is an error."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the report as JSON on stdout."""


class SplitConfig(Settings):
    """Training, validation and test."""

    panel: ClassVar[str] = "Splits"

    split: Literal["auto", "given", "patient"] = "auto"
    """given: as the set has them. patient: no patient in two splits; held-out samples stay, their
    patients' other samples are left out and counted, and a held-out split that the set lacks is
    drawn. auto: patient for wsi-bench and patchgastric, and for csv where no column says it;
    given for the others."""
    val_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of patients for validation, where patients are drawn."""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of patients for test, where patients are drawn."""
    seed: int = Field(default=0, ge=0)
    """Of the draw. A patient's split depends on its name and this alone, not on other patients."""

    @model_validator(mode="after")
    def _some_train(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ConfigError("--val-share and --test-share leave no patient to train on.")
        return self


class ConvertConfig(Settings):
    """Settings of `wsiprep convert <format>`."""

    converted: ConvertedConfig
    splits: SplitConfig
