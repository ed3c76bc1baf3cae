"""`wsiprep verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder, or one store.")],
    json_: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
) -> None:
    """Check every digest of every store, and say what to run again. Exit 1 if anything is wrong."""
    from dataclasses import asdict

    from rich.markup import escape

    from wsiprep.cli._console import print_json, stdout
    from wsiprep.core.errors import UsageError
    from wsiprep.store.verify import verify_output

    if not output.is_dir():
        raise UsageError(f"{output} is not a folder.", hint="Name the --output of a run.")
    report = verify_output(output)
    if not report.stores:
        raise UsageError(f"there is no store in {output}.", hint="Name the --output of a run.")
    if json_:
        print_json({**asdict(report), "findings": [asdict(f) for f in report.findings]})
    else:
        for finding in report.findings:
            stdout().print(
                f"[red]{escape(finding.slide)}[/] "
                + escape(f"{finding.part}: {finding.problem}; {finding.remedy}"),
                highlight=False,
            )
        stdout().print(
            f"{report.stores} stores, {report.parts} parts, {report.bytes / 1e6:.1f} MB hashed: "
            + (f"{len(report.findings)} problems" if report.findings else "all as promised"),
            highlight=False,
        )
    raise typer.Exit(1 if report.findings else 0)
