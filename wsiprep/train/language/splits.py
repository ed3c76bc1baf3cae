"""Training, validation and test by patient.

Samples belong together when they share a patient, a case or a slide, directly or through others;
what belongs together is in one split. Where a patient falls is decided by a hash of its name and
the seed alone: files converted one by one, or with more rows next year, put it where it was. The
price is that the shares are met on average, not exactly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Final

from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample, Split

__all__ = [
    "Division",
    "Overlap",
    "check_apart",
    "divide",
    "overlap",
    "patients_of",
    "slide_name",
    "tcga_patient",
]

_HELD_OUT: Final[tuple[Split, ...]] = ("val", "test")
"""A patient with samples of both is of the last."""
_BARCODE: Final = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Za-z0-9])", re.I)


@dataclass(frozen=True, slots=True)
class Division:
    """Samples with their splits.

    Attributes:
        samples: In the order given, each with a split.
        left_out: Samples of a patient who is held out by other samples.
    """

    samples: tuple[Sample, ...]
    left_out: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two sets share.

    Attributes:
        slides: Slides of the first.
        shared_slides: Those that the second has as well.
        patients: Patients of the first.
        shared_patients: Those that the second has as well.
    """

    slides: int
    shared_slides: int
    patients: int
    shared_patients: int

    def canonical(self) -> dict[str, int]:
        """Plain JSON types."""
        return asdict(self)


def slide_name(slide: str) -> str:
    """What a slide is called, whether named by its id or by the path of its store."""
    return PurePath(slide).name.removesuffix(".zarr")


def tcga_patient(name: str) -> str:
    """The TCGA patient of a slide or case, from its barcode; empty where it has none.

    Source: TCGA barcode, project-site-participant; the first twelve characters are the patient.
    """
    match = _BARCODE.match(name)
    return match.group(1).upper() if match else ""


def patients_of(samples: Sequence[Sample]) -> list[str]:
    """Whom each sample is of: one name for all that share a patient, a case or a slide.

    The name is the first, in alphabetical order, of the patients among them, or else of the
    cases, or else of the slides.
    """
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(key: tuple[int, str]) -> tuple[int, str]:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for sample in samples:
        first, *others = _names(sample)
        for other in others:
            # The smaller becomes the root: patients (0) before cases (1) before slides (2).
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return [root(_names(sample)[0])[1] for sample in samples]


def divide(samples: Sequence[Sample], *, val: float, test: float, seed: int = 0) -> Division:
    """Put every patient into one split.

    Held-out samples stay so: patients with a test sample are test patients, and of the others
    those with a validation sample validate. Their samples of other splits are left out. A held-out
    split of which no sample is given is drawn from the remaining patients.

    Args:
        samples: Their `split` may say train, val, test or nothing.
        val: Share of patients to be drawn for validation.
        test: Share of patients to be drawn for test.
        seed: Of the draw.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"shares of {val} and {test} leave nothing to train on")
    whose = patients_of(samples)
    held: dict[str, Split] = {}
    for split in _HELD_OUT:
        held.update((one, split) for one, s in zip(whose, samples, strict=True) if s.split == split)
    given = {sample.split for sample in samples}
    kept: list[Sample] = []
    left: list[Sample] = []
    for patient, sample in zip(whose, samples, strict=True):
        place = held.get(patient)
        if place is None:
            place = _draw(
                patient,
                seed,
                0.0 if "val" in given else val,
                0.0 if "test" in given else test,
            )
        elif sample.split not in ("", place):
            left.append(sample)
            continue
        kept.append(replace(sample, split=place))
    return Division(tuple(kept), tuple(left))


def overlap(first: Sequence[Sample], second: Sequence[Sample]) -> Overlap:
    """How many slides and patients of the first set the second has as well."""
    slides = [{slide_name(slide) for s in part for slide in s.slides} for part in (first, second)]
    whose = patients_of([*first, *second])
    patients = [set(whose[: len(first)]), set(whose[len(first) :])]
    return Overlap(
        slides=len(slides[0]),
        shared_slides=len(slides[0] & slides[1]),
        patients=len(patients[0]),
        shared_patients=len(patients[0] & patients[1]),
    )


def check_apart(samples: Iterable[Sample], val: Iterable[Sample] = ()) -> None:
    """Refuse samples of which one patient is in two splits, in one file or across two.

    Args:
        samples: Of a manifest; those without a split are for training where another has one.
        val: Of a manifest to validate on, if there is one; there they are for validation.

    Raises:
        ManifestError: names the patient and two samples.
    """
    samples, val = list(samples), list(val)
    placed = [(one.split or "train", one) for one in samples]
    placed += [(one.split or "val", one) for one in val]
    seen: dict[str, tuple[str, Sample]] = {}
    for patient, (split, one) in zip(patients_of([*samples, *val]), placed, strict=True):
        first, other = seen.setdefault(patient, (split, one))
        if first != split:
            raise ManifestError(
                f"'{patient}' is in {first} (sample '{other.id}') and in {split} "
                f"(sample '{one.id}').",
                hint="`wsiprep convert --split patient` keeps patients apart.",
            )


def _names(sample: Sample) -> list[tuple[int, str]]:
    names = [(0, sample.patient_id), (1, sample.case_id)]
    return [n for n in names if n[1]] + [(2, slide_name(slide)) for slide in sample.slides]


def _draw(patient: str, seed: int, val: float, test: float) -> Split:
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "val" if place < test + val else "train"
