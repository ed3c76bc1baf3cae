"""Captions of slides against those that people wrote, by their words and by their claims.

Beside stand what the same model says without the slide (blind), the commonest caption (majority),
and the caption of another patient (shuffled), which says how much captions of any slides agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from wsiprep.core.report import OnEvent
from wsiprep.metrics.bootstrap import Statistic
from wsiprep.metrics.captions import compare_captions
from wsiprep.metrics.typical import most_typical
from wsiprep.models.language.templates import Turn
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.asked_assistant import AskedAssistant, load_asked
from wsiprep.tasks.evaluate_texts_config import EvaluateCaptionConfig
from wsiprep.tasks.evaluated_texts import (
    TextEvaluation,
    answer_all,
    case_runs,
    chosen,
    judged,
    make_judge,
    open_cases,
    report_of,
)
from wsiprep.tasks.results import csv_text, write_json
from wsiprep.train.language.align import caption_of
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import patients_of

__all__ = ["evaluate_caption", "other_patient"]

SEEING, BLIND, MAJORITY = "seeing", "blind", "majority"


def evaluate_caption(
    cfg: EvaluateCaptionConfig, on_event: OnEvent = lambda _: None
) -> TextEvaluation:
    """Describe every case; writes caption.json and captions.csv.

    Samples of the same slides are one case with several references.

    Raises:
        UsageError: samples, stores or settings make no sense; nothing was written.
        SlideError, StoreError: a slide cannot be read; an evaluation is of all samples or none.
        EnvironmentProblem: the model or the judge cannot be had, or the folder not be written.
    """
    found = chosen(
        cfg.samples, cfg.answers.seed, lambda one: bool(caption_of(one)), "a caption"
    )  # fmt: skip
    out = cfg.report.output
    check_writable(out)
    judge = make_judge(cfg.judge, out)
    asked = load_asked(cfg.model, cfg.answers)
    cases = open_cases(asked, found, cfg.samples)
    samples, references = _cases_of(cases.samples)
    said = _describe(cfg, asked, cases, samples, on_event)
    said[MAJORITY] = [most_typical([t for one in references for t in one])] * len(samples)
    others = other_patient(patients_of(samples))
    if others is not None:
        said["shuffled"] = [references[row][0] for row in others]
    scored: dict[str, dict[str, Statistic | float]] = {}
    extra: dict[str, Any] = {}
    prompt = asked.checkpoint.model.cfg.caption_prompt
    for way, texts in said.items():
        words = compare_captions(texts, references)
        scored[way] = {**words.statistics()}
        extra |= {"tokenizer": words.tokenizer, "unavailable": words.unavailable}
        if way in (SEEING, BLIND, MAJORITY):
            # Several references are judged as one text: what any of them claims is true.
            truth = [" ".join(one) for one in references]
            claims = judged(judge, samples, [prompt] * len(samples), truth, texts)
            if claims is not None:
                scored[way] |= claims.statistics()
                extra[f"claims_{way}"] = claims.canonical()
    statistics = {name: value for name, value in scored.pop(SEEING).items() if callable(value)}
    baselines: dict[str, Mapping[str, Statistic | float]] = {**scored}
    made = report_of("caption", cfg, asked, samples, statistics, baselines, extra)
    report = {**asked.provenance(), "data": cfg.samples.data.name, **made}
    report["left_out"] = cases.left_out.canonical()
    paths = {"report": out / "caption.json", "captions": out / "captions.csv"}
    columns = ["id", "slides", "patient_id", "reference", "caption"]
    columns += ["caption_blind"] if BLIND in said else []
    table = [
        {
            "id": one.id, "slides": " ".join(one.slides), "patient_id": one.patient_id,
            "reference": references[row][0], "caption": said[SEEING][row],
            **({"caption_blind": said[BLIND][row]} if BLIND in said else {}),
        }
        for row, one in enumerate(samples)
    ]  # fmt: skip
    content = csv_text(columns, table).encode("utf-8", "backslashreplace")
    write_whole(paths["captions"], content)
    write_json(paths["report"], report)
    return TextEvaluation(report, {name: str(path) for name, path in paths.items()})


def other_patient(patients: Sequence[str]) -> list[int] | None:
    """For each row one of another patient, each row once; None where that cannot be.

    Rows are put side by side patient by patient and moved on by as many as the patient with most
    rows has; who has more than half of the rows must get some of their own, so there is none.
    """
    order = sorted(range(len(patients)), key=lambda row: patients[row])
    step = max(Counter(patients).values(), default=0)
    if not order or 2 * step > len(order):
        return None
    moved = [0] * len(order)
    for place, row in enumerate(order):
        moved[row] = order[(place + step) % len(order)]
    return moved


def _cases_of(samples: Sequence[Sample]) -> tuple[list[Sample], list[list[str]]]:
    """A sample for each set of slides, and the captions of all that are of it."""
    cases: dict[tuple[str, ...], Sample] = {}
    texts: dict[tuple[str, ...], list[str]] = {}
    for one in samples:
        cases.setdefault(one.slides, one)
        told = texts.setdefault(one.slides, [])
        if caption_of(one) not in told:
            told.append(caption_of(one))
    # What the report is hashed over names every reference.
    kept = [
        replace(one, caption=texts[slides][0], sub_captions=tuple(texts[slides][1:]))
        for slides, one in cases.items()
    ]
    return kept, list(texts.values())


def _describe(
    cfg: EvaluateCaptionConfig,
    asked: AskedAssistant,
    cases: Cases,
    samples: Sequence[Sample],
    on_event: OnEvent,
) -> dict[str, list[str]]:
    """What the model says of each case, one of `samples`, with the slide and perhaps blind."""
    model = asked.checkpoint.model
    talk = [Turn("user", model.cfg.caption_prompt)]
    said: dict[str, list[str]] = {SEEING: []}
    draw = torch.Generator(model.device).manual_seed(asked.seed)
    # Runs come in the order of `samples`: that in which their slides are named first.
    for one, (_, shown) in zip(samples, case_runs(asked, cases, on_event), strict=True):
        said[SEEING] += answer_all(asked, shown, [talk], [one.id], 1, draw)
    if cfg.report.blind:
        draw = torch.Generator(model.device).manual_seed(asked.seed)
        # Without sampling it says the same each time.
        times = len(samples) if asked.decoding.temperature else 1
        blind = answer_all(
            asked, model.nothing(), [talk] * times, [one.id for one in samples[:times]],
            cfg.samples.batch_size, draw,
        )  # fmt: skip
        said[BLIND] = blind if times == len(samples) else blind * len(samples)
    return said
