"""How well slides and texts find each other, on samples a model was not trained on.

retrieval        slides look for their caption, captions for their slide; where there are captions
zero_shot        classes given in words; where samples have labels and --classes says the words
class_retrieval  slides look for slides of their class, those of other patients; where samples have
                 labels

Each beside chance, the commonest first (caption or class: majority), and the same model blind: with
the mean of all slides in place of every slide that is asked about, which leaves what can be had
from the texts, or from the slides that are searched, alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import ConfigError, ManifestError, SlideError
from wsiprep.core.report import OnEvent
from wsiprep.metrics.bootstrap import Statistic, mean_of
from wsiprep.metrics.ranking import average_precision
from wsiprep.metrics.report import assemble
from wsiprep.metrics.retrieval import Retrieval, retrieve, retrieve_commonest
from wsiprep.metrics.zero_shot import ZeroShot, score_classes
from wsiprep.models.aligned import Aligned
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.asked_model import AskedModel, load_model
from wsiprep.tasks.classify import score_patches, score_slide
from wsiprep.tasks.embedded import EmbeddedSlide, visit
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig, LanguageReport
from wsiprep.tasks.evaluated import Case, cases_of, read_features, samples_of
from wsiprep.tasks.prompts import ClassPrompts, class_vectors, read_classes
from wsiprep.tasks.results import Asked, csv_text, failures, write_json
from wsiprep.train.language.align import caption_of
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import patients_of
from wsiprep.train.language.stores import case_name

__all__ = ["evaluate_align"]

TEXTS_AT_ONCE: Final = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A case that was shown to the model.

    Attributes:
        case: Its sample.
        vector: float64 (d,), of length 1.
        classes: float64 (C,), scores of classes, or None.
        keys: Identity of its features.
    """

    case: Case
    vector: Floats
    classes: Floats | None
    keys: tuple[str, ...]


def evaluate_align(cfg: EvaluateAlignConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Evaluate an aligned model; writes align.json and align.csv.

    Raises:
        UsageError: the samples say nothing that could be evaluated; nothing was written.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
        MissingStageError: slides have no store or no features, and may not be missing.
        SlideError: not one slide could be shown to the model.
    """
    classes = None
    if cfg.tasks.classes is not None:
        classes = read_classes(cfg.tasks.classes, cfg.tasks.templates)
    elif cfg.tasks.templates is not None:
        raise ConfigError("--templates is for --classes, and there are none.")
    samples = samples_of(cfg.samples)
    _check_something_said(samples, classes)
    check_writable(cfg.report.output)
    asked = load_model(cfg.model)
    cases, left = cases_of(samples, cfg.samples, asked.checkpoint.features)
    seen, outcomes = _show(asked, cases, classes, cfg.tasks.mode, on_event)
    if not seen:
        raise SlideError(
            "not one slide could be shown to the model.", hint=outcomes[0].reason or None
        )
    # Over all samples, failed ones too: who is whose does not depend on what could be read.
    whose = dict(zip((one.id for one in samples), patients_of(samples), strict=True))
    table: dict[str, dict[str, Any]] = {
        one.case.sample.id: {
            "sample": one.case.sample.id,
            "patient": whose[one.case.sample.id],
            "task": one.case.sample.task,
            "label": one.case.sample.label,
        }
        for one in seen
    }
    parts: dict[str, Any] = {}
    said = [one for one in seen if caption_of(one.case.sample)]
    if said:
        parts["retrieval"] = _retrieval(asked.checkpoint.model, said, whose, table, cfg.report)
    if classes is not None:
        parts["zero_shot"] = _zero_shot(seen, whose, classes, table, cfg)
    labelled = [one for one in seen if one.case.sample.label]
    if len({one.case.sample.label for one in labelled}) > 1:
        found = _class_retrieval(labelled, whose, table, cfg.report)
        parts |= {} if found is None else {"class_retrieval": found}
    report = {
        **asked.provenance(),
        "task": "evaluate align",
        "data": str(cfg.samples.data),
        "split": cfg.samples.split,
        **parts,
        "left_out": left.canonical(),
        "failed": failures(outcomes),
    }
    out = cfg.report.output
    rows = list(table.values())
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_whole(out / "align.csv", csv_text(columns, rows).encode("utf-8", "backslashreplace"))
    write_json(out / "align.json", report)
    files = {"report": str(out / "align.json"), "samples": str(out / "align.csv")}
    return Asked(report, tuple(outcomes), files)


def _check_something_said(samples: Sequence[Sample], classes: ClassPrompts | None) -> None:
    labels = {one.label for one in samples} - {""}
    if classes is not None and not labels & set(classes.names):
        raise ManifestError(
            f"no label of the samples is among the classes {', '.join(classes.names)}.",
            hint=f"Labels there are: {', '.join(sorted(labels)[:8]) or 'none'}.",
        )
    if not labels and not any(caption_of(one) for one in samples):
        raise ManifestError(
            "no sample has a caption or a label.", hint="`evaluate vqa` is for questions."
        )


def _show(
    asked: AskedModel,
    cases: Sequence[Case],
    classes: ClassPrompts | None,
    mode: str,
    on_event: OnEvent,
) -> tuple[list[_Seen], list[Any]]:
    """Every case as the model sees it; samples of the same slides share the work."""
    model = asked.checkpoint.model
    vectors = None if classes is None else class_vectors(model, classes)
    score = score_slide if mode == "slide" else score_patches
    by_id = {case.sample.id: case for case in cases}
    done: dict[tuple[Any, ...], _Seen] = {}
    seen: list[_Seen] = []

    def one(slide: EmbeddedSlide) -> str:
        case = by_id[slide.id]
        if case.stores not in done:
            read = read_features(case, asked.checkpoint.features)
            bags = asked.show(read.bag, case_name(case.stores))
            scores = None if vectors is None else score(model, bags, vectors).score
            vector = model.embed_slides(bags)[0].cpu().double().numpy()
            done[case.stores] = _Seen(case, vector, scores, read.keys)
        same = done[case.stores]
        seen.append(_Seen(case, same.vector, same.classes, same.keys))
        return ""

    return seen, visit([case.slide for case in cases], one, on_event)


def _retrieval(
    model: Aligned,
    said: Sequence[_Seen],
    whose: Mapping[str, str],
    table: dict[str, dict[str, Any]],
    cfg: LanguageReport,
) -> dict[str, Any]:
    captions = [caption_of(one.case.sample) for one in said]
    texts = np.concatenate(
        [
            model.embed_texts(captions[i : i + TEXTS_AT_ONCE]).cpu().double().numpy()
            for i in range(0, len(captions), TEXTS_AT_ONCE)
        ]
    )
    slides = np.stack([one.vector for one in said])
    found = retrieve(slides @ texts.T, captions)
    blind = retrieve(np.broadcast_to(slides.mean(axis=0) @ texts.T, (len(said),) * 2), captions)
    for number, one in enumerate(said):
        table[one.case.sample.id] |= {
            "rank_of_text": float(found.to_text.rank[number]),
            "rank_of_slide": float(found.to_slide.rank[number]),
        }
    return _report(
        "retrieval",
        found.statistics(),
        said,
        whose,
        cfg,
        baselines={
            "chance": found.chances(),
            "majority": retrieve_commonest(captions).statistics(),
            "blind": blind.statistics(),
        },
        extra=_galleries(found, said),
    )


def _galleries(found: Retrieval, said: Sequence[_Seen]) -> dict[str, Any]:
    return {
        "gallery": {"texts": found.to_text.gallery, "slides": found.to_slide.gallery},
        "duplicate_captions": found.duplicates,
        "samples_of_repeated_slides": len(said) - len({one.case.stores for one in said}),
    }


def _zero_shot(
    seen: Sequence[_Seen],
    whose: Mapping[str, str],
    classes: ClassPrompts,
    table: dict[str, dict[str, Any]],
    cfg: EvaluateAlignConfig,
) -> dict[str, Any]:
    number = {name: n for n, name in enumerate(classes.names)}
    known = [one for one in seen if one.case.sample.label in number and one.classes is not None]
    if not known:
        raise SlideError("no slide with a label of these classes could be shown to the model.")
    scores = np.stack([one.classes for one in known if one.classes is not None])
    labels = np.array([number[one.case.sample.label] for one in known])
    found = score_classes(scores, labels, classes.names, ordinal=classes.ordinal)
    mean = np.broadcast_to(scores.mean(axis=0), scores.shape)
    blind = score_classes(mean, labels, classes.names, ordinal=classes.ordinal)
    for one, row, best in zip(known, scores, found.predicted, strict=True):
        table[one.case.sample.id] |= {
            "predicted": classes.names[best],
            **{f"score {name}": float(v) for name, v in zip(classes.names, row, strict=True)},
        }
    others = [one for one in seen if one.case.sample.label and one.case.sample.label not in number]
    return _report(
        "zero_shot",
        found.statistics(),
        known,
        whose,
        cfg.report,
        baselines={"majority": found.majority_statistics(), "blind": blind.statistics()},
        extra={
            **_confusion(found),
            "mode": cfg.tasks.mode,
            "prompts": classes.canonical(),
            "left_out_other_labels": len(others),
        },
    )


def _confusion(found: ZeroShot) -> dict[str, Any]:
    return {
        "majority_class": found.majority,
        "confusion": found.confusion.tolist(),
        "auroc_by_class": found.auroc_by_class,
    }


def _class_retrieval(
    labelled: Sequence[_Seen],
    whose: Mapping[str, str],
    table: dict[str, dict[str, Any]],
    cfg: LanguageReport,
) -> dict[str, Any] | None:
    """Slides of other patients, nearest first: average precision; None where none can be had."""
    vectors = np.stack([one.vector for one in labelled])
    patients = np.array([whose[one.case.sample.id] for one in labelled])
    labels = np.array([one.case.sample.label for one in labelled])
    near = vectors @ vectors.T
    middle = vectors @ vectors.mean(axis=0)
    precision, chance, common, blind = np.full((4, len(labelled)), np.nan)
    for row, one in enumerate(labelled):
        others = patients != patients[row]
        wanted = labels[others] == labels[row]
        if wanted.any():
            precision[row] = average_precision(near[row][others], wanted)
            chance[row] = wanted.mean()
            counts = Counter(labels[others].tolist())
            often = np.array([counts[label] for label in labels[others].tolist()], np.float64)
            common[row] = average_precision(often, wanted)
            blind[row] = average_precision(middle[others], wanted)
            table[one.case.sample.id]["average_precision"] = float(precision[row])
    if not np.isfinite(precision).any():
        return None
    name = "mean_average_precision"
    return _report(
        "class_retrieval",
        {name: mean_of(precision)},
        labelled,
        whose,
        cfg,
        baselines={
            "chance": {name: mean_of(chance)},
            "majority": {name: mean_of(common)},
            "blind": {name: mean_of(blind)},
        },
        extra={"queries_without_others": int(np.isnan(precision).sum())},
    )


def _report(
    task: str,
    statistics: Mapping[str, Statistic],
    rows: Sequence[_Seen],
    whose: Mapping[str, str],
    cfg: LanguageReport,
    *,
    baselines: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    tasks = [one.case.sample.task for one in rows]
    return assemble(
        task,
        statistics,
        rows=len(rows),
        data=[{**one.case.sample.canonical(), "features": list(one.keys)} for one in rows],
        patients=[whose[one.case.sample.id] for one in rows],
        baselines=baselines,
        groups={"task": tasks} if len(set(tasks)) > 1 else None,
        extra=extra,
        resamples=cfg.resamples,
        confidence=cfg.confidence,
        seed=cfg.seed,
    )
