"""What is on a slide besides tissue: glass, dust, marker ink."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from wsiprep.core.types import Size
from wsiprep.synth.texture import F32, Window, as_float, hash01, lattice, smoothstep

__all__ = ["INKS", "Ink", "dust", "glass_light", "ink_density"]

Ink = Literal["green", "blue", "red", "black"]

INKS: dict[str, tuple[float, float, float]] = {
    "green": (1.00, 0.34, 0.62),
    "blue": (0.98, 0.60, 0.20),
    "red": (0.10, 0.98, 0.78),
    "black": (1.05, 1.02, 0.98),
}
"""Optical density of a full stroke of each marker in red, green and blue."""

if set(INKS) != set(get_args(Ink)):
    raise RuntimeError("every ink needs a density")

_WHITE = (243.0, 241.5, 238.0)
_DUST_PITCH_UM = 420.0


def glass_light(window: Window, size: Size) -> F32:
    """Light through bare glass: a little warm, a little darker away from the middle.

    Args:
        window: Level-0 pixels.
        size: Level-0 size.

    Returns:
        float32 (h, w, 3), 0 to 255.
    """
    x, y, w, h = window
    u = (np.arange(x, x + w, dtype=np.float32) / size.width - 0.5)[None, :]
    v = (np.arange(y, y + h, dtype=np.float32) / size.height - 0.46)[:, None]
    fall = 1.0 - 0.022 * (u * u + v * v) * 2.0
    return as_float(fall[..., None] * np.array(_WHITE, np.float32))


def ink_density(ink: str, edge_um: F32, streaks: F32, blotches: F32) -> F32:
    """Optical density of a marker stroke.

    Args:
        ink: Key of `INKS`.
        edge_um: float32 (h, w), distance to the edge of the stroke, positive inside.
        streaks: Unit-variance noise drawn out along the stroke.
        blotches: Smooth unit-variance noise.

    Returns:
        float32 (h, w, 3).
    """
    ragged = edge_um + 9.0 * blotches + 5.0 * streaks
    cover = smoothstep(-4.0, 7.0, as_float(ragged))
    # Ink gathers at the edge of a stroke as it dries, and the fibres of the tip leave streaks.
    dried = 0.30 * np.exp(-((np.maximum(ragged, 0) / 26.0) ** 2))
    depth = cover * np.clip(0.86 + 0.09 * streaks + 0.05 * blotches + dried, 0.12, 1.5)
    return as_float(depth[..., None] * np.array(INKS[ink], np.float32))


def dust(target: F32, window: Window, mpp: float, seed: int) -> None:
    """Specks on the cover glass, out of focus.

    Args:
        target: float32 (h, w, 3), optical density, changed in place.
        window: Level-0 pixels of `target`.
        mpp: Level-0 µm per pixel.
        seed: Of the specks.
    """
    x0, y0, w, h = window
    reach = int(20 / mpp)
    grown = (x0 - reach, y0 - reach, w + 2 * reach, h + 2 * reach)
    ix, iy = lattice(grown, _DUST_PITCH_UM / mpp)
    rolls = [hash01(ix, iy, seed, 40 + k) for k in range(6)]
    for i in np.nonzero(rolls[0] < 0.16)[0]:
        x = (ix[i] + rolls[1][i]) * _DUST_PITCH_UM / mpp - x0
        y = (iy[i] + rolls[2][i]) * _DUST_PITCH_UM / mpp - y0
        radius = (1.2 + 4.5 * rolls[3][i] ** 3) / mpp
        stretch, turn = 1.0 + 2.5 * rolls[4][i] ** 2, np.pi * rolls[5][i]
        r = int(np.ceil(radius * stretch * 1.8)) + 1
        left, right = max(0, int(x) - r), min(w, int(x) + r + 1)
        top, bottom = max(0, int(y) - r), min(h, int(y) + r + 1)
        if left >= right or top >= bottom:
            continue
        dx = (np.arange(left, right, dtype=np.float32) - np.float32(x))[None, :]
        dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None]
        along = (dx * np.cos(turn) + dy * np.sin(turn)) / (radius * stretch)
        across = (dy * np.cos(turn) - dx * np.sin(turn)) / radius
        speck = smoothstep(1.5, 0.5, as_float(np.hypot(along, across)))
        shade = 0.16 + 0.5 * rolls[4][i]
        target[top:bottom, left:right] += speck[..., None] * np.float32(shade)
