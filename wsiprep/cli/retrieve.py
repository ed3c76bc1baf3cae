"""`wsiprep retrieve`."""

from __future__ import annotations

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.use_config import RetrieveConfig

__all__ = ["command"]


@settings_command(RetrieveConfig)
def command(cfg: RetrieveConfig) -> None:
    """Find the slides that fit a text, or are like a slide."""
    from wsiprep.cli._asked import finish_asked
    from wsiprep.cli._console import print_json, stderr, stdout
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.retrieve import retrieve_slides

    with show_progress(stderr()) as on_event:
        done = retrieve_slides(cfg, on_event)
    if cfg.result.json_:
        print_json(done.report)
    else:
        for result in done.report["results"]:
            stdout().print(f"{result['kind']}: {result['query']}", markup=False, highlight=False)
            for rank, hit in enumerate(result["slides"], start=1):
                line = f"{rank:>4}  {hit['cosine']:+.4f}  {hit['slide']}"
                stdout().print(line, markup=False, highlight=False)
        slides = done.report["index"]["slides"]
        stdout().print(f"{slides:,} slides in the index", markup=False, highlight=False)
    finish_asked(done, json_=cfg.result.json_)
    raise typer.Exit(done.exit_code)
