"""HistGen: `annotation.json` with reports under train, val and test.

`{"train": [{id, report, image_path: […], split}], "val": […], "test": […]}`. The id is the slide;
where `image_path` lists several files, these are the slides of one sample. Splits are those of
the file.

Source: github.com/dddavid4real/HistGen, its description and its reader of annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from wsiprep.core.errors import ManifestError
from wsiprep.tasks.convert._records import (
    Record,
    Source,
    listed,
    load_json,
    optional,
    split_called,
    text,
)
from wsiprep.tasks.convert._said import one_patient, slide_of
from wsiprep.train.language.manifest import Sample

__all__ = ["SPLIT", "records", "sample"]

SPLIT: Final[Literal["given", "patient"]] = "given"


def records(source: Source) -> Iterator[Record]:
    """Reports of all splits."""
    parts = load_json(source)
    if not isinstance(parts, dict) or not all(isinstance(p, list) for p in parts.values()):
        raise ManifestError(
            f"{source.path} is not an annotation of HistGen.",
            hint='It holds {"train": [reports], "val": …, "test": …}.',
        )
    number = 0
    for part, reports in parts.items():
        for place, report in enumerate(reports, 1):
            number += 1
            where = f"{part}, item {place}"
            if isinstance(report, dict):
                yield Record(source, number, where, report, part=part)
            else:
                yield Record(source, number, where, {}, "this is not an object with named fields")


def sample(record: Record) -> Sample:
    """One report."""
    values = record.values
    name = text(values, "id")
    split = split_called(record.part)
    own = optional(values, "split")
    if own and split_called(own) != split:
        raise ValueError(f"it stands under '{record.part}', and says that it is of '{own}'")
    files = listed(values, "image_path") if values.get("image_path") else ()
    slides = tuple(dict.fromkeys(map(slide_of, files if len(files) > 1 else (name,))))
    patient = one_patient(slides)
    return Sample(
        id=name,
        slides=slides,
        case_id=patient or name,
        patient_id=patient,
        caption=text(values, "report"),
        task="report",
        split=split,
    )
