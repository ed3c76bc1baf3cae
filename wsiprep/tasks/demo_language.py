"""The language side from pixels to answers, on a synthetic cohort whose truth is known.

Slides are painted, segmented and embedded; an aligned model and a small assistant learn from the
training slides; what is told is measured on slides that neither has seen, whose combinations of
tissues no training slide has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsiprep.core.errors import SlideError
from wsiprep.core.report import OnEvent, OnStep
from wsiprep.synth.cohort import NAMES, CohortSlide, prompts
from wsiprep.tasks.ask import ask, caption
from wsiprep.tasks.ask_config import AskConfig, CaptionConfig
from wsiprep.tasks.demo_cohort import DemoFolder
from wsiprep.tasks.evaluate_align import evaluate_align
from wsiprep.tasks.evaluate_ground import evaluate_ground
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig, EvaluateGroundConfig
from wsiprep.tasks.evaluate_texts_config import EvaluateVqaConfig
from wsiprep.tasks.evaluate_vqa import evaluate_vqa
from wsiprep.tasks.ground import ground_slides
from wsiprep.tasks.results import Asked, write_json
from wsiprep.tasks.use_config import GroundConfig
from wsiprep.train.language.align import train_align
from wsiprep.train.language.assistant_config import AssistantTraining
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.instruct import train_assistant
from wsiprep.train.language.loop import STATE

__all__ = ["DemoResults", "judge_demo", "train_demo_align", "train_demo_assistant"]

RECIPE: Final = "demo"
QUESTION: Final = "What does most of the tissue show?"


@dataclass(frozen=True, slots=True)
class DemoResults:
    """What was measured on held-out slides.

    Attributes:
        report: Plain JSON types; `scores`, `beside` (chance, majority, blind) and examples.
        picture: Grounding picture.
        commands: The same by hand.
    """

    report: dict[str, Any]
    picture: str
    commands: tuple[str, ...]


def train_demo_align(
    demo: DemoFolder, on_step: OnStep = lambda _: None, *, changes: tuple[str, ...] = ()
) -> None:
    """Train the aligned model; goes on where a run was stopped.

    Args:
        demo: With stores and texts.
        on_step: Told of progress.
        changes: Of the recipe, as `--set`.

    Raises:
        WsiprepError: as `train_align`.
    """
    train_align(
        LanguageTraining(
            data=demo.captions, output=demo.aligned, stores=demo.stores, recipe=RECIPE, set=changes,
            resume=(demo.aligned / STATE).is_file(),
        ),
        on_step,
    )  # fmt: skip


def train_demo_assistant(
    demo: DemoFolder, on_step: OnStep = lambda _: None, *, changes: tuple[str, ...] = ()
) -> None:
    """Train the assistant on what the aligned model sees; arguments as of `train_demo_align`.

    Raises:
        WsiprepError: as `train_assistant`.
    """
    train_assistant(
        AssistantTraining(
            data=demo.talks, output=demo.assistant, stores=demo.stores, recipe=RECIPE, set=changes,
            start=demo.aligned, resume=(demo.assistant / STATE).is_file(),
        ),
        "instruct",
        on_step,
    )  # fmt: skip


def judge_demo(demo: DemoFolder, on_event: OnEvent = lambda _: None) -> DemoResults:
    """Measure both models on held-out slides; writes reports, a picture and demo.json.

    Raises:
        WsiprepError: a model, store or folder cannot be used.
    """
    out = demo.results
    alike = _whole(evaluate_align(_align_config(demo), on_event)).report
    found = _whole(evaluate_ground(_ground_config(demo), on_event)).report
    answered = evaluate_vqa(_vqa_config(demo), on_event).report["closed"]
    shown = _example(demo)
    stores = tuple(str(demo.store_path(slide)) for slide in demo.cohort.test)
    said = _whole(
        caption(CaptionConfig.of(slides=stores, model=demo.assistant, output=out), on_event)
    ).report["slides"]
    captions = {row["slide"]: row["captions"][0]["caption"] for row in said}
    store = str(demo.store_path(shown))
    reply = _whole(
        ask(
            AskConfig.of(slides=(store,), model=demo.assistant, output=out, question=(QUESTION,),
                         choice=tuple(NAMES.values())),
            on_event,
        )
    ).report["slides"][0]["answers"][0]["answer"]  # fmt: skip
    text = prompts(shown.lesser[0] if shown.lesser else shown.main)[0]
    picture = _whole(
        ground_slides(GroundConfig.of(slides=(store,), text=(text,), model=demo.aligned,
                                      output=out), on_event)
    ).report["slides"][0]["pictures"][0]  # fmt: skip
    grounding = next(iter(found["methods"].values()))
    report = {
        "slides": {"trained": demo.cohort.trained, "held_out": demo.cohort.tested},
        "scores": {
            "retrieval": alike["retrieval"]["scores"],
            "zero_shot": alike["zero_shot"]["scores"],
            "grounding": grounding["scores"],
            "answers": answered["scores"],
            "captions": _caption_scores(demo, captions),
        },
        "beside": {
            "retrieval": alike["retrieval"]["baselines"],
            "zero_shot": alike["zero_shot"]["baselines"],
            "grounding": grounding["baselines"],
            "answers": answered["baselines"],
        },
        "example": {
            "slide": shown.id,
            "caption_true": shown.caption,
            "caption": captions[shown.id],
            "question": QUESTION,
            "answer_true": NAMES[shown.main],
            "answer": reply,
            "grounded_text": text,
            "picture": picture,
        },
    }
    write_json(out / "demo.json", report)
    return DemoResults(report, picture, _commands(demo, store, text))


def _align_config(demo: DemoFolder) -> EvaluateAlignConfig:
    return EvaluateAlignConfig.of(
        data=demo.captions, stores=demo.stores, classes=str(demo.classes), model=demo.aligned,
        output=demo.results,
    )  # fmt: skip


def _ground_config(demo: DemoFolder) -> EvaluateGroundConfig:
    return EvaluateGroundConfig.of(
        truth=demo.truth, stores=demo.stores, model=demo.aligned, output=demo.results
    )


def _vqa_config(demo: DemoFolder) -> EvaluateVqaConfig:
    return EvaluateVqaConfig.of(
        data=demo.talks, stores=demo.stores, model=demo.assistant, output=demo.results
    )


def _whole(asked: Asked) -> Asked:
    """Refuse results in which a slide is missing."""
    for row in asked.rows:
        if row.status == "failed":
            raise SlideError(
                row.reason, slide=row.slide, stage=row.stage or None, hint=row.remedy or None
            )
    return asked


def _example(demo: DemoFolder) -> CohortSlide:
    """A test slide with as many kinds as there are."""
    return max(demo.cohort.test, key=lambda slide: len(slide.kinds))


def _caption_scores(demo: DemoFolder, captions: dict[str, str]) -> dict[str, dict[str, float]]:
    """Kinds that captions name: how many of the named are there, and of those there are named."""
    hits, named, there, whole = 0, 0, 0, []
    for slide in demo.cohort.test:
        said = captions[slide.id].casefold()
        kinds = {kind for kind, name in NAMES.items() if name in said}
        hits += len(kinds & set(slide.kinds))
        named += len(kinds)
        there += len(slide.kinds)
        whole.append(kinds == set(slide.kinds))
    return {
        "precision": {"value": hits / max(named, 1)},
        "recall": {"value": hits / there},
        "all_kinds_right": {"value": float(np.mean(whole))},
    }


def _commands(demo: DemoFolder, store: str, text: str) -> tuple[str, ...]:
    def shown(path: Path | str) -> str:
        return f"'{path}'" if " " in str(path) else str(path)

    where, model = shown(store), shown(demo.aligned)
    return (
        f"wsiprep ask {where} -m {shown(demo.assistant)}",
        f'wsiprep ground {where} -m {model} -t "{text}" -o {shown(demo.results)}',
        f"wsiprep retrieve {shown(demo.stores)} -m {model} -t "
        f'"Most of the tissue shows {NAMES["solid"]}." -o {shown(demo.results)}',
    )
