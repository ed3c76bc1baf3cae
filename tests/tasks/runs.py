"""Runs of the pipeline with the mean-colour encoder, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

from wsiprep.core.config import build, leaves
from wsiprep.tasks.prepare import prepare

BASE = {"encoder": ("test",), "patch_size": 128, "min_tissue": 0.3}


def run(model, slides, out, *, on_event=lambda _: None, **values):
    own = {n for n in BASE if n in _names(model)}
    settings = {**{n: BASE[n] for n in own}, "output": out, **values}
    slides = slides if isinstance(slides, tuple) else (str(slides),)
    return prepare(build(model, ("test", {"slides": slides, **settings})), on_event)


def _names(model):
    return {name for _, name, _, _ in leaves(model)}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "run.jsonl"
    }


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "run.jsonl").read_text().splitlines()]
