"""Slides of a cohort that fit a text, or that are like a slide."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import UsageError
from wsiprep.core.report import Event, OnEvent, SlideOutcome
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.asked_model import AskedModel, SlideView, load_model
from wsiprep.tasks.embedded import EmbeddedSlide, Gathered, gather_embedded, visit
from wsiprep.tasks.results import Asked, csv_text, failures, write_json
from wsiprep.tasks.retrieval_index import Entry, Hit, RetrievalIndex, read_index, write_index
from wsiprep.tasks.use_config import RetrieveConfig, SlidesOrStores

__all__ = ["retrieve_slides"]


def retrieve_slides(cfg: RetrieveConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Put slides into an index, and search it.

    Slides whose features the index has are not read again. Writes the index where slides were
    given, and retrieval.csv and retrieval.json where something was asked.

    Raises:
        UsageError: there is nothing to do, or no index to search; nothing was written.
        StoreMismatchError: the index was made by another model.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
    """
    out = cfg.result.output
    path = cfg.query.index or out / "index.safetensors"
    asks = bool(cfg.query.text or cfg.query.like)
    if not cfg.inputs.slides and not asks:
        raise UsageError(
            "there is nothing to do.", hint="Give SLIDES to put into the index, --text or --like."
        )
    if not cfg.inputs.slides and not path.is_file():
        raise UsageError(
            f"there is no index {path}.", hint="Give SLIDES to make it of, or --index FILE."
        )
    check_writable(out)
    asked = load_model(cfg.model)
    index = _index_at(path, asked)
    outcomes: tuple[SlideOutcome, ...] = ()
    if cfg.inputs.slides:
        found = _gathered(cfg, cfg.inputs, asked, on_event)
        index, rows = _add(index, path, found, asked, on_event)
        outcomes = (*found.failed, *rows)
    if asks and not len(index):
        raise UsageError(f"the index {path} holds no slide.", hint="See why in the lines above.")
    results = [
        _result("text", text, index.search(vector, cfg.query.top))
        for text, vector in zip(cfg.query.text, _texts(asked, cfg.query.text), strict=True)
    ]
    for argument in cfg.query.like:
        chosen = cfg.inputs.model_copy(update={"slides": (argument,)})
        found = _gathered(cfg, chosen, asked, on_event)
        outcomes = (*outcomes, *found.failed)
        for slide in found.slides:
            vector = _vector(asked, asked.view(slide))
            hits = index.search(vector, cfg.query.top, without=slide.store)
            results.append(_result("slide", str(slide.store), hits))
    report = {
        **asked.provenance(),
        "task": "retrieve",
        "index": {"path": str(path), "slides": len(index)},
        "results": results,
        "failed": failures(outcomes),
    }
    files = {"index": str(path)}
    if asks:
        files |= {"table": str(out / "retrieval.csv"), "json": str(out / "retrieval.json")}
        table = [
            {"kind": r["kind"], "query": r["query"], "rank": rank, **hit}
            for r in results
            for rank, hit in enumerate(r["slides"], start=1)
        ]
        columns = ("kind", "query", "rank", "slide", "store", "cosine")
        content = csv_text(columns, table).encode("utf-8", "backslashreplace")
        write_whole(out / "retrieval.csv", content)
        write_json(out / "retrieval.json", report)
    return Asked(report, outcomes, files)


def _index_at(path: Path, asked: AskedModel) -> RetrievalIndex:
    if path.is_file():
        return read_index(path, model_sha256=asked.sha256, max_patches=asked.max_patches)
    nothing = np.empty((0, asked.checkpoint.model.dim), np.float32)
    return RetrievalIndex(nothing, (), asked.sha256, asked.max_patches)


def _gathered(
    cfg: RetrieveConfig, inputs: SlidesOrStores, asked: AskedModel, on_event: OnEvent
) -> Gathered:
    found = gather_embedded(
        inputs, cfg.slide, cfg.result.output, asked.checkpoint.features,
        device=cfg.model.device, weights=cfg.model.weights, on_event=on_event,
    )  # fmt: skip
    for note in found.notes:
        on_event(Event("note", text=note))
    return found


def _add(
    index: RetrievalIndex, path: Path, found: Gathered, asked: AskedModel, on_event: OnEvent
) -> tuple[RetrievalIndex, list[SlideOutcome]]:
    """The index with more slides, written; also what was done when it is stopped."""
    known = index.known
    fresh: list[Entry] = []

    def one(slide: EmbeddedSlide) -> str:
        view = asked.view(slide)
        if (str(slide.store.resolve()), view.key) in known:
            return "in the index already"
        vector = _vector(asked, view)
        fresh.append(Entry.of(slide.store, slide.id, view.key, view.patches, vector))
        return f"{view.patches:,} patches"

    try:
        rows = visit(found.slides, one, on_event)
    finally:
        index = index.added(fresh)
        if len(index):
            write_index(path, index)
    return index, rows


def _texts(asked: AskedModel, texts: tuple[str, ...]) -> NDArray[np.float32]:
    model = asked.checkpoint.model
    if not texts:
        return np.empty((0, model.dim), np.float32)
    return np.asarray(model.embed_texts(texts).cpu().numpy(), dtype=np.float32)


def _vector(asked: AskedModel, view: SlideView) -> NDArray[np.float32]:
    vector = asked.checkpoint.model.embed_slides(view.bags)[0].cpu().numpy()
    return np.asarray(vector, dtype=np.float32)


def _result(kind: str, query: str, hits: list[Hit]) -> dict[str, Any]:
    return {"kind": kind, "query": query, "slides": [asdict(hit) for hit in hits]}
