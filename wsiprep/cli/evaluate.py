"""`wsiprep evaluate`."""

from __future__ import annotations

from typing import Any

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.cli._guard import guarded
from wsiprep.tasks.evaluate_config import EvaluateTissueConfig
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig, EvaluateGroundConfig
from wsiprep.tasks.evaluate_texts_config import EvaluateCaptionConfig, EvaluateVqaConfig

__all__ = ["app"]

app = typer.Typer(
    name="evaluate",
    help="Measure results against references.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EPILOG = (
    "Exit codes: 0 all done; 1 some slides failed, the rest done, or one that is needed lacks "
    "features; 2 usage; 3 environment; 130 interrupted (nothing was written); 70 a bug."
)


@settings_command(EvaluateTissueConfig)
def tissue(cfg: EvaluateTissueConfig) -> None:
    """Compare tissue with reference masks, segmenters side by side."""
    from wsiprep.cli._console import print_json, stderr
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.evaluate_tissue import evaluate_tissue

    with show_progress(stderr()) as on_event:
        done = evaluate_tissue(cfg, on_event)
    if cfg.report.json_:
        print_json(done.report)
    else:
        _print(done.report, str(cfg.report.output))
    for trace in done.traces:
        stderr().print(trace, markup=False, highlight=False)
    raise typer.Exit(done.exit_code)


@settings_command(EvaluateVqaConfig)
def vqa(cfg: EvaluateVqaConfig) -> None:
    """Compare answers to questions about slides with the right ones."""
    from wsiprep.cli._console import stderr
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.evaluate_vqa import evaluate_vqa

    with show_progress(stderr()) as on_event:
        done = evaluate_vqa(cfg, on_event)
    parts = [done.report[name] for name in ("closed", "open") if name in done.report]
    _print_texts(done, parts, json_=cfg.report.json_)


@settings_command(EvaluateCaptionConfig)
def caption(cfg: EvaluateCaptionConfig) -> None:
    """Compare captions of slides with those that people wrote."""
    from wsiprep.cli._console import stderr
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.evaluate_caption import evaluate_caption

    with show_progress(stderr()) as on_event:
        done = evaluate_caption(cfg, on_event)
    _print_texts(done, [done.report], json_=cfg.report.json_)


app.command("tissue", epilog=EPILOG)(guarded(tissue))
app.command("vqa", epilog=EPILOG)(guarded(vqa))
app.command("caption", epilog=EPILOG)(guarded(caption))


def _print_texts(done: Any, parts: list[dict[str, Any]], *, json_: bool) -> None:
    from wsiprep.cli._asked import tell_left_out
    from wsiprep.cli._console import print_json, stderr, stdout
    from wsiprep.metrics.report import as_lines

    if json_:
        print_json(done.report)
    for part in () if json_ else parts:
        for line in as_lines(part):
            stdout().print(line, markup=False, highlight=False)
    tell_left_out(done.report, json_=json_)
    console = stderr() if json_ else stdout()
    for what, path in done.files.items():
        console.print(f"{what:9} {path}", markup=False, highlight=False)


@settings_command(EvaluateAlignConfig)
def align(cfg: EvaluateAlignConfig) -> None:
    """Retrieval and zero-shot classes of an aligned model, beside chance and a blind model."""
    from wsiprep.cli._evaluated import run_evaluation
    from wsiprep.tasks.evaluate_align import evaluate_align

    names = ("retrieval", "zero_shot", "class_retrieval")
    run_evaluation(evaluate_align, cfg, lambda r: [("", r[name]) for name in names if name in r])


app.command("align", epilog=EPILOG)(guarded(align))


@settings_command(EvaluateGroundConfig)
def ground(cfg: EvaluateGroundConfig) -> None:
    """Heat maps of texts against outlines of what they name."""
    from wsiprep.cli._evaluated import run_evaluation
    from wsiprep.tasks.evaluate_ground import evaluate_ground

    run_evaluation(evaluate_ground, cfg, lambda r: r["methods"].items())


app.command("ground", epilog=EPILOG)(guarded(ground))


def _print(report: dict[str, Any], output: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from wsiprep.cli._console import stdout

    level = f"{100 * report['confidence']:g} %"
    with_pen = any("pen_recall" in one["mean"] for one in report["segmenters"])
    with_failed = any(one["failed"] for one in report["segmenters"])
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("segmenter", overflow="fold")
    for column in (
        "slides",
        *(["failed"] if with_failed else []),
        f"IoU [{level}]",
        "Dice",
        "precision",
        "recall",
        "boundary µm",
        "area error",
        "lost mm²",
        "kept mm²",
        *(["pen recall", "pen precision"] if with_pen else []),
        "s/slide",
    ):
        table.add_column(column, justify="right")
    for one in report["segmenters"]:
        mean, seconds = one["mean"], one["seconds"]
        pooled = one["pooled"]
        table.add_row(
            escape(one["segmenter"]),
            str(one["slides"]),
            *([f"[red]{one['failed']}[/]" if one["failed"] else ""] if with_failed else []),
            _interval(mean.get("iou")),
            *(_number(mean.get(name), 3) for name in ("dice", "precision", "recall")),
            _number(mean.get("boundary_um"), 1),
            _number(mean.get("area_error"), 3, sign="+"),
            *(_number(pooled.get(name), 2) for name in ("lost_mm2", "kept_mm2")),
            *([_number(mean.get(f"pen_{n}"), 3) for n in ("recall", "precision")] if with_pen
              else []),
            f"{seconds['median']:.2f}" if seconds else "-",
        )  # fmt: skip
    stdout().print(table)
    for one in report["differences"]:
        if "iou" in one["mean"]:
            what = f"{one['segmenter']} - {one['minus']}"
            stdout().print(
                f"{escape(what)}: IoU {_interval(one['mean']['iou'], sign='+')}", highlight=False
            )
    stdout().print(
        "Means over slides; lost and kept are sums; seconds are medians. Intervals of all, pooled "
        f"numbers, every slide and the worst as pictures: {escape(output)}",
        highlight=False,
    )


def _number(value: dict[str, Any] | None, digits: int, sign: str = "") -> str:
    if value is None or value["value"] is None:
        return "-"
    return f"{value['value']:{sign}.{digits}f}"


def _interval(value: dict[str, Any] | None, sign: str = "") -> str:
    if value is None or value["value"] is None:
        return "-"
    text = f"{value['value']:{sign}.3f}"
    if value["low"] is not None:
        text += f" \\[{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"
    return text
