"""What a slide, or a store, holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import ResolutionError
from wsiprep.grid.config import GridConfig
from wsiprep.grid.plan import plan_for
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.open import open_slide
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import TISSUE, features_unit, grid_unit, heat_map_unit

__all__ = ["inspect_slide", "inspect_store"]


def inspect_slide(path: Path, cfg: SlideConfig, grid: GridConfig) -> dict[str, Any]:
    """Sizes, levels, resolution with its source, and the reading plan for a resolution.

    A slide whose µm/px is missing or implausible has `problem` instead of a plan.

    Raises:
        SlideOpenError: no reader opens it.
    """
    problem = ""
    try:
        slide = open_slide(path, cfg)
    except ResolutionError as err:
        # Sizes and levels are what helps to find the right scale.
        problem = str(err)
        slide = open_slide(path, cfg.model_copy(update={"slide_mpp": 1.0}))
    with slide:
        if problem:
            return {**_facts(slide), "mpp": None, "mpp_source": None, "problem": problem}
        info = slide.info
        plan: dict[str, Any]
        try:
            chosen = plan_for(info, grid)
            plan = {**asdict(chosen), "text": chosen.describe()}
        except ResolutionError as err:
            plan = {"text": str(err)}
        side_mm = [round(n * info.mpp / 1000, 3) for n in (info.size0.width, info.size0.height)]
        return {**_facts(slide), "size_mm": side_mm, "plan": plan, "notes": list(info.notes)}


def _facts(slide: Slide) -> dict[str, Any]:
    info = slide.info

    def tile(level: int) -> list[int] | None:
        if not isinstance(slide, TiledSlide):
            return None
        side = slide.tiling(level).tile
        return [side.width, side.height]

    return {
        "kind": "slide",
        "id": info.id,
        "path": info.uri,
        "reader": info.reader,
        "reader_reason": info.reader_reason,
        "vendor": info.vendor,
        "size0": [info.size0.width, info.size0.height],
        "mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "objective": info.objective,
        "levels": [
            {
                "level": i,
                "size": [size.width, size.height],
                "downsample": downsample,
                "tile": tile(i),
            }
            for i, (size, downsample) in enumerate(
                zip(info.level_sizes, info.downsamples, strict=True)
            )
        ],
        "bounds0": asdict(info.bounds0),
        "fingerprint": info.fingerprint,
    }


def _heat_maps(store: FeatureStore, grid: str, encoder: str) -> dict[str, Any]:
    """What `wsiprep ground` left, where it did."""
    found = {}
    for name in store.heat_maps(encoder, grid):
        values = store.attributes(heat_map_unit(grid, encoder, name))
        found[name] = ", ".join(values["texts"])
    return {"heat_maps": found} if found else {}


def inspect_store(path: Path) -> dict[str, Any]:
    """The slide a store belongs to, and its tissue, grids and features.

    Raises:
        StoreError: it cannot be read.
    """
    store = FeatureStore(path)
    info = store.slide
    tissue: dict[str, Any] | None = None
    if store.has_tissue:
        values = store.attributes(TISSUE)
        mask = store.tissue()
        tissue = {
            "method": values["method"],
            "mpp": values["mpp"],
            "shape": list(mask.mask.shape),
            "area_mm2": round(mask.area_mm2(info.mpp), 4),
            "bad_tiles": mask.bad_tiles,
            "settings": values["config"],
        }
    grids = []
    for name in store.grids:
        grid = store.grid(name)
        features = []
        for encoder in store.encoders(name):
            values = store.attributes(features_unit(name, encoder))
            features.append(
                {
                    "encoder": values["encoder"]["name"],
                    "dim": values["encoder"]["dim"],
                    "dtype": values["config"]["store_dtype"],
                    "weights": values["encoder"]["weights"],
                    "license": values["encoder"]["license"],
                    "bad_tiles": values["bad_tiles"],
                    **_heat_maps(store, name, encoder),
                }
            )
        grids.append(
            {
                "grid": name,
                "patches": len(grid),
                "shape": list(grid.shape),
                "plan": grid.plan.describe(),
                "mpp": grid.plan.mpp,
                "settings": store.attributes(grid_unit(name))["config"],
                "features": features,
            }
        )
    return {
        "kind": "store",
        "path": str(path),
        "id": info.id,
        "slide": info.uri,
        "reader": info.reader,
        "size0": [info.size0.width, info.size0.height],
        "mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "tissue": tissue,
        "grids": grids,
    }
