"""Files beside a slide's store, for people and other tools: outlines, pictures, coordinates.

They follow from the store and carry no identity of their own. So they are removed before the part
they show is made anew, and made where they are missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.types import PatchGrid, TissueMask
from wsiprep.grid.config import GridConfig
from wsiprep.grid.export import export_coords
from wsiprep.store.disk import output_errors, write_whole
from wsiprep.store.write import SlideStore
from wsiprep.tissue.geojson import tissue_geojson
from wsiprep.views.overlay import encode_jpeg, tissue_overlay

__all__ = ["draw_overlay", "remove_pictures", "write_coords", "write_outlines"]

PICTURE_PX = 1600
"""Least longer side of an overlay, where the slide has that many pixels."""


def remove_pictures(store: SlideStore, grid: str | None = None) -> None:
    """Remove what shows the tissue, or (with `grid`) only what shows that grid.

    Raises:
        OutputError: a file cannot be removed.
    """
    places = [store.out / "overlays", store.out / "coords"]
    stale = [folder / grid for folder in places] if grid else [
        store.out / "geojson", *(p for folder in places for p in folder.glob("*/")),
    ]  # fmt: skip
    with output_errors(store.out):
        for folder in stale:
            for suffix in (".jpg", ".geojson", ".csv", ".h5"):
                (folder / f"{store.name}{suffix}").unlink(missing_ok=True)


def write_outlines(store: SlideStore, tissue: TissueMask) -> Path:
    """Write the tissue as GeoJSON where it is missing."""
    path = store.out / "geojson" / f"{store.name}.geojson"
    if not path.is_file():
        write_whole(path, tissue_geojson(tissue).encode())
    return path


def write_coords(store: SlideStore, name: str, grid: PatchGrid, cfg: GridConfig) -> None:
    """Write the coordinates in the forms asked for, where they are missing."""
    for kind in cfg.export_coords:
        path = store.out / "coords" / name / f"{store.name}.{kind}"
        if not path.is_file():
            write_whole(path, export_coords(kind, store.slide, grid))


def draw_overlay(
    slide: Slide,
    store: SlideStore,
    tissue: TissueMask,
    thumbnail: NDArray[np.uint8] | None,
    name: str | None,
    grid: PatchGrid | None,
    bad: set[str] | None = None,
) -> Path:
    """Draw tissue, ink and (with `grid`, called `name`) patches, where the picture is missing.

    Args:
        slide: The slide, read where there is no thumbnail of some size.
        store: Its store.
        tissue: The mask.
        thumbnail: uint8 (h, w, 3), or None.
        name: Name of the grid.
        grid: The patches.
        bad: As of `core.contracts.Slide.thumbnail`.

    Raises:
        SlideReadError: a thumbnail is needed and cannot be decoded.
    """
    path = store.out / "overlays" / (name or "tissue") / f"{store.name}.jpg"
    if not path.is_file():
        if thumbnail is None or max(thumbnail.shape) < PICTURE_PX:
            longest_um = max(tissue.size0.width, tissue.size0.height) * slide.info.mpp
            thumbnail = slide.thumbnail(longest_um / PICTURE_PX, bad)
        picture = tissue_overlay(
            thumbnail, tissue, grid, slide_id=store.name, slide_mpp=slide.info.mpp
        )
        write_whole(path, encode_jpeg(picture))
    return path
