"""Fat: rounded cells that a Voronoi lattice divides, with thin septa between them.

Source:
    Quilez (2012), Voronoi borders (distance to a cell's border as the smallest distance to the
    bisectors with its neighbours), iquilezles.org; here the minimum is a soft one, which rounds
    the corners.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.texture import F32, Window, as_float, hash01

__all__ = ["fat_cells"]

_PITCH_UM = 64.0
_ROUNDNESS_UM = 2.3


def fat_cells(
    seed: int, window: Window, half_um: float, is_fat: Callable[[F32, F32], NDArray[np.bool_]]
) -> tuple[NDArray[np.bool_], F32]:
    """Which samples lie in fat cells, and how far from the septum.

    Args:
        seed: Of the cells.
        window: On the half grid.
        half_um: µm per sample of it.
        is_fat: Tells for centres (x and y in µm, each (n,)) which cells hold fat.

    Returns:
        bool (h, w), inside a fat cell; float32 (h, w), µm to the septum, negative in its middle.
    """
    x, y, w, h = window
    xs = ((np.arange(x, x + w, dtype=np.float32) + 0.5) * half_um)[None, :]
    ys = ((np.arange(y, y + h, dtype=np.float32) + 0.5) * half_um)[:, None]
    cx = np.floor(xs / _PITCH_UM).astype(np.int64)
    cy = np.floor(ys / _PITCH_UM).astype(np.int64)
    # Jittered centres of every lattice cell in reach, as small tables that pixels look up.
    x_first, y_first = int(cx.min()) - 3, int(cy.min()) - 3
    ix, iy = np.meshgrid(
        np.arange(x_first, int(cx.max()) + 4), np.arange(y_first, int(cy.max()) + 4)
    )
    ix, iy = ix.astype(np.int64), iy.astype(np.int64)
    px = as_float((ix + 0.5 + 0.9 * (hash01(ix, iy, seed, 31) - 0.5)) * _PITCH_UM)
    py = as_float((iy + 0.5 + 0.9 * (hash01(ix, iy, seed, 32) - 0.5)) * _PITCH_UM)
    fat = is_fat(px.ravel(), py.ravel()).reshape(px.shape)

    col, row = (cx - x_first), (cy - y_first)
    best = np.full((h, w), np.inf, np.float32)
    near = np.zeros((2, h, w), np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = np.broadcast_arrays(row + dy, col + dx)
            far = (px[r, c] - xs) ** 2 + (py[r, c] - ys) ** 2
            closer = far < best
            best[closer] = far[closer]
            near[0][closer], near[1][closer] = r[closer], c[closer]
    r0, c0 = near
    inside = fat[r0, c0]
    septum = np.full((h, w), -_PITCH_UM, np.float32)
    at = np.nonzero(inside)
    if at[0].size == 0:
        return inside, septum
    tables_x, tables_y, width = px.ravel(), py.ravel(), px.shape[1]
    own = (r0[at] * width + c0[at]).astype(np.int32)
    own_x, own_y = tables_x[own], tables_y[own]
    to_x, to_y = own_x - xs[0, at[1]], own_y - ys[at[0], 0]
    total = np.zeros(own.shape, np.float32)
    for dy in (-2, -1, 0, 1, 2):
        for dx in (-2, -1, 0, 1, 2):
            if dx == 0 and dy == 0:
                continue
            neighbour = own + (dy * width + dx)
            nx, ny = tables_x[neighbour] - own_x, tables_y[neighbour] - own_y
            length2 = nx * nx + ny * ny
            to_border = (nx * to_x + ny * to_y + 0.5 * length2) / np.sqrt(length2)
            total += np.exp(np.maximum(to_border, 0.0) * np.float32(-1 / _ROUNDNESS_UM))
    septum[at] = -_ROUNDNESS_UM * np.log(np.maximum(total, 1e-12))
    return inside, septum
