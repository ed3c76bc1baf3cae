"""Noise at any wavelength, quickly: windows of a few tiling textures, turned and stretched."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from wsiprep.synth.texture import F32, as_float, spectral_noise

__all__ = ["field", "grains", "shape_of", "strongest", "web"]

_SIDE = 512
_WAVE_PX = 12.0
"""Bumps of the textures are about this wide."""


@cache
def _textures() -> tuple[F32, ...]:
    rng = np.random.default_rng(20_260_101)
    return tuple(spectral_noise(rng, _SIDE, 2.6, 2.6, power) for power in (2.0, 1.4, 1.0, 0.8))


def shape_of(rng: np.random.Generator) -> int:
    """A character of noise: from smooth to one with detail at every scale."""
    return int(rng.integers(0, 4))


def field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    wave_px: float,
    *,
    stretch: float = 1.0,
    turn: float | None = None,
    kind: int | None = None,
) -> F32:
    """Noise of about zero mean and unit variance.

    Args:
        rng: Chooses the window.
        shape: (h, w).
        wave_px: Width of bumps; at most about 40 bumps fit along a texture before it repeats.
        stretch: How much longer bumps are than wide.
        turn: Direction of the long axis in radians; None takes any.
        kind: Texture, see `shape_of`; None takes the smooth one.

    Returns:
        float32 (h, w).
    """
    texture = _textures()[0 if kind is None else kind]
    if wave_px < 2.5:
        return grains(rng, shape, wave_px)
    angle = float(rng.uniform(0, 2 * np.pi)) if turn is None else turn
    cos, sin = np.cos(angle) * _WAVE_PX / wave_px, np.sin(angle) * _WAVE_PX / wave_px
    dx, dy = rng.uniform(0, _SIDE, 2)
    # Where in the texture each pixel looks: along the axis slower, by `stretch`.
    matrix = np.array([[cos / stretch, sin / stretch, dx], [-sin, cos, dy]])
    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return as_float(cv2.warpAffine(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP))


def grains(rng: np.random.Generator, shape: tuple[int, int], wave_px: float = 1.0) -> F32:
    """Noise from pixel to pixel, smoothed a little for wider grains; unit variance."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if wave_px > 1.2:
        sigma = wave_px / 4
        noise = cv2.GaussianBlur(noise, (0, 0), sigma) * np.float32(2 * np.sqrt(np.pi) * sigma)
    return as_float(noise)


def strongest(planes: F32) -> F32:
    """The largest of the three colours of each pixel; much faster than a maximum over an axis."""
    return as_float(np.maximum(np.maximum(planes[..., 0], planes[..., 1]), planes[..., 2]))


def web(rng: np.random.Generator, shape: tuple[int, int], cell_px: float) -> tuple[F32, F32]:
    """Irregular cells, as of fat or glands.

    Args:
        rng: Places them.
        shape: (h, w).
        cell_px: Their usual width.

    Returns:
        float32 (h, w): the distance of each pixel to the middle of its cell, in cells' widths;
        and a number in 0 to 1 that each cell has for itself.
    """
    h, w = shape
    rows, cols = int(h / cell_px) + 3, int(w / cell_px) + 3
    jitter = rng.uniform(0.0, 1.0, (2, rows, cols))
    y = np.clip((np.arange(rows)[:, None] - 1 + jitter[0]) * cell_px, 0, h - 1).astype(np.int64)
    x = np.clip((np.arange(cols)[None, :] - 1 + jitter[1]) * cell_px, 0, w - 1).astype(np.int64)
    empty = np.ones(shape, np.uint8)
    empty[y.ravel(), x.ravel()] = 0
    distance, nearest = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    own = rng.uniform(0, 1, int(nearest.max()) + 1).astype(np.float32)
    return as_float(distance / np.float32(cell_px)), as_float(own[nearest])
