"""The end of an evaluation of a model: scores with their intervals and what they stand beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from wsiprep.cli._asked import finish_asked, tell_left_out
from wsiprep.cli._console import print_json, stderr, stdout
from wsiprep.cli._progress import show_progress
from wsiprep.core.report import OnEvent

__all__ = ["run_evaluation"]


def run_evaluation(
    evaluate: Callable[[Any, OnEvent], Any], cfg: Any, parts: Callable[[dict[str, Any]], Any]
) -> None:
    """Evaluate, print, and exit with the code.

    Args:
        evaluate: The task; gives `results.Asked`.
        cfg: Its settings, with a section `report`.
        parts: From the report to (title, report of `metrics.report.assemble`) pairs.
    """
    from wsiprep.metrics.report import as_lines

    with show_progress(stderr()) as on_event:
        done = evaluate(cfg, on_event)
    json_ = cfg.report.json_
    if json_:
        print_json(done.report)
    else:
        for title, part in parts(done.report):
            for number, line in enumerate(as_lines(part)):
                text = f"{title}: {line}" if title and not number else line
                stdout().print(text, markup=False, highlight=False)
            stdout().print()
    tell_left_out(done.report, json_=json_)
    finish_asked(done, json_=json_)
    raise typer.Exit(done.exit_code)
