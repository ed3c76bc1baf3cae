"""Placing glands and vessels so that none touch."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.canvas import Canvas
from wsiprep.synth.rings import Ring, RingKind, grow_ring
from wsiprep.synth.texture import F32

__all__ = ["footprint", "place_rings"]

_GAP_UM = 9.0


def place_rings(
    c: Canvas, tissue: F32, fat: F32, lymph: F32
) -> tuple[tuple[Ring, ...], NDArray[np.bool_]]:
    """Vessels anywhere in stroma, then glands crowded into parts of it.

    Args:
        c: Raster of the layout.
        tissue: float32 (rows, cols), µm to the border of tissue, positive inside.
        fat: The same for fat.
        lymph: Density of lymphocytes, 0 to 1.

    Returns:
        The rings, and bool (rows, cols), cells under glands.
    """
    region = c.noise(min(1100.0, 0.35 * c.scale_um)) > -0.35
    stroma = (tissue > 14) & (fat < -8) & (lymph <= 0.3)
    taken = np.zeros(tissue.shape, np.uint8)
    glands = np.zeros(tissue.shape, np.uint8)
    rings: list[Ring] = []
    area_mm2 = float((tissue > 0).sum()) * c.cell_um**2 / 1e6
    largest = max(26.0, 0.045 * c.scale_um)
    # Large glands first: what is left between them is filled with small ones.
    tries = int(1100 * area_mm2) + 60
    gland_um = np.sort(np.clip(c.rng.lognormal(np.log(44), 0.52, tries), 24, 150))[::-1]
    vessel_um = c.rng.uniform(14, 55, int(5 * area_mm2) + 2)
    plans: tuple[tuple[RingKind, NDArray[np.float64], NDArray[np.bool_]], ...] = (
        ("vessel", vessel_um, stroma),
        ("gland", gland_um, stroma & region),
    )
    for kind, radii, where in plans:
        xs = c.rng.uniform(0, c.width_um, len(radii))
        ys = c.rng.uniform(0, c.height_um, len(radii))
        cols, rows = (xs / c.cell_um).astype(int), (ys / c.cell_um).astype(int)
        for i in np.nonzero(where[rows, cols])[0]:
            if taken[rows[i], cols[i]]:
                continue
            centre = (float(xs[i]), float(ys[i]))
            ring = grow_ring(c.rng, kind, centre, min(float(radii[i]), largest))
            spot = footprint(c, ring, _GAP_UM)
            if spot is None:
                continue
            window, shape = spot
            if (((taken[window] > 0) | ~stroma[window]) & (shape > 0)).any():
                continue
            taken[window] |= shape
            rings.append(ring)
            if kind == "gland" and (bare := footprint(c, ring, 0.0)) is not None:
                glands[bare[0]] |= bare[1]
    return tuple(rings), glands > 0


def footprint(
    c: Canvas, ring: Ring, margin_um: float
) -> tuple[tuple[slice, slice], NDArray[np.uint8]] | None:
    """Cells under a ring grown by a margin, or None where that leaves the slide."""
    grow = int(np.ceil(margin_um / c.cell_um))
    left, top, right, bottom = (v / c.cell_um for v in ring.bounds_um)
    x0, y0 = int(left) - grow - 1, int(top) - grow - 1
    x1, y1 = int(right) + grow + 2, int(bottom) + grow + 2
    if x0 < 0 or y0 < 0 or x1 > c.cols or y1 > c.rows:
        return None
    points = np.round(ring.outline_um / c.cell_um - 0.5).astype(np.int32) - [x0, y0]
    shape = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(shape, [points.astype(np.int32)], 1)
    if grow:
        shape = cv2.dilate(shape, np.ones((2 * grow + 1, 2 * grow + 1), np.uint8)).astype(np.uint8)
    return (slice(y0, y1), slice(x0, x1)), shape
