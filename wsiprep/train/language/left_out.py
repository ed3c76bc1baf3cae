"""Samples of which a model cannot be shown anything: which, why, and whether to go on without them.

A sample is missing where one of its slides has no store, or a store without the features asked for:
something was forgotten, so that is an error unless the user says otherwise. It is empty where no
slide of it has a patch with features, as slides without tissue have none: nothing was forgotten,
there is only nothing to be seen. What is left out is counted and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wsiprep.core.errors import AmbiguousStageError, MissingStageError, SlideError
from wsiprep.core.report import NO_TISSUE_REMEDY
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.stores import StoreFolder

__all__ = ["LeftOut", "check_left_out", "few", "left_out_lines", "place"]

SHOWN: Final = 5
"""Names that a message lists; reports list all."""

_WORDS: Final = {
    "missing": "of slides without a store or without features",
    "empty": "whose slides have no patch with features",
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Samples left out of some.

    Attributes:
        of: How many samples there were.
        missing: Slides without a store or without features, by the id of the sample.
        empty: Slides of samples without any patch with features, likewise.
        reason: What is said of the first slide that is missing.
    """

    of: int = 0
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    empty: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reason: str = ""

    def __len__(self) -> int:
        return len(self.missing) + len(self.empty)

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types: for `missing` and `empty` the count `n`, and `samples` with slides."""
        parts = {"missing": self.missing, "empty": self.empty}
        return {
            name: {"n": len(part), "samples": {one: list(slides) for one, slides in part.items()}}
            for name, part in parts.items()
        }


def place(
    samples: Sequence[Sample], folder: StoreFolder, patches: Callable[[Path], int]
) -> tuple[list[tuple[Sample, tuple[Path, ...]]], LeftOut]:
    """Samples with the stores of their slides, in order and each once; and those left out.

    Args:
        samples: Which.
        folder: Where stores lie.
        patches: How many patches of a store hold a vector; raises MissingStageError where there
            are no such features.

    Raises:
        AmbiguousStageError: a store has several, of which none is named.
        StoreError: as `patches` raises it.
    """
    placed: list[tuple[Sample, tuple[Path, ...]]] = []
    left: dict[str, dict[str, tuple[str, ...]]] = {"missing": {}, "empty": {}}
    reason = ""
    # Questions are many to a slide, and each slide is looked at once.
    looked: dict[tuple[str, ...], tuple[tuple[Path, ...], str, tuple[str, ...]]] = {}
    for one in samples:
        if one.slides not in looked:
            stores: dict[Path, int] = {}
            lacking: dict[str, None] = {}
            for slide in one.slides:
                found = folder.find(slide)
                if not found:
                    lacking[slide] = None
                    reason = reason or f"{folder.folder} has no store of '{slide}'."
                for path in found:
                    try:
                        stores[path] = patches(path)
                    except AmbiguousStageError:
                        raise
                    except MissingStageError as err:
                        lacking[path.name.removesuffix(".zarr")] = None
                        reason = reason or str(err)
            kind = "missing" if lacking else "" if sum(stores.values()) else "empty"
            looked[one.slides] = (tuple(stores), kind, tuple(lacking) or one.slides)
        paths, kind, slides = looked[one.slides]
        if kind:
            left[kind][one.id] = slides
        else:
            placed.append((one, paths))
    return placed, LeftOut(len(samples), **left, reason=reason)


def check_left_out(*parts: LeftOut, stores: Path, skip_missing: bool) -> None:
    """Refuse to go on where samples are missing that may not be, or where none is left.

    Args:
        parts: What was left out of the samples; or of those to learn from, and to validate on.
        stores: Folder of the stores.
        skip_missing: Whether samples may be missing.

    Raises:
        MissingStageError: some are missing and may not be, or none is left as all are missing.
        SlideError: none is left, as there is no patch with features.
    """
    missing = [part for part in parts if part.missing]
    if missing and not skip_missing:
        count, of = sum(len(part.missing) for part in missing), sum(part.of for part in parts)
        slides = {
            slide: None for part in missing for some in part.missing.values() for slide in some
        }
        raise MissingStageError(
            f"{count:,} of {of:,} samples are {_WORDS['missing']} in {stores}: {few(slides)}. "
            f"Of the first: {missing[0].reason}",
            stage="store",
            hint="Make them by `wsiprep run`, give another folder with --stores, or leave such "
            "samples out with --skip-missing.",
        )
    roles = ("", "") if len(parts) == 1 else (" to learn from", " to validate on")
    for part, role in zip(parts, roles, strict=False):
        if part.of and len(part) == part.of:
            none = f"no sample is left of the {part.of:,}{role}: "
            none += "; ".join(_words(part.canonical()))
            if part.missing:
                raise MissingStageError(f"{none}.", stage="store", hint=part.reason)
            raise SlideError(
                f"there is no patch with features: {none}.",
                stage="grid",
                hint=NO_TISSUE_REMEDY,
            )


def few(names: Sequence[str] | Mapping[str, Any]) -> str:
    """The first of some names, and how many more there are."""
    shown = list(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def left_out_lines(left_out: Mapping[str, Any]) -> list[str]:
    """What a user is told: a line each for missing and for empty samples, if there are any.

    Args:
        left_out: As `LeftOut.canonical` gives it.
    """
    return [f"left out: {text}" for text in _words(left_out)]


def _words(left_out: Mapping[str, Any]) -> list[str]:
    found = []
    for name, words in _WORDS.items():
        samples = left_out[name]["samples"]
        if samples:
            slides = {slide: None for some in samples.values() for slide in some}
            found.append(f"{len(samples):,} samples {words}: {few(slides)}")
    return found
