"""Settings of tissue detection."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings, flag

__all__ = ["TissueConfig"]


class TissueConfig(Settings):
    """What counts as tissue. Each may be a manifest column, for one slide alone."""

    panel: ClassVar[str] = "Tissue"

    segmenter: str = "otsu"
    """Tissue segmenter; `wsiprep models` lists them."""
    segmenter_option: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(metavar="KEY=VALUE")
    )
    """Option of the segmenter, as KEY=VALUE; may be repeated."""
    tissue_mpp: float = Field(default=8.0, ge=0.5, le=64)
    """µm per pixel of the thumbnail on which tissue is found."""
    min_tissue_area: float = Field(default=0.05, ge=0)
    """Smallest piece of tissue kept, in mm²."""
    holes: Literal["keep", "remove"] = "keep"
    """keep leaves holes in tissue as background; remove fills them up as tissue."""
    min_hole_area: float = Field(default=0.01, ge=0)
    """Holes smaller than this, in mm², are always filled."""
    mask: Path | None = None
    """Your own tissue for a single slide: a mask image (PNG, TIFF; non-zero is tissue) that
    spans the slide, or a GeoJSON of level-0 polygons. Taken exactly as it is; no segmenter runs.
    The manifest column is `mask` (one path a slide)."""
