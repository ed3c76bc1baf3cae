"""The lattice: where patches lie, and how much tissue each holds."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import digest
from wsiprep.core.errors import ConfigError
from wsiprep.core.types import CHUNK_CELLS, PatchGrid, ReadPlan, SlideInfo, TissueMask
from wsiprep.grid.config import GridConfig
from wsiprep.grid.plan import plan_for
from wsiprep.grid.shares import area_share, main_section

__all__ = ["cell_origins", "chunk_order", "grid_key", "grid_name", "make_grid", "tissue_share"]

MAX_CELLS = 100_000_000
"""A slide of 100,000 x 100,000 px has 39 million cells at a stride of 16 px."""

GRID_VERSION = 1
"""Raised when the same settings would place other patches."""
FOCUS_VERSION = 2
"""Raised, like the grid's, whenever sharpness is measured otherwise; only grids with it have it."""


def grid_name(cfg: GridConfig) -> str:
    """Name of a grid in the store: resolution, patch size and stride."""
    return f"mpp{cfg.mpp:g}_patch{cfg.patch_size}_stride{cfg.stride_px}"


def grid_key(cfg: GridConfig, tissue_key: str) -> str:
    """Identity of a grid: all settings that place patches, and the tissue they stand on."""
    measured = {"focus_version": FOCUS_VERSION} if cfg.measures_focus else {}
    return digest(
        {"version": GRID_VERSION, "tissue": tissue_key, "grid": cfg.canonical(), **measured}
    )


def make_grid(info: SlideInfo, tissue: TissueMask, cfg: GridConfig) -> PatchGrid:
    """Place patches on a slide and keep those with enough tissue.

    The lattice covers the whole of level 0; a patch that crosses the right or bottom edge is
    padded with white, and its tissue share counts the padding as glass. A slide without tissue
    has no patches, even when `min_tissue` is 0.

    Cost: O(mask pixels + cells), vectorised; at the peak some 13 bytes a mask pixel and 40 a cell
    of the lattice, or 200 a patch if that is more.

    Args:
        info: The slide.
        tissue: Its tissue mask.
        cfg: Resolution, patch size, stride, least tissue share.

    Raises:
        UpsamplingError: the slide is coarser than asked and upsampling is not allowed.
        ConfigError: the stride is so small that the lattice has more than 100 million cells.
    """
    plan = plan_for(info, cfg)
    stride0_px = cfg.stride_px * plan.side0_px / plan.patch_px
    rows = max(1, math.ceil(info.size0.height / stride0_px))
    cols = max(1, math.ceil(info.size0.width / stride0_px))
    if rows * cols > MAX_CELLS:
        raise ConfigError(
            f"a stride of {cfg.stride_px} px gives a lattice of {rows} x {cols} cells.",
            slide=info.id,
            stage="grid",
            hint="Pass a larger --stride.",
        )
    if tissue.empty:
        cell = np.empty((0, 2), np.int32)
        share = np.empty(0, np.float32)
    else:
        dense = tissue_share(tissue, plan, stride0_px, (rows, cols))
        keep = dense >= cfg.min_tissue if cfg.min_tissue > 0 else np.ones_like(dense, bool)
        cell = np.argwhere(keep).astype(np.int32)
        cell = cell[chunk_order(cell)]
        share = dense[cell[:, 0], cell[:, 1]]
    origin0_px = cell_origins(cell, stride0_px)
    return PatchGrid(
        plan=plan,
        stride_px=cfg.stride_px,
        stride0_px=stride0_px,
        shape=(rows, cols),
        cell=cell,
        origin0_px=origin0_px,
        tissue=share,
        section=main_section(tissue, origin0_px, plan.side0_px),
        pen=area_share(tissue.pen, tissue.scale0, origin0_px, plan.side0_px),
        edge=area_share(tissue.edge, tissue.scale0, origin0_px, plan.side0_px),
        fold=area_share(tissue.fold, tissue.scale0, origin0_px, plan.side0_px),
    )


def cell_origins(cell: NDArray[np.int32], stride0_px: float) -> NDArray[np.int64]:
    """Top-left corners of cells, int64 (N, 2) as x, y in level-0 pixels.

    Each is rounded from its own product (half to even), so no error adds up along a row and
    grids of one slide at several magnifications share their corners.
    """
    return np.rint(cell[:, ::-1].astype(np.float64) * stride0_px).astype(np.int64)


def chunk_order(cell: NDArray[np.int32]) -> NDArray[np.int64]:
    """Permutation that puts cells (row, col) in chunk-major order."""
    row, col = cell[:, 0], cell[:, 1]
    return np.lexsort((col, row, col // CHUNK_CELLS, row // CHUNK_CELLS))


def tissue_share(
    tissue: TissueMask, plan: ReadPlan, stride0_px: float, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Share of tissue by area in every cell, float32 (rows, cols), 0 to 1.

    A mask pixel is a square of constant value, so the integral over a patch is exact: it is the
    integral image read at fractional corners by linear interpolation, first along y, then x.
    """
    integral = cv2.integral(tissue.mask.astype(np.uint8)).astype(np.float64)  # (h + 1, w + 1)
    scale_x, scale_y = tissue.scale0
    top = np.rint(np.arange(shape[0]) * stride0_px)
    left = np.rint(np.arange(shape[1]) * stride0_px)
    rows = _edges(integral, top / scale_y, (top + plan.side0_px) / scale_y)  # (rows, w + 1)
    cells = _edges(rows.T, left / scale_x, (left + plan.side0_px) / scale_x).T  # (rows, cols)
    share = cells * scale_x * scale_y / plan.side0_px**2
    return np.clip(share, 0.0, 1.0).astype(np.float32)


def _edges(
    integral: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integral between fractional positions along axis 0."""

    def at(position: NDArray[np.float64]) -> NDArray[np.float64]:
        last = len(integral) - 1
        position = np.clip(position, 0, last)
        below = np.minimum(position.astype(np.int64), last - 1)
        part = (position - below)[:, None]
        value: NDArray[np.float64] = integral[below] * (1 - part) + integral[below + 1] * part
        return value

    return at(stop) - at(start)
