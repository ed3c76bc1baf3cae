"""Settings of the lattice."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.core.units import MPP_AT_1X

__all__ = ["GridConfig"]


class GridConfig(Settings):
    """At which resolution patches are cut, and which are kept."""

    panel: ClassVar[str] = "Patches"
    alternatives: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"mpp", "mag"}),
        frozenset({"stride", "overlap"}),
    )

    mpp: float = Field(default=0.5, gt=0)
    """Resolution of the patches, µm/px."""
    mag: float | None = Field(default=None, gt=0)
    """The same as a magnification: 10 / mag µm/px (20x = 0.5). Not together with --mpp."""
    mpp_tolerance: float = Field(default=0.05, ge=0, le=0.5)
    """Share by which the achieved mpp may miss the one asked, if that avoids fractional
    resampling."""
    patch_size: int = Field(default=256, ge=8, le=4096, json_schema_extra=flag("--tile-px"))
    """Side of a patch in pixels at that resolution."""
    stride: int | None = Field(default=None, ge=1)
    """Distance of neighbouring patches in patch pixels; by default the patch size."""
    overlap: int | None = Field(default=None, ge=0)
    """The same as an overlap in patch pixels: stride = patch size - overlap."""
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of tissue in a patch that is kept; 0 keeps every patch."""
    focus: bool = False
    """Measure the sharpness of every patch, on the slide at 2 µm/px, and store it; not on slides
    coarser than 1.1 µm/px."""
    min_focus: float = Field(default=0.0, ge=0, le=10)
    """Least sharpness of a patch that is kept: 0.35 drops what is clearly out of focus; 0 keeps
    all. Above 0 it is measured as with --focus. Patches that cannot be judged are kept, and so are
    all of a slide coarser than 1.1 µm/px."""
    allow_upsampling: bool = False
    """Magnify slides that are coarser than the resolution asked for."""
    export_coords: tuple[Literal["csv", "h5"], ...] = ()
    """Also write coordinates as csv or h5; may be repeated."""

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, values: Any) -> Any:
        """Turn `mag` into `mpp`, and `overlap` into `stride`, so that one form is hashed."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        mag, overlap = values.pop("mag", None), values.pop("overlap", None)
        if mag is not None:
            if values.get("mpp") is not None:
                raise ValueError("give --mpp or --mag, not both")
            if float(mag) <= 0:
                raise ValueError("--mag must be positive")
            values["mpp"] = MPP_AT_1X / float(mag)
        if overlap is not None:
            if values.get("stride") is not None:
                raise ValueError("give --stride or --overlap, not both")
            if float(overlap) != int(overlap):
                raise ValueError("--overlap is in patch pixels, a whole number")
            size = int(values.get("patch_size", cls.model_fields["patch_size"].default))
            if not 0 <= int(overlap) < size:
                raise ValueError(
                    f"--overlap must be from 0 to below the patch size, {size} (given: {overlap})"
                )
            values["stride"] = size - int(overlap)
        return values

    @property
    def stride_px(self) -> int:
        """Stride in patch pixels."""
        return self.patch_size if self.stride is None else self.stride

    @property
    def measures_focus(self) -> bool:
        """Whether the sharpness of patches is measured."""
        return self.focus or self.min_focus > 0

    def canonical(self) -> dict[str, Any]:
        """What decides the grid: one form of each choice, without what is only exported."""
        # Named only where it is measured: grids without it are those of before it existed.
        sharp = {"focus": True, "min_focus": self.min_focus} if self.measures_focus else {}
        return {
            "mpp": self.mpp,
            "mpp_tolerance": self.mpp_tolerance,
            "patch_size": self.patch_size,
            "stride": self.stride_px,
            "min_tissue": self.min_tissue,
            "allow_upsampling": self.allow_upsampling,
            **sharp,
        }
