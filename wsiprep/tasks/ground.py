"""Where in a slide is what a text says: scores in the store, GeoJSON, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiprep import __version__
from wsiprep.core.config import digest
from wsiprep.core.errors import OutputError, UsageError, WsiprepError
from wsiprep.core.report import Event, OnEvent, white_note
from wsiprep.core.types import PatchGrid, SlideInfo
from wsiprep.models.aligned import Aligned
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.top_k import SoftTopK
from wsiprep.slide.open import open_slide
from wsiprep.store.claim import hold_store
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import heat_map_unit, safe_name
from wsiprep.tasks.asked_model import AskedModel, SlideView, load_model
from wsiprep.tasks.embedded import EmbeddedSlide, gather_embedded, visit
from wsiprep.tasks.heat_geojson import cell_boxes, heat_geojson, highest
from wsiprep.tasks.results import Asked, failures, write_json
from wsiprep.tasks.use_config import GroundConfig, GroundMethodName
from wsiprep.views.heat_map import draw_heat_map, tissue_silhouette
from wsiprep.views.overlay import encode_jpeg

__all__ = ["HEAT_MAP_VERSION", "best_method", "ground_slides", "rows_of"]

HEAT_MAP_VERSION = 1
"""Raised when the same model, asked the same, would give other scores."""

PICTURE_PX = 1600
SLUG_CHARACTERS = 48


@dataclass(frozen=True, slots=True, eq=False)
class _Heat:
    """What was found on one slide.

    Attributes:
        store: Open for reading.
        view: What the model saw.
        grid: Its patches.
        rows: int64 (M,), the patches that were scored.
        scores: float32 (P, M).
    """

    store: FeatureStore
    view: SlideView
    grid: PatchGrid
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def best_method(model: Aligned) -> GroundMethodName:
    """The method for those who name none: attention where the model has learned it, else cosine."""
    head = dict(model.heads.items()).get("region")
    return "attention" if isinstance(head, RegionSigmoid | SoftTopK) else "cosine"


def ground_slides(cfg: GroundConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Score the patches of slides for texts; writes grounding.json and what `cfg` asks for.

    Raises:
        UsageError: slides make no sense, two have one name, or the model cannot do the method.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
    """
    out, wanted = cfg.result.output, cfg.grounding
    check_writable(out)
    asked = load_model(cfg.model)
    method = wanted.method or best_method(asked.checkpoint.model)
    found = gather_embedded(
        cfg.inputs, cfg.slide, out, asked.checkpoint.features,
        device=cfg.model.device, weights=cfg.model.weights, on_event=on_event,
    )  # fmt: skip
    _check_names(found.slides)
    for note in found.notes:
        on_event(Event("note", text=note))
    rows: list[dict[str, Any]] = []

    def one(slide: EmbeddedSlide) -> str:
        heat = _heat(asked, slide, wanted.text, method)
        row: dict[str, Any] = {
            "slide": slide.id,
            "store": str(slide.store),
            "patches": len(heat.rows),
            "grid": heat.view.grid,
            "features": heat.view.encoder,
            "features_key": heat.view.key,
            "texts": [_summary(text, heat, n) for n, text in enumerate(wanted.text)],
        }
        if wanted.store:
            row["heat_map"] = _store(slide, heat, wanted.text, method, asked)
        if wanted.geojson:
            path = out / "grounding" / f"{slide.id}.geojson"
            text = heat_geojson(
                heat.grid, heat.rows, heat.scores, wanted.text, heat.store.slide.size0,
                top=wanted.top,
            )  # fmt: skip
            write_whole(path, text.encode())
            row["geojson"] = str(path)
        if wanted.picture:
            row["pictures"] = _draw(cfg, slide, heat, method, on_event)
        rows.append(row)
        return f"{len(heat.rows):,} patches, {len(wanted.text)} texts by {method}"

    outcomes = (*found.failed, *visit(found.slides, one, on_event))
    report = {
        **asked.provenance(),
        "task": "ground",
        "method": method,
        "texts": list(wanted.text),
        "top": wanted.top,
        "slides": rows,
        "failed": failures(outcomes),
    }
    write_json(out / "grounding.json", report)
    return Asked(report, outcomes, {"json": str(out / "grounding.json")})


def _heat(
    asked: AskedModel, slide: EmbeddedSlide, texts: tuple[str, ...], method: GroundMethodName
) -> _Heat:
    view = asked.view(slide)
    with torch.no_grad():
        scores = asked.checkpoint.model.ground(view.bags, texts, method)
    store = FeatureStore(slide.store)
    grid = store.grid(view.grid)
    rows = rows_of(grid, view.bags.cell.cpu().numpy())
    return _Heat(store, view, grid, rows, scores.float().cpu().numpy())


def rows_of(grid: PatchGrid, cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the grid that are these cells.

    Args:
        grid: The patches.
        cell: int64 (M, 2), row and column, each of a patch.

    Returns:
        int64 (M,).
    """
    number = np.full(grid.shape, -1, np.int64)
    number[grid.cell[:, 0], grid.cell[:, 1]] = np.arange(len(grid))
    return np.asarray(number[cell[:, 0], cell[:, 1]])


def _summary(text: str, heat: _Heat, number: int) -> dict[str, Any]:
    """Where a text is found best: the patch, its corner, and how scores are spread."""
    scores = heat.scores[number]
    best = int(heat.rows[int(scores.argmax())])
    return {
        "text": text,
        "best_cell": heat.grid.cell[best].tolist(),
        "best_origin0_px": heat.grid.origin0_px[best].tolist(),
        "highest": float(scores.max()),
        "median": float(np.median(scores)),
        "lowest": float(scores.min()),
    }


def _store(
    slide: EmbeddedSlide,
    heat: _Heat,
    texts: tuple[str, ...],
    method: GroundMethodName,
    asked: AskedModel,
) -> str:
    """Write the scores into the store; the same again heals what is there, and changes nothing.

    Raises:
        OutputError: the store cannot be written.
    """
    key = digest(
        {
            "version": HEAT_MAP_VERSION,
            "features": heat.view.key,
            "model": asked.sha256,
            "method": method,
            "max_patches": asked.max_patches,
            "texts": list(texts),
        }
    )
    name = f"{method}-{key[:12]}"
    attributes = {
        "texts": list(texts),
        "method": method,
        "model": {
            "sha256": asked.sha256,
            "recipe": asked.checkpoint.recipe.get("name", ""),
        },
        "max_patches": asked.max_patches,
        "versions": {"wsiprep": __version__, "torch": str(torch.__version__)},
    }
    try:
        with hold_store(slide.store) as held:
            held.put_heat_map(
                heat.view.grid, heat.view.encoder, name, heat.grid, heat.rows, heat.scores, key,
                attributes,
            )  # fmt: skip
    except OutputError as err:
        hint = "Pass --no-store where stores are not to be written."
        raise OutputError(err.message, slide=slide.id, stage="store", hint=hint) from err
    return heat_map_unit(heat.view.grid, heat.view.encoder, name)


def _draw(
    cfg: GroundConfig,
    slide: EmbeddedSlide,
    heat: _Heat,
    method: GroundMethodName,
    on_event: OnEvent,
) -> list[str]:
    info = heat.store.slide
    thumbnail = _backdrop(cfg, heat.store, on_event)
    boxes = cell_boxes(heat.grid, heat.rows, info.size0)
    paths: list[str] = []
    for number, (text, scores) in enumerate(
        zip(cfg.grounding.text, heat.scores, strict=True), start=1
    ):
        picture = draw_heat_map(
            thumbnail, boxes, scores, info.size0,
            text=text, slide_id=slide.id, method=method, slide_mpp=info.mpp,
            marked=highest(scores, cfg.grounding.top),
        )  # fmt: skip
        name = f"{number:02d}-{safe_name(text)[:SLUG_CHARACTERS]}.jpg"
        path = cfg.result.output / "grounding" / slide.id / name
        write_whole(path, encode_jpeg(picture))
        paths.append(str(path))
    return paths


def _backdrop(cfg: GroundConfig, store: FeatureStore, on_event: OnEvent) -> NDArray[np.uint8]:
    """A thumbnail of the slide; where the slide cannot be read, its tissue, which is said."""
    info = store.slide
    longest_um = max(info.size0.width, info.size0.height) * info.mpp
    try:
        with open_slide(info.uri, _opening(cfg, info), slide_id=info.id) as slide:
            bad: set[str] | None = set() if cfg.slide.on_bad_tile == "mask" else None
            thumbnail = slide.thumbnail(longest_um / PICTURE_PX, bad)
            for note in white_note(bad or set(), "heat map"):
                on_event(Event("note", text=f"{info.id}: {note}"))
            return thumbnail
    except WsiprepError as err:
        note = f"{info.id}: the slide cannot be read ({err.message.rstrip('.')})"
    if store.has_tissue:
        on_event(Event("note", text=f"{note}; the heat map is drawn on its tissue mask."))
        return tissue_silhouette(store.tissue(), PICTURE_PX)
    on_event(Event("note", text=f"{note}; the heat map is drawn on white."))
    shrink = PICTURE_PX / max(info.size0.width, info.size0.height)
    h, w = (max(1, round(n * shrink)) for n in (info.size0.height, info.size0.width))
    return np.full((h, w, 3), 255, np.uint8)


def _opening(cfg: GroundConfig, info: SlideInfo) -> Any:
    """How the slide is opened: at the µm/px that its store says."""
    return cfg.slide.model_copy(update={"slide_mpp": info.mpp, "mpp_from_objective": False})


def _check_names(slides: tuple[EmbeddedSlide, ...]) -> None:
    seen: dict[str, Path] = {}
    for slide in slides:
        other = seen.setdefault(slide.id.casefold(), slide.store)
        if other != slide.store:
            raise UsageError(
                f"{other} and {slide.store} have one name, and so would their pictures.",
                hint="Run once for each, with an --output of its own.",
            )
