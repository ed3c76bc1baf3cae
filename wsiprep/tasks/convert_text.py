"""Public sets of texts on slides to the one manifest."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert._records import Record, Source
from wsiprep.tasks.convert_config import ConvertConfig
from wsiprep.train.language.manifest import SPLITS, Sample, data_sha256, write_manifest
from wsiprep.train.language.splits import (
    check_apart,
    divide,
    overlap,
    patients_of,
    slide_name,
)
from wsiprep.train.language.stores import StoreFolder

__all__ = ["Conversion", "convert_text"]

SHOWN: Final = 20
"""Bad records that the report lists; all are counted."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came of it.

    Attributes:
        samples: As written.
        report: Counts, overlap, hashes: plain JSON types.
    """

    samples: tuple[Sample, ...]
    report: dict[str, Any]


@dataclass(slots=True)
class _Bad:
    """Records left out."""

    count: int = 0
    shown: tuple[str, ...] = ()


def convert_text(format_name: str, cfg: ConvertConfig) -> Conversion:
    """Read files of a format, split by patient where asked, and write the manifest.

    Args:
        format_name: A plug-in of `tasks/convert`, e.g. `wsi_bench`.
        cfg: Settings.

    Raises:
        UnknownPluginError: there is no such format.
        ConfigError: the manifest would replace one of the files.
        ManifestError: a file or a record cannot be used, or nothing is left to write.
        StoreError: a store cannot be read.
        OutputError: the manifest cannot be written.
    """
    plugin = formats.load(format_name)
    files, out = cfg.converted.files, cfg.converted.out
    if os.path.realpath(out) in {os.path.realpath(path) for path in files}:
        raise ConfigError(f"--out {out} is also a file to be converted.")
    bad = _Bad()
    read: list[Sample] = []
    of_file: list[dict[str, Any]] = []
    for path in files:
        before, bad_before, source = len(read), bad.count, Source.of(path)
        read.extend(_samples(plugin, source, cfg, bad, read))
        of_file.append(
            {
                "path": str(path),
                "sha256": _file_sha256(path),
                "samples": len(read) - before,
                "bad": bad.count - bad_before,
                **(plugin.about(source, cfg, read[before:]) if hasattr(plugin, "about") else {}),
            }
        )
    own = plugin.SPLIT == "found"
    published = None if own else _published(read)
    how = _how(plugin, cfg, read)
    kept: Sequence[Sample] = read
    left_out = {"bad": bad.count}
    without: list[str] = []
    if cfg.converted.stores is not None:
        placing = _Placing(StoreFolder(cfg.converted.stores))
        kept = [placed for one in read if (placed := placing.place(one)) is not None]
        left_out |= {"no_store": placing.no_store, "no_features": placing.no_features}
        without = sorted(path.name for path, has in placing.looked.items() if not has)
    if how == "patient":
        shares = {"val": cfg.splits.val_share, "test": cfg.splits.test_share}
        division = divide(kept, seed=cfg.splits.seed, **shares)
        left_out["patient_is_held_out"] = len(division.left_out)
        kept = division.samples
    elif own:
        check_apart(kept)
    if not kept:
        raise ManifestError(
            f"no sample is left of {len(read)} read.",
            hint=_nothing_in(cfg.converted.stores, without) if cfg.converted.stores else None,
        )
    write_manifest(out, kept)
    report = {
        "format": format_name,
        "files": of_file,
        "bad_records": list(bad.shown),
        "split": how,
        "left_out": left_out,
        "stores_without_features": without,
        "published_test": published,
        "published": not own,
        "given_splits": dict(sorted(Counter(sample.split or "none" for sample in read).items())),
        "splits": _counts(kept),
        "empty_splits": _empty(kept, cfg) if how == "patient" else [],
        "tasks": dict(sorted(Counter(sample.task for sample in kept).items())),
        "samples": len(kept),
        "out": str(out),
        "data_sha256": data_sha256(kept),
    }
    return Conversion(tuple(kept), report)


def _samples(
    plugin: Any, source: Source, cfg: ConvertConfig, bad: _Bad, before: Sequence[Sample]
) -> Iterator[Sample]:
    """Samples of a file; a bad record is an error, or counted."""
    seen = {sample.id for sample in before}
    for record in (
        plugin.records(source, cfg) if hasattr(plugin, "Config") else plugin.records(source)
    ):
        try:
            sample = _sample(plugin, record, seen)
        except ValueError as err:
            text = f"{source.path}, {record.where}: {err}."
            if not cfg.converted.skip_bad:
                raise ManifestError(
                    text, hint="Mend it, or pass --skip-bad to leave out such records."
                ) from err
            bad.count += 1
            bad.shown = (*bad.shown, text)[:SHOWN]
        else:
            seen.add(sample.id)
            yield sample


def _how(plugin: Any, cfg: ConvertConfig, samples: Sequence[Sample]) -> str:
    """Whether splits are kept (given) or made (patient).

    Raises:
        ManifestError: a file of the user's own gives splits to some of its rows only.
    """
    if cfg.splits.split != "auto" or plugin.SPLIT != "found":
        return str(plugin.SPLIT if cfg.splits.split == "auto" else cfg.splits.split)
    without = [sample.id for sample in samples if not sample.split]
    if without and len(without) < len(samples):
        raise ManifestError(
            f"{len(without)} of {len(samples)} samples have no split, '{without[0]}' among them.",
            hint="Fill the column, or pass --split patient to draw what it does not say.",
        )
    return "patient" if without else "given"


def _empty(samples: Sequence[Sample], cfg: ConvertConfig) -> list[str]:
    """Splits that were to be drawn, and into which no patient fell."""
    shares = {"train": 1.0, "val": cfg.splits.val_share, "test": cfg.splits.test_share}
    there = {sample.split for sample in samples}
    return [split for split, share in shares.items() if share and split not in there]


def _sample(plugin: Any, record: Record, seen: set[str]) -> Sample:
    if record.problem:
        raise ValueError(record.problem)
    sample: Sample = plugin.sample(record)
    if sample.id in seen:
        raise ValueError(f"the id '{sample.id}' has been there before")
    return sample


@dataclass(slots=True)
class _Placing:
    """Slides of samples named as their stores; of several of a case, those that have features.

    Attributes:
        stores: Where stores lie.
        looked: Whether those that were looked at have features.
        no_store: Samples of which a slide has no store.
        no_features: Other samples of which a slide has only stores without features.
    """

    stores: StoreFolder
    looked: dict[Path, bool] = field(default_factory=dict)
    no_store: int = 0
    no_features: int = 0

    def place(self, sample: Sample) -> Sample | None:
        """The sample with its slides named as their stores; None, and counted, if one has none."""
        found = [self.stores.find(slide) for slide in sample.slides]
        if not all(found):
            self.no_store += 1
            return None
        usable = [[path for path in paths if self._has_features(path)] for paths in found]
        if not all(usable):
            self.no_features += 1
            return None
        names = dict.fromkeys(slide_name(path.name) for paths in usable for path in paths)
        return replace(sample, slides=tuple(names))

    def _has_features(self, path: Path) -> bool:
        if path not in self.looked:
            self.looked[path] = FeatureStore(path).has_features
        return self.looked[path]


def _nothing_in(stores: Path, without: Sequence[str]) -> str:
    if not without:
        return f"No slide has a store in {stores}."
    return f"No slide has a store with features in {stores}: `wsiprep run` or `embed` makes them."


def _published(samples: Sequence[Sample]) -> dict[str, int] | None:
    """What the published test samples share with the published training samples."""
    parts = [[s for s in samples if s.split == split] for split in ("test", "train")]
    return overlap(*parts).canonical() if all(parts) else None


def _counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Samples, slides and patients of each split."""
    whose = patients_of(samples)
    counts: dict[str, dict[str, int]] = {}
    for split in (*SPLITS, ""):
        part = [(s, p) for s, p in zip(samples, whose, strict=True) if s.split == split]
        if part:
            counts[split or "none"] = {
                "samples": len(part),
                "slides": len({slide_name(slide) for s, _ in part for slide in s.slides}),
                "patients": len({p for _, p in part}),
            }
    return counts


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
