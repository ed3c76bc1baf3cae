"""Answers to questions about slides against the right ones.

Questions with options are answered in two ways: by which option the model finds likeliest, and by
what it writes. Questions without are compared word for word, and claim by claim by a judge. Beside
stand what the same model says without the slides (blind), and the commonest answer (majority).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wsiprep.core.report import OnEvent
from wsiprep.metrics.bootstrap import Statistic, mean_of
from wsiprep.metrics.judge import Judge
from wsiprep.metrics.typical import most_typical
from wsiprep.metrics.vqa import (
    Vqa,
    choose_by_likelihood,
    compare_answers,
    exact_match,
    parse_choice,
)
from wsiprep.models.language.choices import option_texts
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.asked_assistant import AskedAssistant, load_asked
from wsiprep.tasks.evaluate_texts_config import EvaluateVqaConfig
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
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.conversations import question_of
from wsiprep.train.language.manifest import Sample

__all__ = ["Said", "evaluate_vqa"]

SEEING, BLIND, MAJORITY = "seeing", "blind", "majority"
COLUMNS = (
    *("id", "slides", "patient_id", "task", "question", "answer"),
    *("likely", "said", "chosen", "blind_likely", "blind_said", "blind_chosen"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says to one question.

    Attributes:
        text: What it wrote.
        likely: Number of the option that is likeliest per token; None where there are none.
        likely_total: Number of the option that is likeliest as a whole.
        chosen: Number of the option that the text chooses; None where it chooses none.
    """

    text: str
    likely: int | None = None
    likely_total: int | None = None
    chosen: int | None = None


def evaluate_vqa(cfg: EvaluateVqaConfig, on_event: OnEvent = lambda _: None) -> TextEvaluation:
    """Ask every question; writes vqa.json and answers.csv.

    Raises:
        UsageError: samples, stores or settings make no sense; nothing was written.
        SlideError, StoreError: a slide cannot be read; an evaluation is of all samples or none.
        EnvironmentProblem: the model or the judge cannot be had, or the folder not be written.
    """
    samples = chosen(
        cfg.samples, cfg.answers.seed, lambda one: bool(one.question and one.answer),
        "a question and its answer",
    )  # fmt: skip
    out = cfg.report.output
    check_writable(out)
    judge = make_judge(cfg.judge, out)
    asked = load_asked(cfg.model, cfg.answers)
    cases = open_cases(asked, samples, cfg.samples)
    said = _ask_all(cfg, asked, cases, on_event)
    samples = list(cases.samples)
    report: dict[str, Any] = {**asked.provenance(), "task": "vqa", "data": cfg.samples.data.name}
    report["left_out"] = cases.left_out.canonical()
    closed = [row for row, one in enumerate(samples) if one.choices]
    opened = [row for row, one in enumerate(samples) if not one.choices]
    if closed:
        report["closed"] = _closed(cfg, asked, samples, said, closed)
    if opened:
        report["open"] = _open(cfg, asked, samples, said, opened, judge)
    paths = {"report": out / "vqa.json", "answers": out / "answers.csv"}
    table = [_row(one, row, said) for row, one in enumerate(samples)]
    columns = [c for c in COLUMNS if cfg.report.blind or not c.startswith("blind_")]
    content = csv_text(columns, table).encode("utf-8", "backslashreplace")
    write_whole(paths["answers"], content)
    write_json(paths["report"], report)
    return TextEvaluation(report, {name: str(path) for name, path in paths.items()})


def _ask_all(
    cfg: EvaluateVqaConfig, asked: AskedAssistant, cases: Cases, on_event: OnEvent
) -> dict[str, list[Said]]:
    """What the model says to each sample, with the slide and perhaps blind."""
    samples, model = cases.samples, asked.checkpoint.model
    found: dict[str, dict[int, Said]] = {SEEING: {}}
    if cfg.report.blind:
        found[BLIND] = {}
    # One generator each, so that being asked blind too changes no sampled answer.
    draws = {way: torch.Generator(model.device).manual_seed(asked.seed) for way in found}
    for rows, shown in case_runs(asked, cases, on_event):
        for way, answers in found.items():
            view = shown if way == SEEING else model.nothing()
            talks = [question_of(samples[row], model.cfg) for row in rows]
            names = [samples[row].id for row in rows]
            texts = answer_all(
                asked, view, talks, names, cfg.samples.batch_size, draws[way]
            )  # fmt: skip
            for row, talk, text in zip(rows, talks, texts, strict=True):
                one = samples[row]
                if not one.choices:
                    answers[row] = Said(text)
                    continue
                options = option_texts(one.choices, model.cfg.choices)
                scores = model.score(
                    view, talk, options, batch=cfg.samples.batch_size, name=one.id
                )  # fmt: skip
                best = choose_by_likelihood(scores.total.tolist(), scores.tokens.tolist())
                chosen_ = parse_choice(text, one.choices).index
                answers[row] = Said(text, best.normalised, best.raw, chosen_)
    return {way: [answers[row] for row in range(len(samples))] for way, answers in found.items()}


def _closed(
    cfg: EvaluateVqaConfig,
    asked: AskedAssistant,
    samples: Sequence[Sample],
    said: Mapping[str, Sequence[Said]],
    rows: Sequence[int],
) -> dict[str, Any]:
    """The report of questions with options."""
    some = [samples[row] for row in rows]
    right = [one.choices.index(one.answer) for one in some]
    options = [one.choices for one in some]
    scored: dict[str, dict[str, Vqa]] = {}
    for way, answers in said.items():
        picks = {
            "accuracy_likelihood": [answers[row].likely for row in rows],
            "accuracy_likelihood_sum": [answers[row].likely_total for row in rows],
            "accuracy_generated": [answers[row].chosen for row in rows],
        }
        scored[way] = {name: compare_answers(p, right, options) for name, p in picks.items()}
    seeing = scored[SEEING]
    statistics = {name: vqa.statistics()["accuracy"] for name, vqa in seeing.items()}
    majority = next(iter(seeing.values())).majority_statistics()["accuracy"]
    baselines: dict[str, Mapping[str, Statistic | float]] = {
        "majority": dict.fromkeys(statistics, majority),
        "chance": dict.fromkeys(statistics, mean_of([1 / len(one) for one in options])),
    }
    if BLIND in scored:
        baselines[BLIND] = {k: v.statistics()["accuracy"] for k, v in scored[BLIND].items()}
    unread = {way: made["accuracy_generated"].n_unparsed for way, made in scored.items()}
    return report_of(
        "vqa, questions with options", cfg, asked, some, statistics, baselines,
        {"n_unparsed": unread, "choices": asked.checkpoint.model.cfg.choices},
    )  # fmt: skip


def _open(
    cfg: EvaluateVqaConfig,
    asked: AskedAssistant,
    samples: Sequence[Sample],
    said: Mapping[str, Sequence[Said]],
    rows: Sequence[int],
    judge: Judge | None,
) -> dict[str, Any]:
    """The report of questions without options."""
    some = [samples[row] for row in rows]
    questions, truth = [one.question for one in some], [one.answer for one in some]
    found: dict[str, dict[str, Statistic | float]] = {}
    extra: dict[str, Any] = {}
    told = {way: [answers[row].text for row in rows] for way, answers in said.items()}
    told[MAJORITY] = [most_typical(truth)] * len(rows)
    for way, texts in told.items():
        same = [exact_match(a, b) for a, b in zip(texts, truth, strict=True)]
        found[way] = {"exact_match": mean_of(same)}
        claims = judged(judge, some, questions, truth, texts)
        if claims is not None:
            found[way] |= claims.statistics()
            extra[f"claims_{way}"] = claims.canonical()
    statistics = {name: value for name, value in found.pop(SEEING).items() if callable(value)}
    return report_of(
        "vqa, questions without options", cfg, asked, some, statistics,
        {MAJORITY: found.pop(MAJORITY), **found}, extra,
    )  # fmt: skip


def _row(one: Sample, row: int, said: Mapping[str, Sequence[Said]]) -> dict[str, str]:
    """A line of answers.csv."""
    line = {
        "id": one.id, "slides": " ".join(one.slides), "patient_id": one.patient_id,
        "task": one.task, "question": one.question, "answer": one.answer,
    }  # fmt: skip
    for way, answers in said.items():
        before = "" if way == SEEING else f"{way}_"
        given = answers[row]
        line[f"{before}said"] = given.text
        for name, number in (("likely", given.likely), ("chosen", given.chosen)):
            line[f"{before}{name}"] = "" if number is None else one.choices[number]
    return line
