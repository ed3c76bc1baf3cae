"""A CSV file of your own: slides or cases, with a report or with questions and answers.

A row says something of a slide, of several (`A.svs; B.svs`), or of a case; rows of one case that
say the same are one sample with all of their slides. Columns are found by usual names, or named
by flags. A TCGA barcode is the patient, whatever a column says: its first twelve characters. A
row without a text, or one that says again what another said, cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from wsiprep.core.config import Settings
from wsiprep.core.errors import ManifestError
from wsiprep.tasks.convert._records import (
    Record,
    Source,
    csv_header,
    csv_records,
    optional,
    split_called,
    text,
)
from wsiprep.tasks.convert._said import choice_of, one_patient, slide_of
from wsiprep.tasks.convert_config import ConvertConfig
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import tcga_patient

__all__ = ["SPLIT", "Columns", "Config", "about", "records", "sample"]

SPLIT: Final[Literal["found"]] = "found"

_SINGLE: Final[dict[str, tuple[str, ...]]] = {
    "slide": ("slide", "slide_id", "slides", "slide_name", "filename", "file_name", "file", "wsi"),
    "case": ("case", "case_id", "case_submitter_id", "patient_filename"),
    "patient": ("patient", "patient_id", "bcr_patient_barcode", "submitter_id"),
    "text": ("report", "caption", "text", "report_text", "description"),
    "question": ("question",),
    "answer": ("answer",),
    "label": ("label",),
    "task": ("task",),
    "split": ("split",),
}
_LETTERS: Final = tuple("abcdefgh")


class Columns(Settings):
    """Which column of a CSV file holds what."""

    panel: ClassVar[str] = "Columns"

    slide_column: str | None = None
    """Slides: file names or ids, several parted by semicolons. By default slide, slide_id, slides,
    slide_name, filename, file_name, file or wsi, the first that is there; where none is, slides are
    those that the case's or the patient's name stands for."""
    case_column: str | None = None
    """Cases. By default case, case_id, case_submitter_id or patient_filename."""
    patient_column: str | None = None
    """Patients. By default patient, patient_id, bcr_patient_barcode or submitter_id. A slide or
    case with a TCGA barcode is of the patient in its first twelve characters."""
    text_column: str | None = None
    """Reports or captions. By default report, caption, text, report_text or description."""
    question_column: str | None = None
    """Questions. By default question, where there are answers too."""
    answer_column: str | None = None
    """Answers: in words or, where there are choices, by letter. By default answer."""
    choices_column: tuple[str, ...] = ()
    """Choices: one column that parts them by |, or one column for each. By default choices, or
    a, b, c and so on."""
    label_column: str | None = None
    """Class of the slides. By default label."""
    task_column: str | None = None
    """Kind of sample; results are given by it. By default task."""
    split_column: str | None = None
    """train, val or test, which are then kept. By default split."""


class Config(ConvertConfig):
    """Settings of `wsiprep convert csv`."""

    columns: Columns


@dataclass(slots=True)
class _Group:
    """Rows of one case that say the same.

    Attributes:
        first: The first of them.
        slides: Of all, each with the place of its row.
    """

    first: Record
    slides: dict[str, str] = field(default_factory=dict)


def records(source: Source, cfg: Config) -> Iterator[Record]:
    """Samples-to-be, in the order of their first rows, and rows that cannot be used.

    Raises:
        ManifestError: it is not CSV, a named column is not there, or none says of which slides or
            what.
    """
    columns = _columns(source, cfg.columns)
    groups: dict[tuple[Any, ...], _Group] = {}
    found: list[Record | _Group] = []
    for row in csv_records(source, ()):
        try:
            if row.problem:
                raise ValueError(row.problem)
            values = _values(row.values, columns)
            slides = values.pop("slides")
            whose = values["case_id"] or values["patient_id"] or slides
            key = (whose, *(values[name] for name in sorted(values)))
            fresh = key not in groups
            group = groups.setdefault(
                key, _Group(Record(source, row.number, row.where, values, part="csv"))
            )
            for slide in slides:
                if slide in group.slides:
                    raise ValueError(f"it says of '{slide}' what {group.slides[slide]} says")
        except ValueError as err:
            found.append(Record(source, row.number, row.where, {}, str(err)))
        else:
            group.slides.update(dict.fromkeys(slides, row.where))
            if fresh:
                found.append(group)
    patients: dict[str, set[str]] = {}
    for group in groups.values():
        values = group.first.values
        patients.setdefault(values["case_id"], set()).add(values["patient_id"])
    for one in found:
        if isinstance(one, _Group):
            values = one.first.values
            values["slides"] = tuple(one.slides)
            if values["case_id"] and len(patients[values["case_id"]] - {""}) > 1:
                # Numbered anew for each patient.
                values["case_id"] = f"{values['patient_id']} {values['case_id']}".strip()
            yield one.first
        else:
            yield one


def sample(record: Record) -> Sample:
    """One sample of the rows that make it."""
    # Barcodes of all slides of a sample must be of one patient, whatever a column says.
    one_patient(record.values["slides"])
    return Sample(id=f"{record.source.name}/{record.number}", **record.values)


def about(source: Source, cfg: Config, samples: Sequence[Sample]) -> dict[str, Any]:
    """What was taken for what, in the report and on the screen.

    Args:
        source: The file.
        cfg: Settings.
        samples: Made of it.

    Returns:
        `columns`: what is read from where; `patients`: `column`, `barcode` (the first twelve
        characters of TCGA barcodes), `case` or `slide`, and of how many samples each.
    """
    columns = _columns(source, cfg.columns)
    counts = {"column": 0, "barcode": 0, "case": 0, "slide": 0}
    for one in samples:
        if one.patient_id:
            counts["barcode" if tcga_patient(one.patient_id) else "column"] += 1
        else:
            counts["case" if one.case_id else "slide"] += 1
    return {
        "columns": {name: list(given) for name, given in columns.items()},
        "patients": {name: count for name, count in counts.items() if count},
    }


def _columns(source: Source, cfg: Columns) -> dict[str, tuple[str, ...]]:
    """Names of columns, in lower case, by what they hold."""
    header = csv_header(source)
    columns: dict[str, tuple[str, ...]] = {}
    for name, usual in _SINGLE.items():
        given = getattr(cfg, f"{name}_column")
        wanted = [given.strip().lower()] if given else [one for one in usual if one in header][:1]
        if wanted:
            columns[name] = tuple(wanted)
    if not cfg.question_column and "answer" not in columns:
        columns.pop("question", None)
    if not cfg.answer_column and "question" not in columns:
        columns.pop("answer", None)
    if "question" in columns:
        letters = tuple(one for one in _LETTERS if one in header)
        usual = ("choices",) if "choices" in header else letters if len(letters) > 1 else ()
        if choices := tuple(one.strip().lower() for one in cfg.choices_column) or usual:
            columns["choices"] = choices
    missing = [one for given in columns.values() for one in given if one not in header]
    named = f"Its first line names {', '.join(header) or 'none'}."
    if missing:
        raise ManifestError(f"{source.path} has no column {', '.join(missing)}.", hint=named)
    if not {"slide", "case", "patient"} & set(columns):
        raise ManifestError(
            f"{source.path} has no column of slides, cases or patients by a usual name.",
            hint=f"Name it with --slide-column or --case-column. {named}",
        )
    if not {"text", "question"} & set(columns):
        raise ManifestError(
            f"{source.path} has no column of texts by a usual name.",
            hint=f"Name it with --text-column, or --question-column and --answer-column. {named}",
        )
    return columns


def _values(row: dict[str, Any], columns: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Fields of a sample from a row.

    Raises:
        ValueError: a cell that must hold something is empty, or does not fit the others.
    """

    def cell(name: str) -> str:
        return optional(row, columns[name][0]) if name in columns else ""

    case, patient = _name(cell("case")), cell("patient")
    if "slide" in columns:
        cells = text(row, columns["slide"][0]).split(";")
        slides = tuple(dict.fromkeys(slide_of(one.strip()) for one in cells if one.strip()))
    else:
        slides = tuple(filter(None, (case or _name(patient),)))
    if not slides:
        raise ValueError("it names no slide, no case and no patient")
    barcode = one_patient(slides) or tcga_patient(case) or tcga_patient(patient)
    patient = barcode or patient
    question, answer = cell("question"), cell("answer")
    if bool(question) != bool(answer):
        raise ValueError(f"there is {'a question' if question else 'an answer'} alone")
    said = cell("text")
    if not said and not question:
        raise ValueError("it says nothing: the text is empty")
    choices = _choices(row, columns.get("choices", ())) if question else ()
    return {
        "slides": slides,
        "case_id": case or barcode,
        "patient_id": patient,
        "caption": said,
        "question": question,
        "choices": choices,
        "answer": choice_of(answer, choices) if choices else answer,
        "label": cell("label"),
        "task": cell("task") or ("vqa" if question else "report"),
        "split": split_called(cell("split")) if cell("split") else "",
    }


def _name(case: str) -> str:
    """A case; of TCGA without what follows the barcode, as in `TCGA-BP-5195.25c0b433-…`."""
    return case.split(".", 1)[0] if tcga_patient(case) else case


def _choices(row: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    cells = [optional(row, name) for name in names]
    if len(names) == 1:
        cells = re.split(r"\s*\|\s*", cells[0])
    return tuple(filter(None, cells))
