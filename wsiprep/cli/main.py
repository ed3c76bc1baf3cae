"""`wsiprep`: the list of commands."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from wsiprep import __version__
from wsiprep.cli import (
    ask,
    caption,
    classify,
    convert,
    coords,
    demo,
    doctor,
    embed,
    evaluate,
    ground,
    inspect,
    models,
    retrieve,
    run,
    segment,
    train,
    verify,
)
from wsiprep.cli._guard import guarded

__all__ = ["app", "main"]

EPILOG = (
    "Exit codes: 0 all done; 1 some slides failed, the rest done; 2 usage; 3 environment; "
    "130 interrupted (run again to resume); 70 a bug."
)

app = typer.Typer(
    name="wsiprep",
    help="Whole-slide images in, chunked Zarr feature grids out.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for module in (
    run,
    segment,
    coords,
    embed,
    inspect,
    verify,
    models,
    doctor,
    demo,
    classify,
    retrieve,
    ground,
    ask,
    caption,
):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=EPILOG)(guarded(module.command))
app.add_typer(train.app)
app.add_typer(evaluate.app)
app.add_typer(convert.app)


def main() -> None:
    """Entry point of the `wsiprep` program."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as cron and daemons do
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # µ must not end a run on an ASCII terminal
            stream.reconfigure(errors="backslashreplace")
    app()
