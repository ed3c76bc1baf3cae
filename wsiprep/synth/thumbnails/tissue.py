"""The dyes that tissue takes up, seen from far."""

from __future__ import annotations

import cv2
import numpy as np

from wsiprep.synth.texture import F32, as_float, smoothstep
from wsiprep.synth.thumbnails.noise import field, grains, shape_of, web
from wsiprep.synth.thumbnails.scene import Scene

__all__ = ["amounts", "fat_amounts", "fat_parts", "hole_parts"]

Rng = np.random.Generator
Shape = tuple[int, int]


def fat_parts(rng: Rng, scene: Scene, shape: Shape) -> F32:
    """Where tissue is fat, 0 to 1."""
    if not scene.fat:
        return np.zeros(shape, np.float32)
    noise = field(rng, shape, rng.uniform(0.1, 0.5) * min(shape))
    level = float(np.quantile(noise[::4, ::4], 1 - scene.fat))
    return smoothstep(level - 0.08, level + 0.08, noise)


def hole_parts(rng: Rng, scene: Scene, shape: Shape) -> F32:
    """Where tissue is torn away, positive inside, in pixels from the border or about so."""
    if not scene.holes:
        return np.full(shape, -1e3, np.float32)
    wave = float(np.exp(rng.uniform(np.log(8), np.log(0.3 * min(shape)))))
    stretch = float(np.exp(rng.uniform(0, 1.8))) if rng.random() < 0.5 else 1.0
    noise = field(rng, shape, wave, stretch=stretch, kind=shape_of(rng))
    level = np.quantile(noise[::4, ::4], 1 - scene.holes)
    return as_float((noise - level) * np.float32(0.3 * wave))


def amounts(rng: Rng, scene: Scene, shape: Shape, usual: tuple[float, float]) -> tuple[F32, F32]:
    """How much of the two dyes each pixel has where there is tissue that is not fat.

    Returns:
        float32 (h, w) twice: the nuclear dye and the other one, not negative.
    """
    side = min(shape)
    wave = float(np.exp(rng.uniform(np.log(20), np.log(0.6 * side))))
    parts = smoothstep(-0.4, 0.4, field(rng, shape, wave, kind=shape_of(rng)))
    spread = 0.15 + 0.85 * scene.patchiness
    pair = [[dye * np.exp(rng.normal(0, 0.4 * spread)) for dye in usual] for _ in range(2)]
    nuclear = as_float(pair[0][0] + (pair[1][0] - pair[0][0]) * parts)
    counter = as_float(pair[0][1] + (pair[1][1] - pair[0][1]) * parts)

    # Glands or follicles: rims of nuclei, and pale or filled middles.
    if rng.random() < 0.5:
        cell_px = float(np.clip(np.exp(rng.normal(np.log(220), 0.5)) / scene.mpp, 4, 60))
        middle, own = web(rng, shape, cell_px)
        rim = np.exp(-((middle - 0.33) ** 2) * np.float32(60))
        pale = smoothstep(0.28, 0.15, middle) * (own < rng.uniform(0.1, 0.8))
        there = smoothstep(0.0, 0.6, field(rng, shape, 0.3 * side)) * np.float32(spread)
        nuclear *= 1 + there * (np.float32(0.9) * rim - np.float32(0.4))
        nuclear *= 1 - np.float32(0.9) * there * pale
        counter *= 1 - np.float32(rng.uniform(0.3, 0.95)) * there * pale
    # Pools of mucin, necrosis, keratin: paler or denser all over.
    if rng.random() < 0.4:
        wave = rng.uniform(0.05, 0.4) * side
        pool = smoothstep(0.7, 1.1, field(rng, shape, wave, kind=shape_of(rng)))
        nuclear *= 1 + pool * np.float32(rng.uniform(-0.9, 0.3) * spread)
        counter *= 1 + pool * np.float32(rng.uniform(-0.8, 0.8) * spread)

    # Fibres, clusters of cells, grains; finer than a pixel they even out.
    depth = rng.uniform(0.4, 1.3)
    fibre = field(
        rng, shape, max(2.6, 60 / scene.mpp), stretch=float(rng.uniform(1, 5)), kind=shape_of(rng)
    )
    cluster = field(rng, shape, max(2.6, 90 / scene.mpp), kind=3)
    grain = grains(rng, shape, float(np.clip(16 / scene.mpp, 1.0, 2.4)))
    nuclear *= np.exp(np.float32(depth) * (0.25 * cluster + 0.22 * grain))
    counter *= np.exp(np.float32(depth) * (0.16 * fibre + 0.10 * grain + 0.06 * cluster))
    thick = np.exp(np.float32(0.12) * field(rng, shape, 0.3 * side))
    return as_float(nuclear * thick), as_float(counter * thick)


def fat_amounts(rng: Rng, scene: Scene, shape: Shape, counter: F32) -> F32:
    """What fat takes up: septa between cells that are all but empty; the counter dye alone."""
    cell_px = float(rng.uniform(60, 110)) / scene.mpp
    # Several cells fall on a pixel where it is coarse: then a wider web with soft threads is seen.
    middle, own = web(rng, shape, max(3.0, cell_px))
    edge = smoothstep(0.25, 0.75, middle)
    edge = as_float(cv2.GaussianBlur(edge, (0, 0), 0.6)) * (0.4 + 0.6 * own)
    depth = rng.uniform(0.15, 0.6) * (1.0 if cell_px > 3 else 0.6)
    veil = np.float32(rng.uniform(0.02, 0.10))
    return as_float(counter * (veil + np.float32(depth) * edge))
