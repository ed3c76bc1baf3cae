"""`wsiprep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wsiprep.tasks.demo_language import DemoResults

__all__ = ["command"]


def command(
    slide: Annotated[
        Path | None,
        typer.Argument(help="A slide of your own; without one a synthetic H&E slide is made."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.")] = Path(
        "wsiprep-demo"
    ),
    language: Annotated[
        bool,
        typer.Option(
            "--language",
            help="Make a cohort of synthetic slides, train a slide-language model on it, and "
            "measure it on slides it has not seen: some six minutes.",
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="With --language: of the cohort, 0 if not given."),
    ] = None,
) -> None:
    """Run everything once, with the embedded encoder: no hub, no account, no GPU."""
    if language:
        _language(slide, output, seed or 0)
        return
    if seed is not None:
        from wsiprep.core.errors import ConfigError

        raise ConfigError("--seed is of the cohort of --language.", hint="Add --language.")
    from wsiprep.cli._console import stdout
    from wsiprep.cli._finish import finish
    from wsiprep.core.report import OnEvent, RunReport
    from wsiprep.tasks.demo import demo

    def work(on_event: OnEvent) -> RunReport:
        return demo(slide, output, on_event)

    def say_where(report: RunReport) -> None:
        for row in report.rows:
            for name, path in (
                ("feature grid", row.store),
                ("overlay", row.overlay),
                ("GeoJSON", row.geojson),
            ):
                if path:
                    stdout().print(f"{name:13} {path}", markup=False, highlight=False)

    finish(work, json_=False, log=str(output / "run.jsonl"), then=say_where)


def _language(slide: Path | None, output: Path, seed: int) -> None:
    from wsiprep.cli._console import stderr
    from wsiprep.cli._progress import show_progress
    from wsiprep.cli._steps import show_steps
    from wsiprep.core.errors import ConfigError
    from wsiprep.synth.cohort import Cohort
    from wsiprep.tasks.demo_cohort import DemoFolder, make_stores, write_texts
    from wsiprep.tasks.demo_language import judge_demo, train_demo_align, train_demo_assistant

    if slide is not None:
        raise ConfigError(
            "--language makes its own slides, whose tissue is known.",
            hint="Leave the slide out, or --language.",
        )
    demo = DemoFolder(output, Cohort(seed))

    def begin(what: str) -> None:
        stderr().rule(what)

    begin("1 of 4: slides to feature grids")
    with show_progress(stderr()) as on_event:
        make_stores(demo, on_event)
    write_texts(demo)
    begin("2 of 4: slides and captions into one space")
    with show_steps(stderr()) as on_step:
        train_demo_align(demo, on_step)
    begin("3 of 4: captions and answers")
    with show_steps(stderr()) as on_step:
        train_demo_assistant(demo, on_step)
    begin("4 of 4: slides not trained on")
    with show_progress(stderr()) as on_event:
        results = judge_demo(demo, on_event)
    _tell(results)


def _tell(results: DemoResults) -> None:
    from wsiprep.cli._console import stdout

    def say(line: str = "") -> None:
        stdout().print(line, markup=False, highlight=False, soft_wrap=True)

    report = results.report
    scores, beside = report["scores"], report["beside"]
    counts = report["slides"]
    say(
        f"Measured on {counts['held_out']} slides whose combinations of tissues none of the "
        f"{counts['trained']} training slides has:"
    )
    retrieval, chance = scores["retrieval"], beside["retrieval"]["chance"]
    ways = {"slide_to_text": "caption of a slide", "text_to_slide": "slide of a caption"}
    for way, what in ways.items():
        for depth in (1, 5):
            name = f"{way}_r_at_{depth}"
            say(_line(f"{what}, first {depth}", retrieval[name], chance=chance[name]))
    shot, majority = scores["zero_shot"], beside["zero_shot"]["majority"]
    say(_line("main tissue, zero-shot", shot["accuracy"], commonest=majority["accuracy"]))
    ground, by_chance = scores["grounding"], beside["grounding"]["chance"]
    say(_line("named tissue, AUROC", ground["auroc"], chance=by_chance["auroc"]))
    say(_line("named tissue, highest patch", ground["pointing"], chance=by_chance["pointing"]))
    answers, others = scores["answers"], beside["answers"]
    name = "exact_match"
    said = {"blind": others["blind"][name], "commonest": others["majority"][name]}
    say(_line("answers that are right", answers[name], **said))
    for task, found in report["answers_by_task"].items():
        say(_line(f"  of {found['n']} on {task}", found[name]))
    captions = scores["captions"]
    say(_line("tissues that captions name", captions["recall"]))
    say(_line("tissues named that are there", captions["precision"]))
    example = report["example"]
    say()
    say(f"{example['slide']}: {example['caption_true']}")
    say(f"  caption  {example['caption']}")
    say(f"  answer   {example['question']} {example['answer']} (true: {example['answer_true']})")
    for text, path in example["pictures"].items():
        say(f"  where    {text} {path}")
    say()
    say("Go on by yourself:")
    for line in results.commands:
        say(f"  {line}")


def _line(what: str, found: dict[str, Any], **beside: dict[str, Any]) -> str:
    """A number with its interval, and what it stands beside."""
    value = f"{found['value']:.3f}"
    if found.get("low") is not None:
        value += f" [{found['low']:.3f}, {found['high']:.3f}]"
    others = ", ".join(f"{name} {other['value']:.3f}" for name, other in beside.items())
    return f"  {what:<32} {value:<22}" + (f" ({others})" if others else "")
