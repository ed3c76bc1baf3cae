"""Settings that every `wsiprep evaluate` has: where the report goes, and its intervals."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from wsiprep.core.config import flag
from wsiprep.tasks.output_config import OutputSettings

__all__ = ["ReportSettings"]


class ReportSettings(OutputSettings):
    """What is reported, and where it goes."""

    panel: ClassVar[str] = "Report"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for the report (JSON), a table of all items (CSV) and pictures; made when absent."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the bootstrap intervals."""
    resamples: int = Field(default=1000, ge=100, le=1_000_000)
    """Bootstrap resamples of patients, or of slides where no patient is named."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the report as JSON on stdout."""
