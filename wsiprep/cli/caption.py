"""`wsiprep caption`."""

from __future__ import annotations

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.ask_config import CaptionConfig

__all__ = ["command"]


@settings_command(CaptionConfig)
def command(cfg: CaptionConfig) -> None:
    """Describe slides in words."""
    from wsiprep.cli._asked import finish_asked
    from wsiprep.cli._console import print_json, stderr, stdout
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.ask import caption

    with show_progress(stderr()) as on_event:
        done = caption(cfg, on_event)
    if cfg.result.json_:
        print_json(done.report)
    else:
        for slide in done.report["slides"]:
            said = slide["captions"][0]
            stdout().print(f"{slide['slide']}\n  {said['caption']}", markup=False, highlight=False)
            if "caption_blind" in said:
                blind = f"  without the slide: {said['caption_blind']}"
                stdout().print(blind, markup=False, highlight=False)
    finish_asked(done, json_=cfg.result.json_)
    raise typer.Exit(done.exit_code)
