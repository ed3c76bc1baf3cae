"""`wsiprep inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.config import InspectConfig

__all__ = ["command"]


@settings_command(InspectConfig)
def command(cfg: InspectConfig) -> None:
    """Show what a slide or a store holds, and how patches would be read."""
    from wsiprep.cli._console import print_json, stdout
    from wsiprep.core.errors import SlideError, StoreError, UsageError
    from wsiprep.tasks.inspect import inspect_slide, inspect_store

    if not cfg.what.path:
        raise UsageError("name a slide or a store to inspect.")
    found: list[dict[str, Any]] = []
    for text in cfg.what.path:
        path = Path(text).expanduser()
        try:
            if path.suffix == ".zarr":
                found.append(inspect_store(path))
            else:
                found.append(inspect_slide(path, cfg.slide, cfg.patches))
        except (SlideError, StoreError) as err:
            found.append({"kind": "problem", "id": text, "problem": str(err)})
    if cfg.what.json_:
        print_json(found if len(found) > 1 else found[0])
    else:
        for facts in found:
            stdout().print(_tree(facts), highlight=False)
    raise typer.Exit(1 if any("problem" in facts for facts in found) else 0)


def _tree(facts: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"[bold]{escape(str(facts['id']))}[/]")

    def grow(branch: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                grow(branch.add(f"[cyan]{name}[/]"), value)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                twig = branch.add(f"[cyan]{name}[/]")
                for item in value:
                    first, *_ = item
                    if any(
                        isinstance(v, list) and v and isinstance(v[0], dict) for v in item.values()
                    ):
                        grow(
                            twig.add(escape(str(item[first]))),
                            {k: v for k, v in item.items() if k != first},
                        )
                    else:
                        twig.add(escape("  ".join(f"{k} {_short(v)}" for k, v in item.items())))
            else:
                branch.add(f"[cyan]{name}[/] {escape(_short(value))}")

    grow(tree, {k: v for k, v in facts.items() if k not in {"id", "kind"}})
    return tree


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " x ".join(map(_short, value)) if value else "-"
    return "-" if value is None else str(value)
