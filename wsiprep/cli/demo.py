"""`wsiprep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    slide: Annotated[
        Path | None,
        typer.Argument(help="A slide of your own; without one a synthetic H&E slide is made."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.")] = Path(
        "wsiprep-demo"
    ),
) -> None:
    """Run everything once, with the embedded encoder: no hub, no account, no GPU."""
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
