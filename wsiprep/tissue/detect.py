"""From an open slide to its tissue mask: the door of the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from wsiprep.core.config import Settings, digest
from wsiprep.core.contracts import BatchSegmenter, Segmenter, Slide
from wsiprep.core.errors import ConfigError, PluginUnavailableError, SlideError, WsiprepError
from wsiprep.core.report import white_note
from wsiprep.core.types import OnBadTile, Segmentation, SlideInfo, TissueMask
from wsiprep.tissue.clean import clean_tissue, smooth_outline
from wsiprep.tissue.config import SEEN, TissueConfig
from wsiprep.tissue.given import (
    GEOJSON_SUFFIXES,
    OUTLINES_FORMAT,
    given_digest,
    given_tissue,
)
from wsiprep.tissue.sections import find_sections
from wsiprep.tissue.segmenters import registry as segmenters

__all__ = [
    "FORMAT",
    "FoundTissue",
    "Seen",
    "Shown",
    "check_segmenter",
    "detect_tissue",
    "see",
    "segmenters",
    "show",
    "slides_at_once",
    "tissue_key",
]

FORMAT = 2
"""Raised whenever cleaning or reading masks gives another answer for the same settings."""


class FoundTissue(NamedTuple):
    """Tissue of a slide, and the picture on which it was found.

    Attributes:
        mask: The tissue; `mask.empty` is a result.
        thumbnail: uint8 (h, w, 3) RGB of the whole slide; has the shape of the mask unless the
            user gave a mask image.
    """

    mask: TissueMask
    thumbnail: NDArray[np.uint8]


class Shown(NamedTuple):
    """A slide as a segmenter is shown it.

    Attributes:
        info: The slide.
        thumbnail: uint8 (h, w, 3) RGB of the whole of it.
        bad: A sentence for each part that could not be decoded and is white.
    """

    info: SlideInfo
    thumbnail: NDArray[np.uint8]
    bad: frozenset[str] = frozenset()


class Seen(NamedTuple):
    """What a segmenter saw on a slide, before it is cleaned up; masks of the thumbnail's shape."""

    shown: Shown
    masks: Segmentation


def show(slide: Slide, cfg: TissueConfig, on_bad_tile: OnBadTile = "fail") -> Shown:
    """Read the thumbnail on which tissue is found.

    Raises:
        SlideReadError: it cannot be read; with `mask`, nothing of it but white.
    """
    bad: set[str] | None = set() if on_bad_tile == "mask" else None
    return Shown(slide.info, slide.thumbnail(cfg.tissue_mpp, bad), frozenset(bad or ()))


def slides_at_once(cfg: TissueConfig) -> int:
    """How many slides the segmenter is best shown at once; 1 where it takes one alone.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError, WeightsError: as `detect_tissue`.
    """
    if cfg.mask is not None:
        return 1
    segmenter = _segmenter(cfg)
    return segmenter.batch if isinstance(segmenter, BatchSegmenter) else 1


def see(shown: Sequence[Shown], cfg: TissueConfig) -> list[Seen]:
    """Show thumbnails to the segmenter, together where it takes several.

    Args:
        shown: Slides, as `show` gives them for these settings.
        cfg: Settings of the stage, without a mask of the user.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError: as `detect_tissue`.
    """
    segmenter = _segmenter(cfg)
    if isinstance(segmenter, BatchSegmenter) and len(shown) > 1:
        found = segmenter.segment_many(
            [one.thumbnail for one in shown], [_mpp(one)[2] for one in shown]
        )
    else:
        found = [_alone(segmenter, one) for one in shown]
    for one, masks in zip(shown, found, strict=True):
        h, w = one.thumbnail.shape[:2]
        _check(masks, (h, w), cfg.segmenter)
    return [Seen(one, masks) for one, masks in zip(shown, found, strict=True)]


def detect_tissue(
    slide: Slide,
    cfg: TissueConfig,
    seen: Seen | None = None,
    on_bad_tile: OnBadTile = "fail",
) -> FoundTissue:
    """Find the tissue of a slide, or take what the user gave.

    Args:
        slide: An open slide.
        cfg: Settings of the stage.
        seen: What `see` gave of this slide with these settings; None to look now.
        on_bad_tile: Where a part of the thumbnail cannot be decoded: raise, or take it for white
            and say so in the notes of the mask.

    Raises:
        UnknownPluginError: no such segmenter.
        PluginUnavailableError: the segmenter's library is missing, or it breaks its contract.
        ConfigError: a segmenter option is unknown or wrong.
        TissueInputError: the user's mask or GeoJSON cannot be used.
        SlideReadError: the thumbnail cannot be read; with `mask`, nothing of it but white.
    """
    info = slide.info
    if cfg.mask is not None:
        given = given_tissue(cfg.mask, info, cfg.tissue_mpp, cfg.section_gap)
        shown = show(slide, cfg, on_bad_tile)
        notes = (*given.notes, *white_note(shown.bad, "thumbnail"))
        return FoundTissue(replace(given, notes=notes, bad_tiles=len(shown.bad)), shown.thumbnail)
    shown, found = seen or see([show(slide, cfg, on_bad_tile)], cfg)[0]
    h, w = shown.thumbnail.shape[:2]
    mpp_x, mpp_y, mpp = _mpp(shown)
    beside = {name: _mask_of(found, name) for name in SEEN}
    excluded = np.zeros((h, w), np.bool_)
    for name in cfg.exclude:
        excluded |= beside[name]
    tissue = clean_tissue(
        smooth_outline(found.tissue, (mpp_x, mpp_y), cfg.smooth),
        (mpp_x, mpp_y),
        min_area_mm2=cfg.min_tissue_area,
        holes=cfg.holes,
        min_hole_mm2=cfg.min_hole_area,
        exclude=excluded,
    )
    sections = find_sections(
        tissue, (mpp_x, mpp_y), gap_um=cfg.section_gap, bridge=found.tissue & excluded
    )
    notes = (*found.notes, *white_note(shown.bad, "thumbnail"))
    if not tissue.any() and found.tissue.any():
        notes = (*notes, f"no piece of tissue reaches --min-tissue-area {cfg.min_tissue_area:g}.")
    mask = TissueMask(
        mask=tissue,
        mpp=mpp,
        size0=info.size0,
        method=cfg.segmenter,
        notes=notes,
        section=sections,
        bad_tiles=len(shown.bad),
        **beside,
    )
    return FoundTissue(mask, shown.thumbnail)


def tissue_key(info: SlideInfo, cfg: TissueConfig, *, masked: bool = False) -> str:
    """sha256 (hex) of all that decides the mask of a slide.

    A mask given by the user enters by its content, options of the segmenter as they are
    understood (a default that is spelled out changes nothing), and the segmenter by its version.

    Args:
        info: The slide.
        cfg: Settings of the stage.
        masked: Whether parts of the thumbnail could not be decoded and are white. Without such
            parts a mask is the same whatever `on_bad_tile`.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError, TissueInputError: as
            `detect_tissue`.
    """
    settings = cfg.canonical()
    # Spelled out by the values that it stands for, and by what the segmenter understands.
    del settings["preset"], settings["segmenter_option"]
    segmenter: dict[str, Any] | None = None
    if cfg.mask is not None:
        # A given mask is taken as it is: only the grid of a GeoJSON and the sections, where it
        # does not say them, depend on a setting.
        settings = {
            "mask": given_digest(cfg.mask, info.id),
            "suffix": cfg.mask.suffix.lower(),
            "tissue_mpp": cfg.tissue_mpp,
            "section_gap": cfg.section_gap,
        }
        if cfg.mask.suffix.lower() in GEOJSON_SUFFIXES:
            settings["outlines"] = OUTLINES_FORMAT
    else:
        module = segmenters.load(cfg.segmenter)
        segmenter = {
            "version": _part(module, "VERSION", cfg),
            "options": _options(module, cfg).canonical(),
        }
    return digest(
        {
            "format": FORMAT,
            "slide": info.fingerprint,
            "slide_mpp": info.mpp,
            "settings": settings,
            "segmenter": segmenter,
            **({"on_bad_tile": "mask"} if masked else {}),
        }
    )


def check_segmenter(cfg: TissueConfig) -> None:
    """Refuse a segmenter that is not there, or options that it does not have.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError: as `detect_tissue`.
    """
    _options(segmenters.load(cfg.segmenter), cfg)


def _segmenter(cfg: TissueConfig) -> Segmenter:
    module = segmenters.load(cfg.segmenter)
    made: Segmenter = _part(module, "create", cfg)(_options(module, cfg))
    return made


def _alone(segmenter: Segmenter, shown: Shown) -> Segmentation:
    try:
        return segmenter.segment(shown.thumbnail, _mpp(shown)[2])
    except WsiprepError as err:
        # A segmenter does not know which slide it looks at.
        if isinstance(err, SlideError) and err.slide is None:
            err.slide, err.stage = shown.info.id, err.stage or "tissue"
        raise


def _mpp(shown: Shown) -> tuple[float, float, float]:
    """µm/px of a thumbnail: along x, along y, and their geometric mean."""
    info, (h, w) = shown.info, shown.thumbnail.shape[:2]
    x, y = info.mpp * info.size0.width / w, info.mpp * info.size0.height / h
    return x, y, float(np.sqrt(x * y))


def _options(module: Any, cfg: TissueConfig) -> Settings:
    """The segmenter's own settings from `--segmenter-option KEY=VALUE`."""
    kind: type[Settings] = _part(module, "Config", cfg)
    known = ", ".join(sorted(kind.model_fields)) or "none"
    values: dict[str, str] = {}
    for text in cfg.segmenter_option:
        raw, equals, value = text.partition("=")
        name = raw.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(
                f"--segmenter-option '{text}' is not of the form KEY=VALUE.",
                hint=f"Options of '{cfg.segmenter}': {known}.",
            )
        if name not in kind.model_fields:
            raise ConfigError(
                f"--segmenter-option {name}: segmenter '{cfg.segmenter}' has no such option.",
                hint=f"Options of '{cfg.segmenter}': {known}.",
            )
        if name in values:
            raise ConfigError(f"--segmenter-option {name} is given twice.")
        values[name] = value.strip()
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in item['loc']) or 'options'}:"
            f" {item['msg'].removeprefix('Value error, ')} (given: {item['input']!r})"
            for item in err.errors()
        )
        raise ConfigError(
            f"--segmenter-option {problems}.", hint=f"Options of '{cfg.segmenter}': {known}."
        ) from err


def _part(module: Any, name: str, cfg: TissueConfig) -> Any:
    """What every segmenter plug-in must define."""
    if not hasattr(module, name):
        raise PluginUnavailableError(
            f"segmenter '{cfg.segmenter}' defines no '{name}'.",
            stage="tissue",
            hint="A segmenter is a module with Config, create(cfg) and VERSION.",
        )
    return getattr(module, name)


def _mask_of(found: Segmentation, name: str) -> NDArray[np.bool_]:
    """What was seen of `pen`, `edge` or `fold`; nothing where the segmenter does not look."""
    mask: NDArray[np.bool_] | None = getattr(found, name)
    return np.zeros(found.tissue.shape, np.bool_) if mask is None else mask


def _check(found: Segmentation, shape: tuple[int, int], name: str) -> None:
    """Refuse masks that are not of the thumbnail's shape."""
    for what in ("tissue", "pen", "edge", "fold"):
        mask = getattr(found, what)
        if mask is not None and (mask.shape != shape or mask.dtype != np.bool_):
            raise PluginUnavailableError(
                f"segmenter '{name}' returned {what} as {mask.dtype} {mask.shape} where bool"
                f" {shape} is due.",
                stage="tissue",
            )
