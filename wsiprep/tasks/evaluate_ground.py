"""How well heat maps of texts fit where the findings are.

Beside chance, and beside heat maps on the same slide that do not know what is asked: of another
text, of a sentence that names no finding (blind), and of the middle of the tissue (centre). A
model that marks the same conspicuous place whatever it is asked is no better than these. There is
no commonest answer to where, so centre stands in place of a majority.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from wsiprep.core.errors import SlideError
from wsiprep.core.report import OnEvent, SlideOutcome
from wsiprep.metrics.grounding import (
    Grounding,
    centre_map,
    grounding_chances,
    grounding_statistics,
    score_heat_map,
)
from wsiprep.metrics.report import assemble
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.asked_model import AskedModel, load_model
from wsiprep.tasks.embedded import EmbeddedSlide, visit
from wsiprep.tasks.evaluate_language_config import EvaluateGroundConfig
from wsiprep.tasks.ground import best_method, rows_of
from wsiprep.tasks.ground_truth import TruthRow, inside_of, read_truth
from wsiprep.tasks.results import Asked, csv_text, failures, write_json
from wsiprep.tasks.use_config import GroundMethodName
from wsiprep.train.language.splits import tcga_patient

__all__ = ["evaluate_ground"]

BLIND_TEXT: Final = "A section of tissue."
"""What the model is asked for blind: it is true of every patch and names no finding."""
BASELINES: Final = {
    "chance": "any order of the patches; also what a map that is the same everywhere reaches",
    "centre": "in place of majority: there is no commonest answer to where, so this map is highest "
    "at the middle of the tissue",
    "blind": f'the model\'s own map of "{BLIND_TEXT}", which names no finding',
    "other_text": "the model's own map of another text",
}
"""What each baseline is, for the report."""


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A heat map held against the truth.

    Attributes:
        row: What is true.
        method: How it was made.
        own: Of the text.
        beside: Of heat maps that do not know the text, by the baseline's name; `other_text` only
            where there is another text.
        key: Identity of the features.
    """

    row: TruthRow
    method: GroundMethodName
    own: Grounding
    beside: dict[str, Grounding]
    key: str


def evaluate_ground(cfg: EvaluateGroundConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Evaluate grounding; writes ground.json and ground.csv.

    Raises:
        UsageError: the truth cannot be used, or the model cannot do a method; nothing was written.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
        SlideError: not one slide could be evaluated.
    """
    truth = read_truth(cfg.truth.truth, cfg.truth.stores)
    check_writable(cfg.report.output)
    asked = load_model(cfg.model)
    methods = tuple(dict.fromkeys(cfg.truth.method)) or (best_method(asked.checkpoint.model),)
    others = _other_texts(truth)
    of_slide: dict[Path, list[TruthRow]] = {}
    for row in truth:
        of_slide.setdefault(row.store, []).append(row)
    judged: list[_Judged] = []

    def one(slide: EmbeddedSlide) -> str:
        found = _judge(asked, slide, of_slide[slide.store], others, methods, cfg)
        judged.extend(found)
        return f"{len(of_slide[slide.store])} texts"

    slides = [EmbeddedSlide(path.name.removesuffix(".zarr"), path) for path in of_slide]
    outcomes = visit(slides, one, on_event)
    if not judged:
        raise SlideError("not one slide could be evaluated.", hint=outcomes[0].reason or None)
    report = {
        **asked.provenance(),
        "task": "evaluate ground",
        "truth": str(cfg.truth.truth),
        "cover": cfg.truth.cover,
        "tolerance_cells": cfg.truth.tolerance_cells,
        "blind_text": BLIND_TEXT,
        "methods": {
            method: _report([j for j in judged if j.method == method], cfg) for method in methods
        },
        "failed": failures(outcomes),
    }
    return _written(cfg.report.output, report, judged, outcomes)


def _judge(
    asked: AskedModel,
    slide: EmbeddedSlide,
    truth: Sequence[TruthRow],
    others: Mapping[str, str],
    methods: Sequence[GroundMethodName],
    cfg: EvaluateGroundConfig,
) -> list[_Judged]:
    view = asked.view(slide)
    store = FeatureStore(slide.store)
    grid = store.grid(view.grid)
    cell = view.bags.cell.cpu().numpy()
    rows = rows_of(grid, cell)
    inside = {row: inside_of(row, store.slide, grid, rows, cfg.truth.cover) for row in truth}
    asked_for = [t for row in truth for t in (row.text, others.get(row.text, BLIND_TEXT))]
    texts = list(dict.fromkeys([*asked_for, BLIND_TEXT]))
    centre = centre_map(cell)
    found: list[_Judged] = []
    for method in methods:
        with torch.no_grad():
            scores = asked.checkpoint.model.ground(view.bags, texts, method).float().cpu().numpy()
        heat = dict(zip(texts, scores, strict=True))

        for row in truth:
            maps = {"own": heat[row.text], "centre": centre, "blind": heat[BLIND_TEXT]}
            if row.text in others:
                maps["other_text"] = heat[others[row.text]]
            fits = {
                name: score_heat_map(
                    scores, inside[row], cell=cell, tolerance_cells=cfg.truth.tolerance_cells
                )
                for name, scores in maps.items()
            }
            found.append(_Judged(row, method, fits.pop("own"), fits, view.key))
    return found


def _other_texts(truth: Sequence[TruthRow]) -> dict[str, str]:
    """For each text the next one of the file, the first after the last; empty if all are one."""
    texts = list(dict.fromkeys(row.text for row in truth))
    if len(texts) < 2:
        return {}
    return dict(zip(texts, [*texts[1:], texts[0]], strict=True))


def _report(judged: Sequence[_Judged], cfg: EvaluateGroundConfig) -> dict[str, Any]:
    own = [one.own for one in judged]
    baselines: dict[str, Any] = {"chance": grounding_chances(own)}
    for name in ("centre", "blind", "other_text"):
        beside = [one.beside[name] for one in judged if name in one.beside]
        if len(beside) == len(judged):
            baselines[name] = grounding_statistics(beside)
    patients, over = _patients([one.row for one in judged])
    groups = {"task": [one.row.task for one in judged], "text": [one.row.text for one in judged]}
    return assemble(
        "grounding",
        grounding_statistics(own),
        rows=len(judged),
        data=[{**one.row.canonical(), "features": one.key} for one in judged],
        patients=patients,
        over=over,
        baselines=baselines,
        extra={"baseline_notes": {name: BASELINES[name] for name in baselines}},
        groups={name: labels for name, labels in groups.items() if len(set(labels)) > 1},
        resamples=cfg.report.resamples,
        confidence=cfg.report.confidence,
        seed=cfg.report.seed,
    )


def _patients(rows: Sequence[TruthRow]) -> tuple[list[str], str]:
    """Whom each row is of, slides standing for patients that are not known; and what these are.

    A TCGA barcode is the patient whatever the column says, as in `convert`.
    """
    known: dict[Path, str] = {}
    for row in rows:
        name = tcga_patient(row.store.stem) or row.patient_id
        if name:
            known.setdefault(row.store, name)
    slides = {row.store for row in rows}
    over = "patients" if len(known) == len(slides) else "slides"
    if 0 < len(known) < len(slides):
        over = "patients, and slides of which none is known"
    return [known.get(row.store, row.store.stem) for row in rows], over


def _written(
    out: Path, report: dict[str, Any], judged: Sequence[_Judged], outcomes: Sequence[SlideOutcome]
) -> Asked:
    rows = [
        {
            "slide": one.row.store.stem,
            "text": one.row.text,
            "method": one.method,
            "reference": str(one.row.reference),
            **{n: None if np.isnan(v) else v for n, v in asdict(one.own).items()},
            "auroc_of_other_text": (
                one.beside["other_text"].auroc if "other_text" in one.beside else None
            ),
        }
        for one in judged
    ]
    content = csv_text(list(rows[0]), rows).encode("utf-8", "backslashreplace")
    write_whole(out / "ground.csv", content)
    write_json(out / "ground.json", report)
    files = {"report": str(out / "ground.json"), "samples": str(out / "ground.csv")}
    return Asked(report, tuple(outcomes), files)
