"""Coordinates for other tools: CSV for people, HDF5 in the layout of CLAM and TRIDENT."""

from __future__ import annotations

import csv
import io
from typing import Literal

import numpy as np

from wsiprep.core.types import PatchGrid, SlideInfo
from wsiprep.core.units import MPP_AT_1X

__all__ = ["coords_csv", "coords_h5", "export_coords"]


def export_coords(kind: Literal["csv", "h5"], info: SlideInfo, grid: PatchGrid) -> bytes:
    """File content of a coordinates export."""
    return coords_csv(grid) if kind == "csv" else coords_h5(info, grid)


def coords_csv(grid: PatchGrid) -> bytes:
    """UTF-8 CSV, one line a patch, in grid order.

    Columns: row, col, x0_px, y0_px, side0_px, tissue, section, pen, edge, fold, focus; focus is
    empty where it was not measured.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    columns = grid.columns()
    out.writerow(["row", "col", "x0_px", "y0_px", "side0_px", *columns])
    side = f"{grid.plan.side0_px:.6g}"
    rows = zip(grid.cell, grid.origin0_px, zip(*columns.values(), strict=True), strict=True)
    for (row, col), (x, y), known in rows:
        out.writerow([row, col, x, y, side, *map(_cell, known)])
    return text.getvalue().encode()


def _cell(value: np.generic) -> str:
    if isinstance(value, np.integer):
        return str(value)
    return "" if np.isnan(value) else f"{value:.6f}"


def coords_h5(info: SlideInfo, grid: PatchGrid) -> bytes:
    """HDF5 with `coords` int64 (N, 2), level-0 top-left x and y, and the usual attributes.

    Attributes on `coords`: patch_size, patch_size_level0, level0_magnification,
    target_magnification (both nominal, 10 / mpp), overlap (patch px), level0_width,
    level0_height, name, and beyond the usual mpp, level0_mpp, level, read_px. Datasets `cell`,
    `tissue`, `section`, `pen`, `edge`, `fold` and `focus` are ours.
    """
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=True) as file:
        coords = file.create_dataset("coords", data=grid.origin0_px)
        coords.attrs.update(
            {
                "patch_size": grid.plan.patch_px,
                "patch_size_level0": round(grid.plan.side0_px),
                "level0_magnification": round(MPP_AT_1X / info.mpp),
                "target_magnification": round(MPP_AT_1X / grid.plan.mpp),
                "overlap": grid.plan.patch_px - grid.stride_px,
                "level0_width": info.size0.width,
                "level0_height": info.size0.height,
                "name": info.id,
                "mpp": grid.plan.mpp,
                "level0_mpp": info.mpp,
                "level": grid.plan.level,
                "read_px": grid.plan.read_px,
            }
        )
        file.create_dataset("cell", data=grid.cell)
        for name, column in grid.columns().items():
            file.create_dataset(name, data=np.asarray(column))
    return memory.getvalue()
