"""Samples of a manifest whose slides a model is shown, to be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiprep.core.errors import ManifestError, StoreError
from wsiprep.models.bags import Bag
from wsiprep.tasks.embedded import EmbeddedSlide, matching_features
from wsiprep.tasks.evaluate_language_config import EvaluatedSamples
from wsiprep.train.language.bags import join_bags
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.left_out import LeftOut, check_left_out, place
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.stores import StoreFolder

__all__ = ["Case", "CaseFeatures", "cases_of", "read_features", "samples_of"]


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


def samples_of(cfg: EvaluatedSamples) -> list[Sample]:
    """Samples of the split.

    Raises:
        ManifestError: the manifest cannot be read, or has no sample of the split.
    """
    samples: Sequence[Sample] = read_manifest(cfg.data)
    chosen = [s for s in samples if cfg.split == "all" or s.split in ("", cfg.split)]
    if not chosen:
        there = ", ".join(sorted({s.split for s in samples}))
        raise ManifestError(
            f"{cfg.data} has no sample of split '{cfg.split}'.", hint=f"It has {there}: --split."
        )
    return chosen


def cases_of(
    samples: Sequence[Sample], cfg: EvaluatedSamples, expect: Fingerprint
) -> tuple[list[Case], LeftOut]:
    """Samples with their stores, and those left out.

    Args:
        samples: Which.
        cfg: Says where stores are, and whether samples may be missing.
        expect: What the model's features were made with.

    Raises:
        MissingStageError: slides have no store or no features, and may not be missing.
        SlideError: no slide has a patch with features.
    """

    def patches(path: Path) -> int:
        try:
            return len(matching_features(path, expect)[0])
        except StoreError:
            return 1  # it fails when it is to be shown, and is told by its name

    placed, left = place(samples, StoreFolder(cfg.stores), patches)
    check_left_out(left, stores=cfg.stores, skip_missing=cfg.skip_missing)
    return [Case(sample, stores) for sample, stores in placed], left


def read_features(case: Case, expect: Fingerprint) -> CaseFeatures:
    """All patches of a case, of the features that were made as expected.

    Raises:
        StoreMismatchError: a slide has none.
        StoreCorruptError: they are damaged.
    """
    slides = [matching_features(path, expect)[0] for path in case.stores]
    bag = join_bags([slide.bag(number) for number, slide in enumerate(slides)])
    return CaseFeatures(bag, tuple(str(s.features.attributes["key"]) for s in slides))
