"""Settings of opening a slide."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from wsiprep.core.config import Settings

__all__ = ["SlideConfig"]


class SlideConfig(Settings):
    """How a slide is opened, how its resolution is known, and what to do where it is damaged."""

    panel: ClassVar[str] = "Slide"

    reader: str = "auto"
    """Reader: tiff, ndpi, dicom, openslide, tiffslide or image; auto tries them in that order and
    says why."""
    slide_mpp: float | None = Field(default=None, gt=0)
    """µm per level-0 pixel of the slides, where the files do not say or are wrong.
    The manifest column is `mpp` (one value a slide)."""
    mpp_from_objective: bool = False
    """Where a slide gives an objective power but no mpp, take 10 / power."""
    on_bad_tile: Literal["fail", "mask"] = "fail"
    """A stored tile that cannot be decoded: fail the slide, or mask what lies on it, as white in
    thumbnails and as invalid patches, and count it. Patches on none but tiles that the file leaves
    out are treated alike; of others, what it leaves out is white."""
