"""The language side from pixels to answers, on a synthetic cohort whose truth is known.

Slides are painted, segmented and embedded; an aligned model and a small assistant learn from the
training slides; what is told is measured on slides that neither has seen, whose combinations of
tissues no training slide has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wsiprep.core.errors import SlideError
from wsiprep.core.report import OnEvent, OnStep
from wsiprep.synth.captions import MAIN_QUESTION, NAMES, prompts
from wsiprep.synth.cohort import CohortSlide
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
METHOD: Final = "cosine"
"""Of grounding: orders patches as attention does, and tints all of a tissue alike."""


@dataclass(frozen=True, slots=True)
class DemoResults:
    """What was measured on held-out slides.

    Attributes:
        report: Plain JSON types; `scores`, `beside` (chance, majority, blind) and examples.
        commands: What to do next with the models, as a shell takes it.
    """

    report: dict[str, Any]
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
    """Measure both models on held-out slides; writes reports, pictures and demo.json.

    Raises:
        WsiprepError: a model, store or folder cannot be used.
    """
    shown = max(demo.cohort.test, key=lambda slide: len(slide.kinds))
    alike = _whole(evaluate_align(_align_config(demo), on_event)).report
    found = _whole(evaluate_ground(_ground_config(demo), on_event)).report["methods"][METHOD]
    answered = evaluate_vqa(_vqa_config(demo), on_event).report["open"]
    captions = _captions(demo, on_event)
    parts = {
        "retrieval": alike["retrieval"],
        "zero_shot": alike["zero_shot"],
        "grounding": found,
        "answers": answered,
    }
    report = {
        "slides": {"trained": demo.cohort.trained, "held_out": demo.cohort.tested},
        "scores": {
            **{name: part["scores"] for name, part in parts.items()},
            "captions": _caption_scores(demo, captions),
        },
        "answers_by_task": answered["by_group"]["task"],
        "beside": {name: part["baselines"] for name, part in parts.items()},
        "example": {
            "slide": shown.id,
            "caption_true": shown.caption,
            "caption": captions[shown.id],
            "question": MAIN_QUESTION,
            "answer_true": NAMES[shown.main],
            "answer": _answer(demo, shown, on_event),
            "pictures": _pictures(demo, shown, on_event),
        },
    }
    write_json(demo.results / "demo.json", report)
    return DemoResults(report, _commands(demo, shown))


def _captions(demo: DemoFolder, on_event: OnEvent) -> dict[str, str]:
    """What the assistant says of each test slide."""
    stores = tuple(str(demo.store_path(slide)) for slide in demo.cohort.test)
    cfg = CaptionConfig.of(slides=stores, model=demo.assistant, output=demo.results)
    rows = _whole(caption(cfg, on_event)).report["slides"]
    return {row["slide"]: row["captions"][0]["caption"] for row in rows}


def _answer(demo: DemoFolder, slide: CohortSlide, on_event: OnEvent) -> str:
    cfg = AskConfig.of(
        slides=(str(demo.store_path(slide)),), model=demo.assistant, question=(MAIN_QUESTION,)
    )  # fmt: skip
    answer: str = _whole(ask(cfg, on_event)).report["slides"][0]["answers"][0]["answer"]
    return answer


def _pictures(demo: DemoFolder, slide: CohortSlide, on_event: OnEvent) -> dict[str, str]:
    """Where each kind of a slide is found: text to picture."""
    texts = tuple(prompts(kind)[0] for kind in slide.kinds)
    cfg = GroundConfig.of(
        slides=(str(demo.store_path(slide)),), text=texts, model=demo.aligned, method=METHOD,
        output=demo.results,
    )  # fmt: skip
    row = _whole(ground_slides(cfg, on_event)).report["slides"][0]
    return dict(zip(texts, row["pictures"], strict=True))


def _align_config(demo: DemoFolder) -> EvaluateAlignConfig:
    return EvaluateAlignConfig.of(
        data=demo.captions, stores=demo.stores, classes=str(demo.classes), model=demo.aligned,
        output=demo.results,
    )  # fmt: skip


def _ground_config(demo: DemoFolder) -> EvaluateGroundConfig:
    return EvaluateGroundConfig.of(
        truth=demo.truth, stores=demo.stores, model=demo.aligned, output=demo.results,
        method=(METHOD,),
    )  # fmt: skip


def _vqa_config(demo: DemoFolder) -> EvaluateVqaConfig:
    return EvaluateVqaConfig.of(
        data=demo.talks,
        stores=demo.stores,
        model=demo.assistant,
        output=demo.results / "vqa",
        judge="none",
    )


def _whole(asked: Asked) -> Asked:
    """Refuse results in which a slide is missing."""
    for row in asked.rows:
        if row.status == "failed":
            raise SlideError(
                row.reason, slide=row.slide, stage=row.stage or None, hint=row.remedy or None
            )
    return asked


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
        "all_kinds_right": {"value": sum(whole) / len(whole)},
    }


def _commands(demo: DemoFolder, slide: CohortSlide) -> tuple[str, ...]:
    def shown(path: Path) -> str:
        return f"'{path}'" if " " in str(path) else str(path)

    store, out = shown(demo.store_path(slide)), shown(demo.results)
    model = shown(demo.aligned)
    text = prompts(slide.kinds[-1])[0]
    wanted = prompts("solid")[1]
    return (
        f"wsiprep ask {store} -m {shown(demo.assistant)}",
        f'wsiprep ground {store} -m {model} -t "{text}" --method {METHOD} -o {out}',
        f'wsiprep retrieve {shown(demo.stores)} -m {model} -t "{wanted}" -o {out}',
    )
