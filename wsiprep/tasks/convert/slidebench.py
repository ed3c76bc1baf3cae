"""SlideChat: SlideBench CSV (captions, closed questions), SlideInstruction JSON for training.

CSV of captions: ID, Slide, Tumor, Question, Caption. CSV of questions: ID, Slide, Tumor, Broad
Category, Narrow Category (BCNB: Task), Question, A to D, Answer (a letter); the last choices may
be empty. Rows are named by file and number. JSON:
`{id, image: ["<slide>.csv"], conversations}`, where `<image>` may stand after the question; a
caption where the file's name says so, with `fine_grained_concepts` as its sub-captions where
they are there. Slides of TCGA are named without the UUID of the file, of BCNB by number.

The splits are those published: SlideBench is for tests, SlideInstruction for training.

Source: the data files and the description of SlideChat (github.com/uni-medical/SlideChat).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

from wsiprep.tasks.convert._records import (
    Record,
    Source,
    csv_records,
    json_records,
    listed,
    optional,
    text,
)
from wsiprep.tasks.convert._said import choice_of, one_patient, slide_of, turns_of
from wsiprep.train.language.manifest import Sample

__all__ = ["SPLIT", "records", "sample"]

SPLIT: Final[Literal["given", "patient"]] = "given"


def records(source: Source) -> Iterator[Record]:
    """Rows of a CSV file, or records of a JSON file."""
    if ".csv" in source.path.name.lower():
        return csv_records(source, ("slide", "question"))
    return json_records(source)


def sample(record: Record) -> Sample:
    """A caption, a closed question, or a conversation."""
    if "conversations" in record.values:
        return _conversation(record)
    values = record.values
    slide = slide_of(text(values, "slide"))
    patient = one_patient((slide,)) or slide
    base: dict[str, Any] = {
        "id": f"{record.source.name}/{record.number}",
        "slides": (slide,),
        "case_id": patient,
        "patient_id": patient,
        "split": record.source.split or "test",
    }
    if "caption" in values:
        return Sample(**base, caption=text(values, "caption"), task="caption")
    choices = tuple(c for letter in "abcdefgh" if (c := optional(values, letter)))
    kinds = [optional(values, f"{k} category") or optional(values, k) for k in ("broad", "narrow")]
    kinds.append(optional(values, "task"))
    return Sample(
        **base,
        question=text(values, "question"),
        choices=choices,
        answer=choice_of(text(values, "answer"), choices),
        task=_task("/".join(kind for kind in kinds if kind)) or "vqa",
    )


def _conversation(record: Record) -> Sample:
    values = record.values
    slides = tuple(slide_of(name) for name in listed(values, "image"))
    patient = one_patient(slides) or slides[0]
    turns = turns_of(values["conversations"])
    caption = "caption" in record.source.name.lower()
    spoken = [turn.text for turn in turns if turn.role != "system"]
    single = len(spoken) == 2 and not caption
    return Sample(
        id=f"{record.source.name}/{text(values, 'id')}",
        slides=slides,
        case_id=patient,
        patient_id=patient,
        caption=spoken[-1] if caption else "",
        sub_captions=_concepts(values.get("fine_grained_concepts")),
        conversations=turns,
        question=spoken[0] if single else "",
        answer=spoken[1] if single else "",
        task="caption" if caption else "vqa",
        split=record.source.split or "train",
    )


def _concepts(value: Any) -> tuple[str, ...]:
    """Findings of a caption, each once."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("'fine_grained_concepts' must be a list")
    if not all(isinstance(item, dict) for item in value):
        raise ValueError("'fine_grained_concepts' must hold objects")
    return tuple(dict.fromkeys(text(item, "visual_description") for item in value))


def _task(name: str) -> str:
    return re.sub(r"[^a-z0-9/]+", "_", name.lower()).strip("_")
