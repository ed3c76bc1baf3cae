"""Settings of tissue detection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.tissue.presets import PRESETS, Preset

__all__ = ["TissueConfig", "as_flags"]

SEEN = ("pen", "edge", "fold")
"""What a segmenter may see beside tissue, in the order in which it is stored and shown."""

NEXT_OPTION = re.compile(r"\s*[;,][;,\s]*(?=[\w:.-]+\s*=)")
"""Between two options: a separator that KEY= comes after, so that paths may hold one."""

WITH_MASK = frozenset({"mask", "preset", "tissue_mpp", "section_gap"})
"""Settings that say something where the tissue is given."""


class TissueConfig(Settings):
    """What counts as tissue. Each may be a manifest column, for one slide alone."""

    panel: ClassVar[str] = "Tissue"

    preset: Preset | None = None
    """Settings for a kind of slide, where you give none yourself: see docs/tissue.md. What is
    taken from it is printed."""
    segmenter: str = "net"
    """Tissue segmenter; `wsiprep models` lists them."""
    segmenter_option: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(metavar="KEY=VALUE")
    )
    """Option of the segmenter, as KEY=VALUE; may be repeated, or several separated by ; or ,."""
    tissue_mpp: float = Field(default=8.0, ge=0.5, le=64)
    """µm per pixel of the thumbnail on which tissue is found."""
    min_tissue_area: float = Field(default=0.05, ge=0)
    """Smallest piece of tissue kept, in mm²."""
    holes: Literal["keep", "remove"] = "keep"
    """keep leaves holes in tissue as background; remove fills them up as tissue."""
    min_hole_area: float = Field(default=0.01, ge=0)
    """Holes smaller than this, in mm², are always filled."""
    smooth: float = Field(default=0.0, ge=0, le=1000)
    """Smooth outlines of tissue: sigma in µm of a Gaussian; what is thinner goes. 0 leaves them."""
    exclude: tuple[Literal["pen", "edge", "fold"], ...] = Field(
        default=("pen", "edge"), json_schema_extra=flag(metavar="pen,edge,fold|none")
    )
    """Take out of the tissue: ink (pen), coverslip edges, bubbles and dust (edge), folded tissue
    (fold), as far as the segmenter sees them; separated by commas, or repeated; none for nothing.
    All that was seen is stored either way."""
    section_gap: float = Field(default=300.0, ge=0, le=10_000)
    """Gap in µm across which fragments that face each other are of one tissue section."""
    mask: Path | None = None
    """Your own tissue for a single slide: a mask image (PNG, TIFF; non-zero is tissue) that
    spans the slide, or a GeoJSON of level-0 polygons. Taken exactly as it is; no segmenter runs.
    The manifest column is `mask` (one path a slide)."""

    @field_validator("exclude", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Take `pen,fold`, several of them, and `none`; in one order and each once."""
        if not isinstance(value, (str, list, tuple)):
            return value
        texts = (value,) if isinstance(value, str) else tuple(map(str, value))
        names = [name for text in texts for name in re.split(r"[\s,;]+", text.strip()) if name]
        if texts and not names:  # as an unset variable of a shell gives it
            raise ValueError("give some of pen, edge, fold, or none to take out nothing")
        if "none" in names:
            if set(names) != {"none"}:
                raise ValueError("'none' stands alone")
            return ()
        # Unknown names stay, for the error that lists the known ones.
        return tuple(sorted(set(names), key=lambda n: SEEN.index(n) if n in SEEN else len(SEEN)))

    @field_validator("segmenter_option", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Take `threshold=0.3;points=2`, as a manifest cell has it."""
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(o for text in value for o in NEXT_OPTION.split(str(text).strip(" ;,")))

    @model_validator(mode="wrap")
    @classmethod
    def _take_preset(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill in what a preset gives. It does not count as set, so that others may win over it."""
        preset = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(preset, str) or preset not in PRESETS:
            return make(values)
        made = make({**cls._of_preset(preset, values.get("segmenter")), **values})
        made.model_fields_set.intersection_update(values)
        return made

    @classmethod
    def _of_preset(cls, preset: str, segmenter: Any) -> Mapping[str, Any]:
        """What a preset gives; options of its segmenter only where no other one is chosen."""
        given = PRESETS[preset]
        if segmenter in (None, given.get("segmenter")):
            return given
        return {k: v for k, v in given.items() if k != "segmenter_option"}

    def not_with_mask(self) -> dict[str, Any]:
        """What was set, by you and not by a preset, though it says nothing of a given mask."""
        names = [] if self.mask is None else sorted(self.model_fields_set - WITH_MASK)
        return {name: getattr(self, name) for name in names}

    def preset_note(self) -> str | None:
        """What the preset gave, and what was set by the user instead; None without preset."""
        if self.preset is None:
            return None
        given = self._of_preset(self.preset, self.segmenter)
        if self.mask is not None:
            given = {k: v for k, v in given.items() if k in WITH_MASK}
        taken = {k: v for k, v in given.items() if k not in self.model_fields_set}
        kept = {k: getattr(self, k) for k in given if k in self.model_fields_set}
        own = f" Set by you: {as_flags(kept)}." if kept else ""
        return f"preset {self.preset}: {as_flags(taken) or 'nothing'}.{own}"


def as_flags(values: Mapping[str, Any]) -> str:
    """Settings as they are given on a command line."""
    each = [
        (k, v) for k, some in values.items() for v in (some if isinstance(some, tuple) else (some,))
    ]
    return ", ".join(
        f"--{k.replace('_', '-')} {v:g}" if isinstance(v, float) else f"--{k.replace('_', '-')} {v}"
        for k, v in each
    )
