"""Which cells a block holds: positions from jittered lattices, chances from what lies there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.ground import Ground
from wsiprep.synth.nuclei import EPITHELIUM, LYMPHOCYTE, PLUMP, RED_CELL, SPINDLE, Cells
from wsiprep.synth.rings import Ring, ring_nuclei
from wsiprep.synth.texture import F32, as_float, hash01, lattice

__all__ = ["nuclei", "red_cells"]


class _Sites:
    """Jittered lattice points of a block, with what lies under each."""

    def __init__(self, ground: Ground, seed: int, channel: int, pitch_um: float) -> None:
        inner = 30 / ground.half_um  # cells further out than a nucleus cannot reach the block
        x, y, w, h = ground.window
        grown = (int(x + inner), int(y + inner), int(w - 2 * inner), int(h - 2 * inner))
        pitch = pitch_um / ground.half_um
        ix, iy = lattice(grown, pitch)
        self.ground = ground
        self.roll = [hash01(ix, iy, seed, channel + k) for k in range(6)]
        self.x = as_float((ix + 0.5 + 0.8 * (self.roll[0] - 0.5)) * pitch)
        self.y = as_float((iy + 0.5 + 0.8 * (self.roll[1] - 0.5)) * pitch)
        self.col = np.clip(np.floor(self.x).astype(np.int64) - x, 1, w - 2)
        self.row = np.clip(np.floor(self.y).astype(np.int64) - y, 1, h - 2)

    def at(self, field: NDArray[np.generic]) -> F32:
        return as_float(field[self.row, self.col])

    def heading(self, field: F32) -> F32:
        """Angle of the level lines of a field."""
        gx = field[self.row, self.col + 1] - field[self.row, self.col - 1]
        gy = field[self.row + 1, self.col] - field[self.row - 1, self.col]
        return as_float(np.arctan2(gx, -gy))

    def cells(
        self, kind: int, chance: F32, angle: F32, weight: F32 | None = None, px: float = 2.0
    ) -> Cells:
        keep = self.roll[2] < chance
        weights = 0.82 + 0.36 * self.roll[4] if weight is None else weight
        return Cells.of(
            kind,
            as_float(self.x[keep] * px),
            as_float(self.y[keep] * px),
            as_float(angle[keep]),
            self.roll[3][keep],
            as_float(weights[keep]),
        )


def nuclei(ground: Ground, rings: list[Ring], seed: int, mpp: float) -> Cells:
    """Nuclei of a block, those that lie below first."""
    return Cells.join(
        [
            *_stroma(ground, seed),
            _septa(ground, seed),
            _epithelium(ground, rings, mpp),
            _lymphocytes(ground, seed),
        ]
    )


def red_cells(ground: Ground, seed: int, mpp: float) -> Cells:
    """Red cells in the lumen of vessels."""
    sites = _Sites(ground, seed, 60, 5.6)
    chance = 0.8 * (sites.at(ground.vessel) > 0.5) * (sites.at(ground.lumen) > 2.2)
    return sites.cells(RED_CELL, as_float(chance), as_float(sites.roll[5] * np.pi))


def _open_stroma(sites: _Sites) -> F32:
    g = sites.ground
    free = (sites.at(g.tissue) > 5) & (sites.at(g.ring) < -3.5) & ~(sites.at(g.fat) > 0.5)
    return as_float(free * (1 - sites.at(g.lymph)))


def _stroma(ground: Ground, seed: int) -> list[Cells]:
    long = _Sites(ground, seed, 70, 15.0)
    fibre, wrap = long.heading(ground.across), long.heading(ground.ring)
    angle = np.where(long.at(ground.ring) > -16, wrap, fibre)
    angle = as_float(angle + 0.35 * (long.roll[5] - 0.5))
    chance = (0.40 + 0.16 * long.at(ground.loose)) * _open_stroma(long)
    spindles = long.cells(SPINDLE, as_float(chance), angle)

    wide = _Sites(ground, seed, 80, 19.0)
    turned = as_float(wide.heading(ground.across) + 0.6 * (wide.roll[5] - 0.5))
    plump = wide.cells(PLUMP, as_float(0.22 * _open_stroma(wide)), turned)
    return [spindles, plump]


def _septa(ground: Ground, seed: int) -> Cells:
    sites = _Sites(ground, seed, 90, 7.0)
    near = (sites.at(ground.fat) > 0.5) & (sites.at(ground.septum) < 1.4)
    chance = 0.22 * near * (sites.at(ground.tissue) > 3)
    return sites.cells(SPINDLE, as_float(chance), sites.heading(ground.septum))


def _epithelium(ground: Ground, rings: list[Ring], mpp: float) -> Cells:
    parts: list[Cells] = []
    for ring in rings:
        found = ring_nuclei(ring)
        n = len(found.angle)
        rng = np.random.default_rng(ring.seed + 1)
        weight = (1.0 + 0.10 * ring.tone) * rng.uniform(0.82, 1.18, n)
        kind = EPITHELIUM if ring.kind == "gland" else SPINDLE
        centre = found.centre_um / np.float32(mpp) - np.float32(0.5)
        parts.append(
            Cells.of(
                kind,
                as_float(centre[:, 0]),
                as_float(centre[:, 1]),
                found.angle,
                as_float(rng.random(n)),
                as_float(weight),
            )
        )
    if not parts:
        none = np.zeros(0, np.float32)
        return Cells.of(EPITHELIUM, none, none, none, none, none)
    every = Cells.join(parts)
    x, y, w, h = ground.window
    col = np.floor(every.x / 2).astype(np.int64) - x
    row = np.floor(every.y / 2).astype(np.int64) - y
    keep = (col >= 0) & (col < w) & (row >= 0) & (row < h)
    # Where two walls are close the nuclei of one may fall into the lumen of its fold.
    keep[keep] = ground.lumen[row[keep], col[keep]] < -1.5
    return every.only(keep)


def _lymphocytes(ground: Ground, seed: int) -> Cells:
    dense = _Sites(ground, seed, 100, 7.3)
    free = (
        (dense.at(ground.tissue) > 3) & (dense.at(ground.ring) < -3) & ~(dense.at(ground.fat) > 0)
    )
    lymph = dense.at(ground.lymph)
    chance = free * (0.96 * lymph + 0.009 + 0.06 * (lymph > 0.02))
    return dense.cells(LYMPHOCYTE, as_float(chance), as_float(dense.roll[5] * np.pi))
