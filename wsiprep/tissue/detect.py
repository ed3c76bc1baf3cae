"""From an open slide to its tissue mask: the door of the stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from wsiprep.core.config import Settings, digest
from wsiprep.core.contracts import BatchSegmenter, Segmenter, Slide
from wsiprep.core.errors import ConfigError, PluginUnavailableError, SlideError, WsiprepError
from wsiprep.core.types import Segmentation, SlideInfo, TissueMask
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
    "check_segmenter",
    "detect_tissue",
    "see",
    "segmenters",
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


class Seen(NamedTuple):
    """What a segmenter saw on the thumbnail of a slide, before it is cleaned up.

    Attributes:
        thumbnail: uint8 (h, w, 3) RGB of the whole slide.
        masks: Of the thumbnail's shape.
    """

    thumbnail: NDArray[np.uint8]
    masks: Segmentation


def slides_at_once(cfg: TissueConfig) -> int:
    """How many slides the segmenter is best shown at once; 1 where it takes one alone.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError, WeightsError: as `detect_tissue`.
    """
    if cfg.mask is not None:
        return 1
    segmenter = _segmenter(cfg)
    return segmenter.batch if isinstance(segmenter, BatchSegmenter) else 1


def see(shown: Sequence[tuple[SlideInfo, NDArray[np.uint8]]], cfg: TissueConfig) -> list[Seen]:
    """Show thumbnails to the segmenter, together where it takes several.

    Args:
        shown: Slides, each with its thumbnail at `cfg.tissue_mpp`.
        cfg: Settings of the stage, without a mask of the user.

    Raises:
        UnknownPluginError, PluginUnavailableError, ConfigError: as `detect_tissue`.
    """
    segmenter = _segmenter(cfg)
    if isinstance(segmenter, BatchSegmenter) and len(shown) > 1:
        found = segmenter.segment_many(
            [thumbnail for _, thumbnail in shown], [_mpp(*one)[2] for one in shown]
        )
    else:
        found = [_alone(segmenter, *one) for one in shown]
    for (_, thumbnail), masks in zip(shown, found, strict=True):
        h, w = thumbnail.shape[:2]
        _check(masks, (h, w), cfg.segmenter)
    return [Seen(thumbnail, masks) for (_, thumbnail), masks in zip(shown, found, strict=True)]


def detect_tissue(slide: Slide, cfg: TissueConfig, seen: Seen | None = None) -> FoundTissue:
    """Find the tissue of a slide, or take what the user gave.

    Args:
        slide: An open slide.
        cfg: Settings of the stage.
        seen: What `see` gave of this slide with these settings; None to look now.

    Raises:
        UnknownPluginError: no such segmenter.
        PluginUnavailableError: the segmenter's library is missing, or it breaks its contract.
        ConfigError: a segmenter option is unknown or wrong.
        TissueInputError: the user's mask or GeoJSON cannot be used.
        SlideReadError: the thumbnail cannot be read.
    """
    info = slide.info
    if cfg.mask is not None:
        given = given_tissue(cfg.mask, info, cfg.tissue_mpp, cfg.section_gap)
        return FoundTissue(given, slide.thumbnail(cfg.tissue_mpp))
    thumbnail, found = seen or see([(info, slide.thumbnail(cfg.tissue_mpp))], cfg)[0]
    h, w = thumbnail.shape[:2]
    mpp_x, mpp_y, mpp = _mpp(info, thumbnail)
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
    notes = found.notes
    if not tissue.any() and found.tissue.any():
        notes = (*notes, f"no piece of tissue reaches --min-tissue-area {cfg.min_tissue_area:g}.")
    mask = TissueMask(
        mask=tissue,
        mpp=mpp,
        size0=info.size0,
        method=cfg.segmenter,
        notes=notes,
        section=sections,
        **beside,
    )
    return FoundTissue(mask, thumbnail)


def tissue_key(info: SlideInfo, cfg: TissueConfig) -> str:
    """sha256 (hex) of all that decides the mask of a slide.

    A mask given by the user enters by its content, options of the segmenter as they are
    understood (a default that is spelled out changes nothing), and the segmenter by its version.

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


def _alone(segmenter: Segmenter, info: SlideInfo, thumbnail: NDArray[np.uint8]) -> Segmentation:
    try:
        return segmenter.segment(thumbnail, _mpp(info, thumbnail)[2])
    except WsiprepError as err:
        # A segmenter does not know which slide it looks at.
        if isinstance(err, SlideError) and err.slide is None:
            err.slide, err.stage = info.id, err.stage or "tissue"
        raise


def _mpp(info: SlideInfo, thumbnail: NDArray[np.uint8]) -> tuple[float, float, float]:
    """µm/px of a thumbnail: along x, along y, and their geometric mean."""
    h, w = thumbnail.shape[:2]
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
