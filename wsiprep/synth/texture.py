"""Noise that is a function of absolute position, so that blocks of a slide join without a seam.

Two grids are used: level-0 pixels, and the *half grid* of 2 x 2 pixels on which everything smooth
is computed. A window of either is named by the integer index of its first sample; sample `i` of
the half grid has its centre at level-0 pixel `2 i + 0.5`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "F32",
    "Window",
    "as_float",
    "enlarge",
    "hash01",
    "lattice",
    "smoothstep",
    "spectral_noise",
    "tile_window",
    "value_noise",
]

F32 = NDArray[np.float32]
Window = tuple[int, int, int, int]
"""x, y, width, height on a grid; x and y may be negative."""


def as_float(array: object) -> F32:
    """The array as float32 without a copy where it is that already."""
    return np.asarray(array, dtype=np.float32)


def hash01(ix: NDArray[np.int64], iy: NDArray[np.int64], seed: int, channel: int) -> F32:
    """Uniform numbers in [0, 1) for cells of a lattice, one for each (ix, iy, seed, channel).

    The finaliser is that of SplitMix64.

    Source:
        Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators, OOPSLA.
    """
    mask = (1 << 64) - 1
    start = (seed * 0x9E3779B97F4A7C15 + channel * 0xD1B54A32D192ED03) & mask
    z = ix.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z ^= (iy.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)) * np.uint64(0xC2B2AE3D27D4EB4F)
    z += np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return as_float((z >> np.uint64(40)).astype(np.float64) / float(1 << 24))


def lattice(window: Window, pitch: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the cells of a square lattice that touch a window, row by row.

    Args:
        window: On any grid.
        pitch: Side of a cell, in samples of that grid.

    Returns:
        `ix` and `iy`, int64 (n,).
    """
    x, y, w, h = window
    xs = np.arange(int(np.floor(x / pitch)), int(np.floor((x + w) / pitch)) + 1, dtype=np.int64)
    ys = np.arange(int(np.floor(y / pitch)), int(np.floor((y + h) / pitch)) + 1, dtype=np.int64)
    iy, ix = np.meshgrid(ys, xs, indexing="ij")
    return ix.ravel(), iy.ravel()


def spectral_noise(
    rng: np.random.Generator, side: int, sigma_x: float, sigma_y: float, power: float = 2.0
) -> F32:
    """Smooth Gaussian noise that tiles: zero mean, unit variance, float32 (side, side).

    Args:
        rng: Source of the white noise.
        side: Samples along each side, the period.
        sigma_x: Width of the smoothing kernel along x, in samples.
        sigma_y: The same along y.
        power: 2 is a Gaussian kernel; smaller values keep more fine detail.
    """
    white = rng.standard_normal((side, side)).astype(np.float32)
    fx = np.fft.rfftfreq(side)[None, :] * (2 * np.pi * sigma_x)
    fy = np.fft.fftfreq(side)[:, None] * (2 * np.pi * sigma_y)
    kernel = np.exp(-0.5 * np.hypot(fx, fy) ** power)
    kernel[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(white) * kernel, s=(side, side))
    return as_float(field / field.std())


def tile_window(texture: F32, window: Window) -> F32:
    """The window of a texture that repeats for ever; a copy."""
    x, y, w, h = window
    rows = np.arange(y, y + h) % texture.shape[0]
    cols = np.arange(x, x + w) % texture.shape[1]
    return as_float(texture[rows[:, None], cols[None, :]])


def value_noise(texture: F32, step: int, window: Window) -> F32:
    """Smooth noise: the texture magnified `step` times by cubic interpolation.

    Args:
        texture: Tiling noise, one sample every `step` samples of the grid.
        step: Magnification.
        window: Window of the magnified grid.

    Returns:
        float32 (height, width).
    """
    x, y, w, h = window
    left, top = x // step - 2, y // step - 2
    coarse = tile_window(texture, (left, top, w // step + 6, h // step + 6))
    return _magnify(coarse, step, x - left * step, y - top * step, w, h)


def enlarge(field: F32, step: int, window: Window) -> F32:
    """A window of a coarse field magnified `step` times; outside, the edge goes on.

    Args:
        field: (rows, cols), or (rows, cols, channels), anchored at sample (0, 0) of the grid.
        step: Samples of the grid along a side of a cell of the field.
        window: Window of the grid.
    """
    x, y, w, h = window
    left, top = x // step - 2, y // step - 2
    rows = np.clip(np.arange(top, top + h // step + 6), 0, field.shape[0] - 1)
    cols = np.clip(np.arange(left, left + w // step + 6), 0, field.shape[1] - 1)
    coarse = as_float(field[rows[:, None], cols[None, :]])
    return _magnify(coarse, step, x - left * step, y - top * step, w, h)


def _magnify(coarse: F32, step: int, dx: int, dy: int, w: int, h: int) -> F32:
    if step == 1:
        return as_float(coarse[dy : dy + h, dx : dx + w])
    size = (coarse.shape[1] * step, coarse.shape[0] * step)
    big = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC if step > 2 else cv2.INTER_LINEAR)
    return as_float(big[dy : dy + h, dx : dx + w])


def smoothstep(low: float, high: float, x: F32) -> F32:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    t = np.clip((x - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return as_float(t * t * (np.float32(3.0) - np.float32(2.0) * t))
