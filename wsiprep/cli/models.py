"""`wsiprep models`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["command"]


def command(
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List encoders, segmenters and readers, with what is known before loading them."""
    from rich.markup import escape
    from rich.table import Table

    from wsiprep.cli._console import print_json, stdout
    from wsiprep.encoders.load import encoder_specs
    from wsiprep.slide.open import AUTO_ORDER, readers
    from wsiprep.tissue.detect import segmenters

    specs = [spec for _, spec in encoder_specs()]
    if json_:
        print_json(
            {
                "encoders": [spec.canonical() for spec in specs],
                "segmenters": segmenters.names(),
                "readers": readers.names(),
            }
        )
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for column in ("encoder", "dim", "input px", "µm/px", "licence", "what it is"):
        table.add_column(column, overflow="fold")
    for spec in specs:
        table.add_row(
            escape(spec.name),
            str(spec.dim),
            str(spec.input_px or "any"),
            ", ".join(f"{m:g}" for m in spec.mpp) or "any",
            escape(spec.license),
            escape(spec.note or spec.source),
        )
    stdout().print(table)
    stdout().print(
        "\nAny timm model works as timm:<model> (hub, --weights FILE, or --random-weights).\n"
        f"segmenters  {', '.join(segmenters.names())}\n"
        f"readers     {', '.join(readers.names())}; auto tries {', '.join(AUTO_ORDER)} in turn",
        highlight=False,
    )
