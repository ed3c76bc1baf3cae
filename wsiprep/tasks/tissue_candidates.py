"""What is compared with the reference: segmenters, earlier runs, masks that the user brings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import override
from wsiprep.core.contracts import Slide
from wsiprep.core.errors import ConfigError, MissingStageError
from wsiprep.core.types import OnBadTile, Point, Size, SlideInfo, TissueMask
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.store.claim import find_store, store_path
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.evaluate_config import ComparedTissue, EvaluateTissueConfig
from wsiprep.tasks.reference_pairs import Pair
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.detect import check_segmenter, detect_tissue
from wsiprep.tissue.given import given_tissue

__all__ = [
    "MIXED",
    "Candidate",
    "Prediction",
    "SeenSlide",
    "as_segment",
    "candidates",
    "check_candidates",
    "names_none",
    "own_settings",
    "predict",
    "tissue_of",
]

MIXED = "segment"
"""Label of what `wsiprep segment` does, where its segmenter is not the same on all slides."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that says where tissue is.

    Attributes:
        label: Its name in tables.
        kind: `segmenter`, `run` (the stores of an output folder) or `column` (of the manifest).
        name: Name of the segmenter.
        folder: Output folder of a run.
        own: What `wsiprep segment` does with each slide: the segmenter may differ.
    """

    label: str
    kind: Literal["segmenter", "run", "column"]
    name: str = ""
    folder: Path | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a candidate says of a slide.

    Attributes:
        mask: The tissue.
        tells_pen: Whether the candidate says where ink is.
        seconds: Time it took without reading the thumbnail; None where it was there before.
    """

    mask: TissueMask
    tells_pen: bool
    seconds: float | None


class SeenSlide:
    """A slide whose thumbnail was read already, so that all segmenters get the same one.

    Args:
        slide: The open slide.
        mpp: µm per pixel of the thumbnail.
        on_bad_tile: Where a part of it cannot be decoded: raise, or take it for white.

    Attributes:
        bad: Of each part that is white so, a sentence.
        seconds: Time that the thumbnail took.
    """

    def __init__(self, slide: Slide, mpp: float, on_bad_tile: OnBadTile = "fail") -> None:
        began = time.perf_counter()
        self._slide, self._mpp = slide, mpp
        self.bad: set[str] = set()
        self._thumbnail = slide.thumbnail(mpp, self.bad if on_bad_tile == "mask" else None)
        self.seconds = time.perf_counter() - began

    @property
    def info(self) -> SlideInfo:
        """Sizes, resolution, identity."""
        return self._slide.info

    def thumbnail(self, mpp: float, bad: set[str] | None = None) -> NDArray[np.uint8]:
        """The whole slide, uint8 (h, w, 3); a copy of what was read, if of that µm/px."""
        return self._thumbnail.copy() if mpp == self._mpp else self._slide.thumbnail(mpp, bad)

    def read(self, origin0: Point, level: int, size: Size) -> NDArray[np.uint8]:
        """Read a region of the slide."""
        return self._slide.read(origin0, level, size)

    def reopen(self) -> Slide:
        """A new handle on the slide itself."""
        return self._slide.reopen()

    def close(self) -> None:
        """Leave the slide to the one who opened it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def names_none(cfg: EvaluateTissueConfig, pairs: Sequence[Pair]) -> bool:
    """Whether nothing is named to evaluate, so that it is what `wsiprep segment` does."""
    named = cfg.tissue.segmenter or cfg.report.predicted
    return not named and not any(pair.predicted for pair in pairs)


def candidates(
    cfg: EvaluateTissueConfig, pairs: Sequence[Pair], owns: Sequence[ComparedTissue] = ()
) -> list[Candidate]:
    """What is to be compared, in the order of the table.

    Args:
        cfg: Settings of the command.
        pairs: The slides.
        owns: The settings of each; those of the command if empty.

    Raises:
        ConfigError: two have the same label, or an option is for none of them.
    """
    found: list[Candidate] = []
    for text in cfg.tissue.segmenter:
        label, equals, name = text.partition("=")
        found.append(Candidate(label, "segmenter", name if equals else label))
    if any(pair.predicted for pair in pairs):
        found.append(Candidate("predicted", "column"))
    found += [Candidate(_folder_label(f), "run", folder=f) for f in cfg.report.predicted]
    labels = [candidate.label for candidate in found]
    if not found:
        labels = sorted({as_segment(own).segmenter for own in owns or (cfg.tissue,)})
        name = labels[0] if len(labels) == 1 else MIXED
        found.append(Candidate(name, "segmenter", name, own=True))
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two things to evaluate are called '{twice}'.",
            hint="Name them: --segmenter LABEL=NAME; output folders go by their last name.",
        )
    for option in cfg.tissue.segmenter_option:
        to, _ = _addressed(option)
        if to is not None and to not in labels:
            raise ConfigError(
                f"--segmenter-option '{option}' is for '{to}', which is not evaluated.",
                hint=f"Evaluated are: {', '.join(labels)}.",
            )
    return found


def check_candidates(found: Sequence[Candidate], owns: Sequence[ComparedTissue]) -> None:
    """Refuse segmenters that are not there and folders that hold nothing, before any work.

    Args:
        found: What is to be compared.
        owns: The settings of each slide.

    Raises:
        ConfigError: a folder that is none.
        UnknownPluginError, PluginUnavailableError, ConfigError: as `check_segmenter`.
    """
    for candidate in found:
        if candidate.kind == "segmenter":
            for own in {str(own): own for own in owns}.values():
                check_segmenter(tissue_of(candidate, own))
        elif candidate.folder is not None and not candidate.folder.is_dir():
            raise ConfigError(
                f"--predicted {candidate.folder} is not a folder.",
                hint="Give the output folder of `wsiprep run` or `segment`; masks of your own go "
                "into the manifest column `predicted`.",
            )


def tissue_of(candidate: Candidate, cfg: ComparedTissue) -> TissueConfig:
    """The settings of tissue detection for one of the segmenters, on a slide with `cfg`."""
    if candidate.own:
        return as_segment(cfg)
    return _told(cfg, {"segmenter": candidate.name}, candidate.label)


def as_segment(cfg: ComparedTissue) -> TissueConfig:
    """The settings with which `wsiprep segment` finds the tissue of a slide."""
    chosen = {"segmenter": cfg.segmenter[0]} if cfg.segmenter else {}
    name = TissueConfig.model_validate({"preset": cfg.preset, **chosen}).segmenter
    return _told(cfg, chosen, name)


def _told(cfg: ComparedTissue, chosen: dict[str, Any], label: str) -> TissueConfig:
    """What is set in `cfg`, with options for `label` and those for every one."""
    own: dict[str, Any] = {
        name: getattr(cfg, name)
        for name in cfg.model_fields_set & set(TissueConfig.model_fields)
        if name not in ("segmenter", "segmenter_option")
    }
    addressed = map(_addressed, cfg.segmenter_option)
    if options := tuple(text for to, text in addressed if to in (None, label)):
        own["segmenter_option"] = options
    return TissueConfig.model_validate({**chosen, **own})


def own_settings(cfg: EvaluateTissueConfig, pairs: Sequence[Pair]) -> list[EvaluateTissueConfig]:
    """The settings of each slide: those of the command, with its cells of the manifest.

    Where nothing is named to evaluate, a row may name its segmenter; one with another segmenter
    than the command has its own options, or those with its segmenter's label, as in `segment`.

    Raises:
        ConfigError: a cell is no value of its setting, or names a segmenter beside --segmenter.
    """
    own = names_none(cfg, pairs)
    refused = next((pair for pair in pairs if "segmenter" in pair.overrides), None)
    if refused is not None and cfg.tissue.segmenter:
        raise ConfigError(
            f"manifest row of '{refused.id}': 'segmenter' cannot be set for one slide here.",
            hint="Segmenters are compared on the same slides: leave out --segmenter or the column.",
        )
    return [_own(cfg, pair, own) if pair.overrides else cfg for pair in pairs]


def _own(cfg: EvaluateTissueConfig, pair: Pair, as_segmented: bool) -> EvaluateTissueConfig:
    origin = f"manifest row of '{pair.id}'"
    own = override(cfg, pair.overrides, origin)
    before, after = as_segment(cfg.tissue).segmenter, as_segment(own.tissue).segmenter
    if not as_segmented or "segmenter_option" in pair.overrides or before == after:
        return own
    # Those that name a label stay; they say themselves whom they are for.
    options = tuple(o for o in cfg.tissue.segmenter_option if _addressed(o)[0] is not None)
    kept = {"segmenter_option": options} if options else {}
    dropped = frozenset({"segmenter_option"})
    return override(cfg, {**pair.overrides, **kept}, origin, without=dropped)


def predict(
    candidate: Candidate, slide: SeenSlide, pair: Pair, cfg: ComparedTissue
) -> Prediction | None:
    """What a candidate says of a slide; None where the column `predicted` is empty.

    Raises:
        SlideError, StoreError: the candidate fails on this slide.
    """
    if candidate.kind == "segmenter":
        own = tissue_of(candidate, cfg)
        began = time.perf_counter()
        found = detect_tissue(slide, own)
        return Prediction(found.mask, True, time.perf_counter() - began)
    if candidate.folder is not None:
        return Prediction(_stored(candidate.folder, pair), True, None)
    if pair.predicted is None:
        return None
    mask = given_tissue(pair.predicted, slide.info, cfg.tissue_mpp)
    return Prediction(mask, bool(mask.pen.any()), None)


def _stored(folder: Path, pair: Pair) -> TissueMask:
    stored = find_store(folder, pair.id, fingerprint(pair.path))
    if stored is None:
        raise MissingStageError(
            f"{folder} holds no store of this slide.",
            slide=pair.id,
            stage="store",
            hint=f"Run `wsiprep segment {pair.path} -o {folder}`.",
        )
    return FeatureStore(store_path(folder, stored.slide.id)).tissue()


def _addressed(option: str) -> tuple[str | None, str]:
    """(label, KEY=VALUE) of `LABEL:KEY=VALUE`; the label is None where there is none."""
    key, equals, value = option.partition("=")
    label, colon, name = key.rpartition(":")
    return (label, f"{name}{equals}{value}") if colon else (None, option)


def _folder_label(folder: Path) -> str:
    return folder.resolve().name or str(folder)
