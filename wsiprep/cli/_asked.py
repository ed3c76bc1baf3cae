"""The end of a command that uses a model: files written, slides that failed."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from wsiprep.cli._console import stderr, stdout

__all__ = ["finish_asked"]


def finish_asked(done: Any, *, json_: bool) -> None:
    """Say where results are and which slides failed; on stderr beside JSON."""
    console = stderr() if json_ else stdout()
    for what, path in done.files.items():
        console.print(f"{what:9} {path}", markup=False, highlight=False)
    for row in done.rows:
        if row.status == "failed":
            text = f"{row.slide}: {row.reason} {row.remedy}".rstrip()
            stderr().print(f"[bold red]failed[/] {escape(text)}", highlight=False)
