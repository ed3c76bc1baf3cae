"""Pixels of a synthetic slide, block by block, from its layout.

A block is painted in the order light goes through it: how much haematoxylin and eosin each
micrometre of tissue holds, the nuclei in it, then ink and dust, then the glass. Every quantity is
a function of absolute position, so a block does not depend on which other blocks are painted.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.synth import artefacts, cells
from wsiprep.synth.ground import Ground, Survey
from wsiprep.synth.layout import Layout
from wsiprep.synth.nuclei import StampBook
from wsiprep.synth.stain import StainPair, transmit
from wsiprep.synth.texture import (
    F32,
    Window,
    as_float,
    enlarge,
    smoothstep,
    spectral_noise,
    tile_window,
)

__all__ = ["Painter"]

_PAD_PX = 16


class Painter:
    """Paints blocks of one slide.

    Args:
        seed: Of textures and cells.
        size: Level-0 size.
        mpp: Level-0 µm per pixel.
        layout: What is where.
        stain: Colours of the stains.
        strength: Factor on all stain; 1 is a well-stained slide, 0.4 a faint one.
        ink: Marker of the pen stroke.
    """

    def __init__(
        self,
        seed: int,
        size: Size,
        mpp: float,
        layout: Layout,
        stain: StainPair,
        strength: float,
        ink: str,
    ) -> None:
        self.seed, self.size, self.mpp, self.layout = seed, size, mpp, layout
        self.stain, self.strength, self.ink = stain, strength, ink
        rng = np.random.default_rng([seed, 2])

        def blur(um: float) -> float:
            return max(um / mpp, 0.55)

        side = 1024
        fibre = spectral_noise(rng, side, blur(5.5), blur(0.5), 1.2)
        bundle = spectral_noise(rng, side, blur(17), blur(2.2), 1.3)
        cleft = spectral_noise(rng, side, blur(11), blur(1.5), 1.3)
        broad = spectral_noise(rng, side, blur(34), blur(8.0))
        ridged = 1.25 - 2.2 * np.abs(fibre)
        self._fibres = np.ascontiguousarray(np.stack([as_float(ridged), bundle, cleft, broad], -1))
        self._grain = spectral_noise(rng, 512, blur(0.5), blur(0.5), 1.2)
        self._foam = spectral_noise(rng, 512, blur(2.2), blur(2.2), 1.5)
        self._sensor = as_float(rng.normal(0, 1.3, (512, 512)) + self._grain * 0.6)
        self._survey = Survey(rng, seed, mpp, layout)
        self._stamps = StampBook(rng, mpp)

    def block(self, x: int, y: int, side: int) -> NDArray[np.uint8]:
        """RGB of a square of level 0, uint8 (side, side, 3); x, y and side are even."""
        window = (x - _PAD_PX, y - _PAD_PX, side + 2 * _PAD_PX, side + 2 * _PAD_PX)
        density = np.zeros((window[3], window[2], 3), np.float32)
        ground = self._survey.at(window)
        if ground is not None:
            density += self._tissue_density(ground, window)
        self._cover(density, window)
        image = transmit(artefacts.glass_light(window, self.size), density)
        image = as_float(cv2.GaussianBlur(image, (0, 0), 0.6))
        image += tile_window(self._sensor, window)[..., None]
        inner = image[_PAD_PX:-_PAD_PX, _PAD_PX:-_PAD_PX]
        return np.clip(np.rint(inner), 0, 255).astype(np.uint8)

    # --- stain -------------------------------------------------------------------------------

    def _tissue_density(self, ground: Ground, window: Window) -> F32:
        up = _Upsample(ground, window)
        ridge, bundle, cleft, broad = cv2.split(self._fibre_noise(up))
        grain, foam = tile_window(self._grain, window), tile_window(self._foam, window)
        frayed = up(ground.tissue) + 5.0 * bundle + 2.0 * ridge - 3.0
        there = smoothstep(-1.5, 1.5, as_float(frayed))
        loose, lymph = up(ground.loose), up(ground.lymph)

        # Stroma: bundles of collagen with clefts between them, wider where it is loose.
        gap = np.clip((cleft + 0.25 * foam - 2.15 + 1.75 * loose) * 2.2, 0, 1) * np.float32(0.94)
        collagen = 0.33 + 0.06 * bundle + 0.05 * ridge + 0.045 * broad + 0.03 * grain + 0.02 * foam
        eosin = as_float(np.clip(collagen, 0.06, None) * (1 - gap))
        haem = 0.06 + 0.025 * broad + 0.03 * foam + 0.02 * grain
        haem = as_float(np.clip(haem, 0, None) * (1 - gap))
        _mix(eosin, 0.15 + 0.035 * foam + 0.02 * grain, lymph)
        _mix(haem, 0.11 + 0.03 * foam, lymph)

        self._stain_rings(up, grain, foam, eosin, haem)
        if ground.fat.any():
            inside = smoothstep(0.25, 0.75, up(ground.fat.astype(np.float32)))
            strand = smoothstep(1.7, 0.4, as_float(up(ground.septum) + 0.5 * foam))
            _mix(eosin, as_float(strand * (0.29 + 0.05 * foam) + 0.012), inside)
            _mix(haem, strand * 0.08 + 0.006, inside)

        self._press_cells(ground, window, eosin, haem)
        thickness = 1.0 + 0.07 * up(self._survey.wave(420, ground.window, 11))
        thickness += 0.05 * up(self._survey.wave(90, ground.window, 12))
        thickness *= there * np.float32(self.strength)
        return self.stain.density(as_float(haem * thickness), as_float(eosin * thickness))

    def _stain_rings(self, up: _Upsample, grain: F32, foam: F32, eosin: F32, haem: F32) -> None:
        """Epithelium, vessel walls and what is in their lumen, over the stroma."""
        ground = up.ground
        ring, lumen = up(ground.ring), up(ground.lumen)
        if float(ring.max()) < -8:
            return
        vessel, tone = up(ground.vessel), up(ground.tone)
        apical = smoothstep(-13.0, -3.0, lumen)
        brush = np.exp(-((lumen + 1.0) ** 2) * np.float32(0.5))
        wall_e = 0.26 + 0.03 * tone + 0.035 * (foam + grain) - 0.045 * apical + 0.10 * brush
        wall_h = 0.16 + 0.035 * tone + 0.035 * foam + 0.03 * grain - 0.06 * apical
        _mix(wall_e, 0.40 + 0.05 * foam, vessel)
        _mix(wall_h, 0.06 + 0.02 * foam, vessel)
        wall = smoothstep(-0.9, 0.9, as_float(ring + 0.3 * foam))
        membrane = np.exp(-((ring + 0.6) ** 2) * np.float32(0.6))
        _mix(eosin, wall_e, wall)
        _mix(haem, wall_h, wall)
        eosin += 0.07 * membrane
        haem += 0.02 * membrane
        # Glands shrink away from the stroma here and there.
        slit = smoothstep(0.9, 1.9, up(self._survey.wave(45, ground.window, 9)))
        slit = slit * np.exp(-((ring + 3.2) ** 2) * np.float32(0.35)) * (1 - vessel)
        eosin *= 1 - 0.85 * slit
        haem *= 1 - 0.85 * slit
        hollow = smoothstep(-0.7, 0.7, as_float(lumen + 0.35 * foam))
        secreted = up(self._survey.wave(60, ground.window, 10)) + 0.18 * foam
        secreted = smoothstep(0.8, 2.4, as_float(secreted))
        _mix(eosin, 0.006 + 0.10 * secreted, hollow)
        _mix(haem, 0.004 + 0.02 * secreted, hollow)

    def _fibre_noise(self, up: _Upsample) -> F32:
        ground = up.ground
        texel = np.float32(1 / self.mpp)
        u, v = up(ground.along) * texel, up(ground.across) * texel
        noise = self._fibres_at(u, v)
        capsule = np.exp(-((ground.ring / 20.0) ** 2)) * (ground.ring < 4)
        if float(capsule.max()) > 0.02:
            # Fibres wrap round glands: there, the distance to the gland is the way across.
            round_it = self._fibres_at(u * np.float32(0.6), up(ground.ring) * texel)
            noise += up(as_float(capsule))[..., None] * (round_it - noise)
        return noise

    def _fibres_at(self, u: F32, v: F32) -> F32:
        side = self._fibres.shape[0]
        u = u - np.float32(np.floor(u[0, 0] / side) * side)
        v = v - np.float32(np.floor(v[0, 0] / side) * side)
        return as_float(cv2.remap(self._fibres, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))

    def _press_cells(self, ground: Ground, window: Window, eosin: F32, haem: F32) -> None:
        rings = self._survey.rings_near(ground.window, ground.half_um)
        blood = cells.red_cells(ground, self.seed, self.mpp)
        self._stamps.press(blood, eosin, window[0], window[1])
        nuclei = np.zeros_like(haem)
        found = cells.nuclei(ground, rings, self.seed, self.mpp)
        self._stamps.press(found, nuclei, window[0], window[1])
        # Chromatin displaces what takes up eosin.
        eosin *= 1 - 0.55 * np.minimum(nuclei * np.float32(1.6), 1)
        np.maximum(haem, nuclei + 0.35 * haem, out=haem)

    def _cover(self, density: F32, window: Window) -> None:
        half = (window[0] // 2, window[1] // 2, window[2] // 2, window[3] // 2)
        edge = enlarge(self.layout.pen, self.layout.step, half)
        if float(edge.max()) > -40:
            big = _double(edge)
            u = (np.arange(window[0], window[0] + window[2], dtype=np.float32))[None, :]
            v = as_float(big * np.float32(0.5 / self.mpp))
            u = np.ascontiguousarray(np.broadcast_to(u * np.float32(0.25), v.shape))
            streaks = as_float(self._fibres_at(u, v)[..., 3])
            blotches = _double(self._survey.wave(160, half, 13))
            density += artefacts.ink_density(self.ink, big, streaks, blotches)
        artefacts.dust(density, window, self.mpp, self.seed)


def _mix(target: F32, other: F32, share: F32) -> None:
    """Move `target` towards `other` by `share`, in place."""
    target += share * (other - target)


def _double(field: F32) -> F32:
    size = (field.shape[1] * 2, field.shape[0] * 2)
    return as_float(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR))


class _Upsample:
    """From the half grid of a block, margins and all, to its level-0 pixels."""

    def __init__(self, ground: Ground, window: Window) -> None:
        self.ground = ground
        self._left = window[0] // 2 - ground.window[0]
        self._top = window[1] // 2 - ground.window[1]
        self._w, self._h = window[2] // 2, window[3] // 2

    def __call__(self, field: F32) -> F32:
        inner = field[
            self._top - 1 : self._top + self._h + 1, self._left - 1 : self._left + self._w + 1
        ]
        return as_float(_double(np.ascontiguousarray(inner))[2:-2, 2:-2])
