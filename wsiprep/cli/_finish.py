"""The end of a run: the closing table, or JSON, and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from wsiprep.cli._console import print_json, stderr
from wsiprep.cli._progress import COLOURS, show_progress
from wsiprep.core.report import NO_TISSUE_REMEDY, OnEvent, RunReport

__all__ = ["execute", "finish", "print_estimate"]

NARROW = 60
"""Columns below which failures are told in lines instead of a table."""

MAX_ROWS = 40
"""Rows of the closing table; failures and slides without tissue are always all shown."""

FEW = 5
"""Slides without tissue that are named below the table."""


def execute(cfg: Any) -> None:
    """Run the stages that `cfg` has settings for, or estimate them."""
    if cfg.run.dry_run:
        from wsiprep.tasks.estimate import estimate

        with show_progress(stderr()) as on_event:
            result = estimate(cfg, on_event)
        if cfg.run.json_:
            print_json(result.canonical())
        else:
            print_estimate(result)
        raise typer.Exit(1 if any(row.error for row in result.slides) else 0)

    from wsiprep.tasks.prepare import prepare

    def work(on_event: OnEvent) -> RunReport:
        return prepare(cfg, on_event)

    finish(work, json_=cfg.run.json_, log=str(cfg.run.output / "run.jsonl"))


def finish(
    work: Callable[[OnEvent], RunReport],
    *,
    json_: bool,
    log: str,
    then: Callable[[RunReport], None] = lambda _: None,
) -> None:
    """Show progress while `work` runs, then the report; call `then`; exit with the code."""
    with show_progress(stderr()) as on_event:
        report = work(on_event)
    if json_:
        print_json(report.canonical())
    else:
        _print_report(report, log)
    then(report)
    if report.problem is not None:
        raise report.problem
    raise typer.Exit(report.exit_code)


def _print_report(report: RunReport, log: str) -> None:
    console = stderr()
    if console.width < NARROW:
        for row in report.failed:
            console.print(escape(f"{row.slide}: {row.stage}: {row.reason} {row.remedy}"))
    table = Table(title=None, show_edge=False, pad_edge=False, header_style="bold")
    for column, justify in (
        ("slide", "left"),
        ("status", "left"),
        ("patches", "right"),
        ("mm²", "right"),
        ("s", "right"),
        ("what to know", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    bare = report.without_tissue
    loud = [row for row in report.rows if row.status == "failed" or row in bare]
    quiet = [row for row in report.rows if row not in loud]
    shown = loud + quiet[: max(0, MAX_ROWS - len(loud))]
    for row in sorted(shown, key=report.rows.index):
        what = row.reason
        if row.status == "failed":
            what = f"{row.stage}: {row.reason} {row.remedy}"
        elif row.bad_tiles:
            what = f"unreadable patches masked: {row.bad_tiles:,}"
        elif row.status == "empty" and row.notes:
            what = f"{row.reason}; {row.notes[-1]}"
        table.add_row(
            escape(row.slide),
            f"[{COLOURS[row.status]}]{row.status}[/]"
            if row not in bare
            else "[bold black on yellow]NO TISSUE[/]",
            str(row.patches) if row.patches else "",
            f"{row.tissue_mm2:.2f}" if row.tissue_mm2 else "",
            f"{row.seconds:.1f}",
            escape(what),
        )
    if report.rows and console.width >= NARROW:
        console.print(table)
    if len(shown) < len(report.rows):
        console.print(f"… and {len(report.rows) - len(shown)} more that need no look.")
    counts = [
        f"{sum(row.status == status for row in report.rows)} {status}"
        for status in COLOURS
        if any(row.status == status for row in report.rows)
    ]
    console.print(
        f"{', '.join(counts) or 'nothing done'} in {report.seconds:.1f} s; "
        f"details in {escape(log)}",
        highlight=False,
    )
    if bare:
        names = ", ".join(row.slide for row in bare[:FEW])
        more = f" and {len(bare) - FEW} more" if len(bare) > FEW else ""
        console.print(
            f"[bold black on yellow]NO TISSUE[/] on {len(bare)} of {len(report.rows)} slides: "
            f"{escape(names)}{more}. {escape(NO_TISSUE_REMEDY)}",
            highlight=False,
        )
    for line in report.profile.lines() if report.profile is not None else ():
        console.print(escape(line), highlight=False)
    if report.interrupted:
        console.print("Stopped before the end: run the same command again to resume.")


def print_estimate(result: Any) -> None:
    """Table of a dry run on stderr."""
    console = stderr()
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for column, justify in (
        ("slide", "left"),
        ("patches", "right"),
        ("mm²", "right"),
        ("time", "right"),
        ("features", "right"),
        ("plan", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in result.slides:
        table.add_row(
            escape(row.slide),
            str(row.patches),
            f"{row.tissue_mm2:.2f}",
            _duration(row.seconds),
            f"{row.bytes / 1e6:.1f} MB",
            escape(row.plan)
            if not row.error
            else f"[red]{escape(row.error)} {escape(row.remedy)}[/]",
        )
    console.print(table)
    totals = result.canonical()
    console.print(
        f"In all {totals['patches']:,} patches, about {_duration(totals['seconds'])} and "
        f"{totals['bytes'] / 1e6:,.1f} MB of features before compression. Nothing was written.",
        highlight=False,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
