"""What lies under a block of a synthetic slide, before it is stained."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.adipose import fat_cells
from wsiprep.synth.layout import Layout
from wsiprep.synth.rings import Ring
from wsiprep.synth.texture import F32, Window, as_float, enlarge, spectral_noise, value_noise

__all__ = ["Ground", "Survey"]

_REACH_UM = 76.0
_FAR_UM = 60.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies at each sample of the half grid of a block; distances in µm, positive inside.

    Attributes:
        window: Of the half grid.
        half_um: µm per sample.
        tissue: Distance to the border of tissue.
        lymph: Density of lymphocytes.
        loose: Looseness of stroma.
        fat: bool, inside a fat cell.
        septum: Distance to the septum, inside fat cells.
        ring: Distance to the outer border of the nearest gland or vessel, at most 60.
        lumen: Distance to the border of its lumen.
        vessel: Whether that ring is a vessel.
        tone: Tone of that ring.
        along: Fibre coordinate along the fibres.
        across: Fibre coordinate across them.
    """

    window: Window
    half_um: float
    tissue: F32
    lymph: F32
    loose: F32
    fat: NDArray[np.bool_]
    septum: F32
    ring: F32
    lumen: F32
    vessel: F32
    tone: F32
    along: F32
    across: F32


class Survey:
    """Finds out what lies where, from the layout and from noise finer than it.

    Args:
        rng: Source of the noise.
        seed: Of fat cells.
        mpp: Level-0 µm per pixel.
        layout: What is where.
    """

    def __init__(self, rng: np.random.Generator, seed: int, mpp: float, layout: Layout) -> None:
        self._seed, self._mpp, self._layout = seed, mpp, layout
        self._smooth = spectral_noise(rng, 256, 1.5, 1.5)
        self._turn = float(rng.uniform(0.3, 1.2))

    def at(self, window: Window) -> Ground | None:
        """What lies under a window of level 0 and for 76 µm round it; None on bare glass."""
        half_um = 2 * self._mpp
        m = int(np.ceil(_REACH_UM / half_um))
        half = (
            window[0] // 2 - m,
            window[1] // 2 - m,
            window[2] // 2 + 2 * m,
            window[3] // 2 + 2 * m,
        )
        step = self._layout.step
        tissue = enlarge(self._layout.tissue, step, half)
        if float(tissue.max()) < -40:
            return None
        tissue = as_float(tissue + 5.0 * self.wave(28, half, 1))
        fat = np.zeros(tissue.shape, np.bool_)
        septum = np.full(tissue.shape, -_FAR_UM, np.float32)
        if float(enlarge(self._layout.fat, step, half).max()) > -_REACH_UM:
            fat, septum = fat_cells(self._seed, half, half_um, self._is_fat)
        ring, lumen, vessel, tone = self._rings(half, half_um)
        x, y, w, h = half
        xs = ((np.arange(x, x + w, dtype=np.float32) + 0.5) * half_um)[None, :]
        ys = ((np.arange(y, y + h, dtype=np.float32) + 0.5) * half_um)[:, None]
        c, s = np.float32(np.cos(self._turn)), np.float32(np.sin(self._turn))
        wave = 210 * self.wave(700, half, 2) + 14 * self.wave(150, half, 3)
        wave += 3.6 * self.wave(42, half, 4) + 1.3 * self.wave(15, half, 5)
        across = as_float(ys * c - xs * s + wave)
        along = as_float(xs * c + ys * s + 120 * self.wave(700, half, 6))
        return Ground(
            window=half,
            half_um=half_um,
            tissue=tissue,
            lymph=np.clip(enlarge(self._layout.lymph, step, half), 0, 1),
            loose=np.clip(enlarge(self._layout.loose, step, half), 0, 1),
            fat=fat,
            septum=septum,
            ring=ring,
            lumen=lumen,
            vessel=vessel,
            tone=tone,
            along=along,
            across=across,
        )

    def wave(self, wavelength_um: float, half: Window, phase: int) -> F32:
        """Smooth unit-variance noise; `phase` chooses one of many."""
        step = max(1, round(wavelength_um / 5 / (2 * self._mpp)))
        shift = 37 * phase * step
        return value_noise(self._smooth, step, (half[0] + shift, half[1] - shift, half[2], half[3]))

    def _is_fat(self, x_um: F32, y_um: F32) -> NDArray[np.bool_]:
        fat = self._layout.fat
        col = np.clip((x_um / self._layout.cell_um).astype(np.int64), 0, fat.shape[1] - 1)
        row = np.clip((y_um / self._layout.cell_um).astype(np.int64), 0, fat.shape[0] - 1)
        return np.asarray(fat[row, col] > 0, np.bool_)

    def rings_near(self, half: Window, half_um: float) -> list[Ring]:
        """Rings whose bounds touch a window of the half grid."""
        bounds = self._layout.ring_bounds_um
        if len(bounds) == 0:
            return []
        left, top = half[0] * half_um, half[1] * half_um
        right, bottom = left + half[2] * half_um, top + half[3] * half_um
        touch = (bounds[:, 0] < right) & (bounds[:, 2] > left)
        touch &= (bounds[:, 1] < bottom) & (bounds[:, 3] > top)
        return [self._layout.rings[i] for i in np.nonzero(touch)[0]]

    def _rings(self, half: Window, half_um: float) -> tuple[F32, F32, F32, F32]:
        x, y, w, h = half
        ring = np.full((h, w), -_FAR_UM, np.float32)
        lumen = np.full((h, w), -_FAR_UM, np.float32)
        vessel = np.zeros((h, w), np.float32)
        tone = np.zeros((h, w), np.float32)
        near = self.rings_near(half, half_um)
        if not near:
            return ring, lumen, vessel, tone
        inside = np.zeros((h, w), np.uint8)
        wall = np.zeros((h, w), np.float32)
        for one in near:
            # Sixteenths of a sample: the border does not follow the samples in steps.
            points = (one.outline_um / half_um - 0.5 - np.array([x, y], np.float32)) * 16
            polygon = [np.round(points).astype(np.int32)]
            cv2.fillPoly(inside, polygon, 1, shift=4)
            cv2.fillPoly(wall, polygon, one.wall_um, shift=4)
            cv2.fillPoly(vessel, polygon, 1.0 if one.kind == "vessel" else 0.0, shift=4)
            cv2.fillPoly(tone, polygon, one.tone, shift=4)
        # Where there is nothing to measure to, the distance is the largest float.
        reach = _FAR_UM / half_um
        deep = np.minimum(cv2.distanceTransform(inside, cv2.DIST_L2, 5), reach) * half_um
        out = np.minimum(cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5), reach) * half_um
        ring = np.clip(np.where(inside > 0, deep, -out), -_FAR_UM, _FAR_UM)
        ring = as_float(cv2.GaussianBlur(as_float(ring), (0, 0), max(0.6, 1.2 / half_um)))
        scallop = 2.6 * self.wave(22, half, 7) + 1.2 * self.wave(10, half, 8)
        lumen = np.where(inside > 0, ring - wall + scallop * (1 - vessel), -_FAR_UM)
        return ring, as_float(lumen), vessel, tone
