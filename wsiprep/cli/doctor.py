"""`wsiprep doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also try this output folder.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check what this machine can do. Exit 3 if something that is needed is missing."""
    from dataclasses import asdict

    from rich.markup import escape

    from wsiprep.cli._console import print_json, stdout
    from wsiprep.tasks.doctor import doctor

    checks = doctor(output)
    if json_:
        print_json([asdict(check) for check in checks])
    else:
        colour = {"ok": "green", "warn": "yellow", "fail": "bold red"}
        for check in checks:
            remedy = f"; {check.remedy}" if check.remedy else ""
            stdout().print(
                f"[{colour[check.status]}]{check.status:4}[/] {escape(check.name):28} "
                f"{escape(check.detail + remedy)}",
                highlight=False,
            )
    raise typer.Exit(3 if any(check.status == "fail" for check in checks) else 0)
