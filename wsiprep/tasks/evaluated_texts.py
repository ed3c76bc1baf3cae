"""What the evaluations of answers and captions share: samples, cases, batches, judges, reports."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.core.report import Event, OnEvent
from wsiprep.metrics.bootstrap import Statistic
from wsiprep.metrics.claims import ClaimReport, Item, judge_items
from wsiprep.metrics.judge import CachedJudge, Judge
from wsiprep.metrics.judges import registry as judges
from wsiprep.metrics.report import assemble
from wsiprep.models.language.templates import Turn
from wsiprep.models.sampling import SHOWN_SEED, generator_for
from wsiprep.tasks.asked_assistant import AskedAssistant
from wsiprep.tasks.evaluate_texts_config import (
    EvaluateCaptionConfig,
    EvaluateVqaConfig,
    JudgeConfig,
    SamplesConfig,
)
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.splits import patients_of

__all__ = [
    "TextEvaluation",
    "answer_all",
    "case_runs",
    "chosen",
    "judged",
    "make_judge",
    "open_cases",
    "report_of",
]

DRAWN = "samples of an evaluation"


@dataclass(frozen=True, slots=True)
class TextEvaluation:
    """How an evaluation ended.

    Attributes:
        report: Plain JSON types.
        files: What was written, by what it is.
    """

    report: dict[str, Any]
    files: dict[str, str]


def chosen(
    cfg: SamplesConfig, seed: int, fits: Callable[[Sample], bool], what: str
) -> list[Sample]:
    """Samples of a manifest to evaluate on, in its order.

    Args:
        cfg: Which.
        seed: Of the draw, where there are more than wanted.
        fits: Whether a sample can be evaluated on.
        what: What such samples have, for the message.

    Raises:
        ManifestError: none fits.
    """
    every = read_manifest(cfg.data)
    if cfg.split != "all" and any(one.split for one in every):
        every = [one for one in every if one.split == cfg.split]
    found = [one for one in every if fits(one) and (not cfg.tasks or one.task in cfg.tasks)]
    if not found:
        of = f" of split {cfg.split}" if cfg.split != "all" else ""
        raise ManifestError(
            f"{cfg.data} has no sample{of} with {what}.",
            hint="Choose others by --split and --task.",
        )
    if cfg.most is not None and len(found) > cfg.most:
        drawn = torch.randperm(len(found), generator=generator_for(seed, 0, DRAWN))
        found = [found[row] for row in sorted(drawn[: cfg.most].tolist())]
    return found


def open_cases(asked: AskedAssistant, samples: Sequence[Sample], cfg: SamplesConfig) -> Cases:
    """The samples' stores, opened and held against what the model takes; fewer may be left.

    Raises:
        MissingStageError: slides have no store or no features, and may not be missing.
        SlideError: no slide has a patch with features.
        StoreMismatchError: features were not made as the model's.
    """
    (cases,) = Cases.of_splits(
        [samples], cfg.stores, asked.sampling, expect=asked.checkpoint.features,
        seed=SHOWN_SEED, grid=cfg.features_grid, encoder=cfg.features_encoder,
        skip_missing=cfg.skip_missing,
    )  # fmt: skip
    return cases


def case_runs(asked: AskedAssistant, cases: Cases, on_event: OnEvent) -> Iterator[
    tuple[list[int], Tensor]
]:  # fmt: skip
    """Rows of the samples of each case, and what the model is shown of it; each is read once."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, one in enumerate(cases.samples):
        rows.setdefault(one.slides, []).append(row)
    on_event(Event("run", total=len(rows)))
    for slides, members in rows.items():
        yield members, asked.look(cases.bag(members[0], 0))
        on_event(Event("outcome", slide=" + ".join(slides)))


def answer_all(
    asked: AskedAssistant, shown: Tensor, talks: Sequence[Sequence[Turn]], names: Sequence[str],
    batch_size: int, generator: torch.Generator,
) -> list[str]:  # fmt: skip
    """Answers to questions about one case, batch by batch."""
    answers: list[str] = []
    for first in range(0, len(talks), batch_size):
        rows = slice(first, first + batch_size)
        part = list(talks[rows])
        answers += asked.checkpoint.model.answer(
            [shown] * len(part), part, asked.decoding, generator=generator, names=names[rows]
        )
    return answers


def make_judge(cfg: JudgeConfig, output: Path) -> Judge | None:
    """The judge of a command, with its cache; None for `none`.

    Raises:
        UnknownPluginError, PluginUnavailableError, WeightsError: it cannot be had.
        ConfigError: an option is wrong.
    """
    if cfg.judge == "none":
        return None
    module = judges.load(cfg.judge)
    kind: type[Settings] = module.Config
    values: dict[str, str] = {}
    known = ", ".join(sorted(kind.model_fields)) or "none"
    for text in cfg.judge_option:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in kind.model_fields or name in values:
            raise ConfigError(
                f"--judge-option '{text}' cannot be used.",
                hint=f"Write KEY=VALUE, each once; options of '{cfg.judge}': {known}.",
            )
        values[name] = value.strip()
    try:
        judge: Judge = module.create(kind.model_validate(values))
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"--judge-option {place}: {first['msg'].removeprefix('Value error, ')}.",
            hint=f"Options of '{cfg.judge}': {known}.",
        ) from err
    if cfg.judge == "offline" and cfg.judge_cache is None:
        return judge  # rules are quicker than files
    return CachedJudge(judge, cfg.judge_cache or output / "judge")


def judged(
    judge: Judge | None, samples: Sequence[Sample], questions: Sequence[str],
    references: Sequence[str], responses: Sequence[str],
) -> ClaimReport | None:  # fmt: skip
    """WSI-Precision and WSI-Relevance of responses; None without a judge.

    Raises:
        EnvironmentProblem: the judge cannot be asked.
    """
    if judge is None:
        return None
    rows = zip(samples, questions, references, responses, strict=True)
    return judge_items(
        judge, [Item(one.id, asked, true, said, one.task) for one, asked, true, said in rows]
    )


def report_of(
    task: str,
    cfg: EvaluateVqaConfig | EvaluateCaptionConfig,
    asked: AskedAssistant,
    samples: Sequence[Sample],
    statistics: Mapping[str, Statistic],
    baselines: Mapping[str, Mapping[str, Statistic | float]],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """A report with its hash, baselines and intervals; see `metrics.report.assemble`."""
    whose: list[Hashable] = list(patients_of(samples))
    features = asked.checkpoint.features.canonical()
    known = sum(bool(one.patient_id or one.case_id) for one in samples)
    return assemble(
        task,
        statistics,
        rows=len(samples),
        data=[{"sample": one.canonical(), "features": features} for one in samples],
        patients=whose,
        baselines=baselines,
        groups={"task": [one.task for one in samples]} if any(s.task for s in samples) else None,
        extra={
            # Where a manifest names no patients, slides stand for them.
            "patients_named": known,
            **extra,
        },
        resamples=cfg.report.resamples,
        confidence=cfg.report.confidence,
        seed=cfg.answers.seed,
    )
