"""The end of a command that uses a model: files written, slides that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from wsiprep.cli._console import stderr, stdout

__all__ = ["finish_asked", "tell_left_out"]


def finish_asked(done: Any, *, json_: bool) -> None:
    """Say where results are and which slides failed; on stderr beside JSON."""
    console = stderr() if json_ else stdout()
    for what, path in done.files.items():
        console.print(f"{what:9} {path}", markup=False, highlight=False)
    for row in done.rows:
        if row.status == "failed":
            text = f"{row.slide}: {row.reason} {row.remedy}".rstrip()
            stderr().print(f"[bold red]failed[/] {escape(text)}", highlight=False)


def tell_left_out(report: Mapping[str, Any], *, json_: bool) -> None:
    """Say which samples were left out, of a report that tells; on stderr beside JSON."""
    from wsiprep.train.language.left_out import left_out_lines

    console = stderr() if json_ else stdout()
    for line in left_out_lines(report["left_out"]) if "left_out" in report else ():
        console.print(line, markup=False, highlight=False)
