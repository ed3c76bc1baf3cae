"""WSI-VQA: `WsiVQA_train.json`, `WsiVQA_val.json`, `WsiVQA_test.json`.

A list of `{Id, Question, Choice?, Answer}`. The id is the barcode of a TCGA case, and stands for
its slides; the answer is one of the choices, word for word but for case. The split is in the
file's name. Questions are templated and distractors are easy to tell: compare with a blind
baseline.

Source: the data files of github.com/cpystan/WSI-VQA.
"""

from __future__ import annotations

from typing import Final, Literal

from wsiprep.tasks.convert._records import Record, json_records, listed, text
from wsiprep.tasks.convert._said import choice_of
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import tcga_patient

__all__ = ["SPLIT", "records", "sample"]

SPLIT: Final[Literal["given", "patient"]] = "given"

records = json_records


def sample(record: Record) -> Sample:
    """One question; `task` says whether it has choices."""
    values = record.values
    case = text(values, "Id")
    answer = text(values, "Answer")
    choices: tuple[str, ...] = ()
    if values.get("Choice"):
        choices = tuple(dict.fromkeys(listed(values, "Choice")))
        if len(choices) < 2:
            raise ValueError("its choices are all the same")
        answer = choice_of(answer, choices)
    return Sample(
        id=f"{record.source.name}/{record.number}",
        slides=(case,),
        case_id=case,
        patient_id=tcga_patient(case) or case,
        question=text(values, "Question"),
        choices=choices,
        answer=answer,
        task="closed" if choices else "open",
        split=record.source.split,
    )
