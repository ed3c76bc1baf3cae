"""PatchGastricADC22: `captions.csv`.

Columns id, subtype, text: a caption and a subtype for each slide of stomach adenocarcinoma. The
file names no patients and no splits; every slide counts as a patient of its own, and splits are
drawn. Many captions are word for word the same: count retrieval with duplicates in mind.

Source: Tsuneki and Kanavati, Inference of captions from histopathological patches, 2022, and its
captions.csv (zenodo.org/record/6550925).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from wsiprep.tasks.convert._records import Record, Source, csv_records, text
from wsiprep.train.language.manifest import Sample

__all__ = ["SPLIT", "records", "sample"]

SPLIT: Final[Literal["given", "patient"]] = "patient"


def records(source: Source) -> Iterator[Record]:
    """Rows of the file."""
    return csv_records(source, ("id", "subtype", "text"))


def sample(record: Record) -> Sample:
    """One caption."""
    values = record.values
    slide = text(values, "id")
    return Sample(
        id=slide,
        slides=(slide,),
        caption=" ".join(text(values, "text").split()),
        label=text(values, "subtype"),
        task="caption",
        split=record.source.split,
    )
