"""Samples of a manifest whose slides a model is shown, to be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiprep.core.errors import ManifestError, SlideError
from wsiprep.core.report import NO_TISSUE_REMEDY
from wsiprep.models.bags import Bag
from wsiprep.tasks.embedded import EmbeddedSlide, matching_features
from wsiprep.tasks.evaluate_language_config import EvaluatedSamples
from wsiprep.train.language.bags import join_bags
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.stores import StoreFolder

__all__ = ["Case", "CaseFeatures", "cases_of", "read_features"]


@dataclass(frozen=True, slots=True)
class Case:
    """A sample, and where its slides lie.

    Attributes:
        sample: As in the manifest.
        stores: Of its slides, in order.
    """

    sample: Sample
    stores: tuple[Path, ...]

    @property
    def slide(self) -> EmbeddedSlide:
        """It as something to be visited, by the name of the sample and its first store."""
        return EmbeddedSlide(self.sample.id, self.stores[0])


@dataclass(frozen=True, slots=True, eq=False)
class CaseFeatures:
    """Patches of a case.

    Attributes:
        bag: All patches that hold a vector.
        keys: Identity of the features of each slide.
    """

    bag: Bag
    keys: tuple[str, ...]


def cases_of(cfg: EvaluatedSamples) -> list[Case]:
    """Samples of the split, with their stores.

    Raises:
        ManifestError: the manifest cannot be read, or has no sample of the split.
        MissingStageError: a slide has no store.
    """
    samples: Sequence[Sample] = read_manifest(cfg.data)
    chosen = [s for s in samples if cfg.split == "all" or s.split in ("", cfg.split)]
    if not chosen:
        there = ", ".join(sorted({s.split for s in samples}))
        raise ManifestError(
            f"{cfg.data} has no sample of split '{cfg.split}'.", hint=f"It has {there}: --split."
        )
    folder = StoreFolder(cfg.stores)
    return [Case(sample, folder.paths(sample.slides, sample.id)) for sample in chosen]


def read_features(case: Case, expect: Fingerprint) -> CaseFeatures:
    """All patches of a case, of the features that were made as expected.

    Raises:
        StoreMismatchError: a slide has none.
        SlideError: no slide has a patch.
        StoreCorruptError: they are damaged.
    """
    slides = [matching_features(path, expect)[0] for path in case.stores]
    bag = join_bags([slide.bag(number) for number, slide in enumerate(slides)])
    if not len(bag):
        raise SlideError(
            "there is no patch with features.",
            slide=case.sample.id,
            stage="grid",
            hint=NO_TISSUE_REMEDY,
        )
    return CaseFeatures(bag, tuple(str(s.features.attributes["key"]) for s in slides))
