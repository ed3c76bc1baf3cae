"""Closed rings of tissue: glands with their lumen, and vessels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.texture import F32, as_float

__all__ = ["Ring", "RingKind", "RingNuclei", "grow_ring", "ring_nuclei"]

RingKind = Literal["gland", "vessel"]


@dataclass(frozen=True, slots=True)
class Ring:
    """A gland or a vessel.

    Attributes:
        kind: Which of the two.
        outline_um: float32 (n, 2), closed polygon of the outer border, x and y in µm.
        wall_um: Thickness of epithelium or vessel wall.
        tone: -1 to 1, how dark this one is stained.
        seed: Of everything else about it.
    """

    kind: RingKind
    outline_um: F32
    wall_um: float
    tone: float
    seed: int

    @property
    def bounds_um(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        low, high = self.outline_um.min(axis=0), self.outline_um.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True, slots=True)
class RingNuclei:
    """Nuclei of a ring: centres in µm, float32 (n, 2), and angles of their long axis, (n,)."""

    centre_um: F32
    angle: F32


def grow_ring(
    rng: np.random.Generator, kind: RingKind, centre_um: tuple[float, float], radius_um: float
) -> Ring:
    """A lobed outline round a centre; larger glands are more folded.

    Args:
        rng: Source of the shape.
        kind: Gland or vessel.
        centre_um: x and y.
        radius_um: Mean radius.
    """
    points = int(np.clip(radius_um * 1.6, 48, 256))
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    lobes = 9 if kind == "gland" else 3
    folding = min(1.0, radius_um / 110.0) if kind == "gland" else 0.35
    r = np.ones_like(theta)
    for k in range(2, lobes + 1):
        share = 0.19 / (k - 1) ** 0.7 * folding
        r += share * rng.standard_normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    r = np.clip(r, 0.45, 1.7)
    stretch = 1.0 + (0.55 if kind == "gland" else 0.8) * rng.random()
    turn = rng.uniform(0, np.pi)
    x, y = r * np.cos(theta) * np.sqrt(stretch), r * np.sin(theta) / np.sqrt(stretch)
    outline = np.stack(
        [
            centre_um[0] + radius_um * (x * np.cos(turn) - y * np.sin(turn)),
            centre_um[1] + radius_um * (x * np.sin(turn) + y * np.cos(turn)),
        ],
        axis=1,
    )
    if kind == "gland":
        wall = min(rng.uniform(19, 30), 0.62 * radius_um)
    else:
        wall = radius_um * rng.uniform(0.22, 0.45)
    return Ring(
        kind=kind,
        outline_um=as_float(outline),
        wall_um=float(wall),
        tone=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(1 << 31)),
    )


def ring_nuclei(ring: Ring) -> RingNuclei:
    """Nuclei along the wall: upright in a gland's epithelium, along the wall in a vessel."""
    rng = np.random.default_rng(ring.seed)
    points, inward = _walk(ring.outline_um, 5.4 if ring.kind == "gland" else 13.0)
    n = len(points)
    upright = np.arctan2(inward[:, 1], inward[:, 0])
    if ring.kind == "vessel":
        depth = rng.uniform(2.0, max(2.5, ring.wall_um), n)
        centre = points + inward * depth[:, None]
        angle = upright + np.pi / 2 + rng.normal(0, 0.15, n)
        return RingNuclei(as_float(centre), as_float(angle))
    depth = 6.0 + np.abs(rng.normal(0, 2.6, n))
    keep = rng.random(n) < 0.94
    second = rng.random(n) < 0.22
    deeper = depth + rng.uniform(6.0, 9.0, n)
    along = np.stack([-inward[:, 1], inward[:, 0]], axis=1) * rng.normal(0, 0.9, n)[:, None]
    first_row = points + inward * depth[:, None] + along
    second_row = points + inward * deeper[:, None] + along
    centre = np.concatenate([first_row[keep], second_row[second]])
    angle = np.concatenate([upright[keep], upright[second]])
    return RingNuclei(as_float(centre), as_float(angle + rng.normal(0, 0.22, len(angle))))


def _walk(outline: F32, pace: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points at equal distances along a closed polygon, and unit normals that point inward."""
    closed = np.concatenate([outline, outline[:1]]).astype(np.float64)
    length = np.hypot(*np.diff(closed, axis=0).T)
    at = np.concatenate([[0.0], np.cumsum(length)])
    n = max(8, int(at[-1] / pace))
    s = (np.arange(n) + 0.5) * at[-1] / n
    points = np.stack([np.interp(s, at, closed[:, i]) for i in (0, 1)], axis=1)
    tangent = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
    # The angle of the outline grows, so its inside lies to the left of the way it goes.
    return points, np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
