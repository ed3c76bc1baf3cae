"""WSI-Bench: `<task>_train.json` and `<task>_test.json` or `.jsonl`, plain or gzip.

Records are `{id, image: "<project>/<slide>.pt", conversations: [{from, value}, …]}`; test records
may be `{question_id, image, text, metadata}`. The task is in the file's name (`1_Report_train`).
Ids are unique in one file only, and get task and split before them. A closed task ends its
question in `A) … B) …`, and the answer is a letter, sometimes with a stray mark behind it.

Several questions of staging, subtyping, treatment and prognosis tell findings that decide the
answer: compare with a blind baseline. Most published test slides also occur in training files;
hence splits are made by patient (`--split given` keeps those published).

Source: the data files of github.com/XinhengLyu/WSI-LLaVA, and its description of them.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from wsiprep.tasks.convert._records import Record, json_records, optional, text
from wsiprep.tasks.convert._said import (
    choice_of,
    slide_of,
    split_choices,
    turns_of,
    without_placeholder,
)
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import tcga_patient

__all__ = ["SPLIT", "records", "sample"]

SPLIT: Final[Literal["given", "patient"]] = "patient"

_RENAMED: Final = {
    "treatment_planing": "treatment_planning",
    "prognosis_tf_question": "prognosis_tf",
}

records = json_records


def sample(record: Record) -> Sample:
    """One conversation, or one question of a test file."""
    values = record.values
    slide = slide_of(text(values, "image"))
    task = _task(optional(values, "metadata") or record.source.name)
    if "conversations" in values:
        name = text(values, "id")
        turns = turns_of(values["conversations"])
        if len(turns) != 2:
            raise ValueError(
                f"the conversation has {len(turns)} turns, not a question and an answer"
            )
        question, answer = (turn.text for turn in turns)
    else:
        name = _text_or_number(values, "question_id")
        turns = ()
        question, answer = without_placeholder(text(values, "text")), optional(values, "answer")
    stem = question
    choices: tuple[str, ...] = ()
    if task.endswith("_choice"):
        stem, choices = split_choices(question)
        if not choices:
            raise ValueError(f"no choices are found in the question {question[-60:]!r}")
    elif task.endswith("_tf"):
        choices = ("Yes", "No")
    if choices and answer:
        answer = choice_of(answer, choices)
    split = record.source.split
    return Sample(
        id="/".join(part for part in (task, split, name) if part),
        slides=(slide,),
        case_id=tcga_patient(slide),
        patient_id=tcga_patient(slide),
        caption=answer if task == "report" else "",
        conversations=turns,
        question=stem,
        choices=choices,
        answer=answer,
        task=task,
        split=split,
    )


def _task(name: str) -> str:
    plain = re.sub(r"^(wsi[-_]?bench[-_])?(\d+[-_])?", "", name.lower())
    plain = re.sub(r"[-_](all_type_all_)?(train|test|val)([-_]single)?$", "", plain)
    plain = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return _RENAMED.get(plain, plain)


def _text_or_number(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return str(value) if type(value) is int else text(values, name)
