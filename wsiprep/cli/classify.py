"""`wsiprep classify`."""

from __future__ import annotations

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.use_config import ClassifyConfig

__all__ = ["command"]

PROBABILITIES = "Probabilities are softmaxes of cosines: an order, not chances to rely on."


@settings_command(ClassifyConfig)
def command(cfg: ClassifyConfig) -> None:
    """Tell which of some classes, given in words, slides are of."""
    from wsiprep.cli._asked import finish_asked
    from wsiprep.cli._console import print_json, stderr, stdout
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.classify import classify

    with show_progress(stderr()) as on_event:
        done = classify(cfg, on_event)
    if cfg.result.json_:
        print_json(done.report)
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("slide", overflow="fold")
        table.add_column("class", overflow="fold")
        names = list(done.report["prompts"]["classes"])
        for name in names:
            table.add_column(escape(name), justify="right", overflow="fold")
        for row in done.report["slides"]:
            shown = (f"{row['probabilities'][name]:.3f}" for name in names)
            table.add_row(escape(row["slide"]), escape(row["predicted"]), *shown)
        stdout().print(table)
        if cfg.classes.mode == "slide":
            stdout().print(PROBABILITIES, markup=False, highlight=False)
    finish_asked(done, json_=cfg.result.json_)
    raise typer.Exit(done.exit_code)
