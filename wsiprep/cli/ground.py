"""`wsiprep ground`."""

from __future__ import annotations

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.use_config import GroundConfig

__all__ = ["command"]


@settings_command(GroundConfig)
def command(cfg: GroundConfig) -> None:
    """Find where in slides something is, given in words: heat maps, outlines for QuPath."""
    from wsiprep.cli._asked import finish_asked
    from wsiprep.cli._console import print_json, stderr, stdout
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.ground import ground_slides

    with show_progress(stderr()) as on_event:
        done = ground_slides(cfg, on_event)
    if cfg.result.json_:
        print_json(done.report)
    else:

        def say(line: str) -> None:
            stdout().print(line, markup=False, highlight=False)

        for row in done.report["slides"]:
            say(f"{row['slide']}: {row['patches']:,} patches by {done.report['method']}")
            for found in row["texts"]:
                x, y = found["best_origin0_px"]
                say(
                    f"  {found['text']}: best at x {x}, y {y} (score {found['highest']:.4g}, "
                    f"median {found['median']:.4g})"
                )
            for name in ("heat_map", "geojson"):
                if name in row:
                    say(f"  {name.replace('_', ' '):9} {row[name]}")
            for path in row.get("pictures", ()):
                say(f"  picture   {path}")
    finish_asked(done, json_=cfg.result.json_)
    raise typer.Exit(done.exit_code)
