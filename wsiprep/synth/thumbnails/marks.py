"""Artefacts of glass and tissue: coverslip edges, bubbles, dust, scratches, haze; folds."""

from __future__ import annotations

import cv2
import numpy as np

from wsiprep.synth.texture import F32, as_float, smoothstep
from wsiprep.synth.thumbnails.noise import field, strongest

__all__ = ["bubble", "coverslip_edge", "drops", "dust", "fold", "haze", "smear"]

Rng = np.random.Generator
Shape = tuple[int, int]


def _line_distance(rng: Rng, shape: Shape) -> F32:
    """Signed distance in pixels to a long line, nearly straight."""
    h, w = shape
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    # Edges of glass run along the slide as a rule, and near its rim.
    turn = float(rng.integers(0, 2) * np.pi / 2 + rng.normal(0, 0.06))
    if rng.random() < 0.25:
        turn = float(rng.uniform(0, np.pi))
    centre = rng.uniform(0.02, 0.98, 2) * (w, h)
    across = (xs - np.float32(centre[0])) * np.float32(np.cos(turn))
    across += (ys - np.float32(centre[1])) * np.float32(np.sin(turn))
    along = (ys - np.float32(centre[1])) * np.float32(np.cos(turn))
    along -= (xs - np.float32(centre[0])) * np.float32(np.sin(turn))
    bend = np.float32(rng.normal(0, 0.15) / max(h, w))
    wobble = np.float32(rng.uniform(0, 1.5)) * field(rng, shape, 60)
    return as_float(across + bend * along * along + wobble)


def coverslip_edge(rng: Rng, shape: Shape) -> tuple[F32, F32]:
    """An edge of the cover glass: dark and bright lines, a shadow, cracks.

    Returns:
        float32 (h, w): optical density, the same for all colours, below 0 where it is bright;
        and where the edge is, 0 to 1.
    """
    far = _line_distance(rng, shape)
    density = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        at = np.float32(rng.normal(0, 5))
        width = float(np.exp(rng.uniform(np.log(0.7), np.log(6))))
        depth = float(rng.uniform(0.06, 1.0)) * (-0.15 if rng.random() < 0.2 else 1.0)
        patchy = smoothstep(-1.4, -0.4, field(rng, shape, rng.uniform(20, 120)))
        density += np.float32(depth) * np.exp(-(((far - at) / np.float32(width)) ** 2)) * patchy
    shadow = float(rng.uniform(0, 0.14))
    reach = float(rng.uniform(6, 60))
    side = far if rng.random() < 0.5 else -far
    density += np.float32(shadow) * np.exp(-np.maximum(side, 0) / np.float32(reach)) * (side > 0)
    if rng.random() < 0.3:  # cracks that leave the edge
        for _ in range(int(rng.integers(1, 4))):
            crack = _line_distance(rng, shape)
            thin, depth = np.float32(rng.uniform(0.6, 1.5)), float(rng.uniform(0.1, 0.6))
            density += np.float32(depth) * np.exp(-((crack / thin) ** 2))
    there = smoothstep(0.03, 0.07, as_float(np.abs(density)))
    if rng.random() < 0.3:  # outside the cover glass, light is a little different
        density += np.float32(rng.normal(0, 0.03)) * (far > 0)
    return as_float(density), there


def smear(rng: Rng, shape: Shape) -> F32:
    """Residue on glass: grey, streaky and broad; optical density of all colours."""
    where = smoothstep(0.6, 1.2, field(rng, shape, rng.uniform(0.15, 0.6) * min(shape)))
    streaks = field(rng, shape, rng.uniform(3, 20), stretch=rng.uniform(2, 12), kind=2)
    depth = np.float32(rng.uniform(0.01, 0.06))
    return as_float(depth * where * (1 + np.float32(0.6) * streaks))


def haze(rng: Rng, shape: Shape) -> F32:
    """Glass that is not quite clear: broad, tinted, hardly there; float32 (h, w, 3)."""
    wave = float(np.exp(rng.uniform(np.log(6), np.log(0.6 * min(shape)))))
    where = smoothstep(-0.6, 0.8, field(rng, shape, wave, kind=int(rng.integers(3))))
    tint = rng.uniform(0.4, 1.0, 3).astype(np.float32)
    return as_float(np.float32(rng.uniform(0.002, 0.016)) * where[..., None] * tint)


def drops(rng: Rng, shape: Shape) -> F32:
    """Dried droplets: faint round spots and rings, in swarms; optical density of all colours."""
    h, w = shape
    spots = np.zeros(shape, np.float32)
    centre, spread = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.1, 0.6) * min(h, w)
    for _ in range(int(rng.integers(4, 40))):
        x, y = (int(v) for v in rng.normal(centre, spread))
        radius = int(np.exp(rng.uniform(np.log(2), np.log(10))))
        ring = 1 if rng.random() < 0.4 else -1
        cv2.circle(spots, (x, y), radius, float(rng.uniform(0.4, 1)), ring, cv2.LINE_AA)
    spots = as_float(cv2.GaussianBlur(spots, (0, 0), float(rng.uniform(0.6, 2))))
    return as_float(np.float32(rng.uniform(0.005, 0.03)) * spots)


def bubble(rng: Rng, shape: Shape) -> tuple[F32, F32]:
    """An air bubble: a dark rim, within it the glass or tissue as it is; as `coverslip_edge`."""
    h, w = shape
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    radius = float(np.exp(rng.uniform(np.log(6), np.log(0.35 * min(h, w)))))
    x, y = rng.uniform(0, 1, 2) * (w, h)
    stretch = float(rng.uniform(0.75, 1.0))
    r = np.hypot((xs - np.float32(x)) * stretch, ys - np.float32(y))
    rim = as_float(r - radius + np.float32(0.05 * radius) * field(rng, shape, max(4.0, radius)))
    width = float(rng.uniform(0.8, 4))
    density = np.float32(rng.uniform(0.1, 0.8)) * np.exp(-((rim / np.float32(width)) ** 2))
    density -= np.float32(rng.uniform(0, 0.04)) * np.exp(-(((rim + 3 * width) / (2 * width)) ** 2))
    there = smoothstep(0.04, 0.08, as_float(np.abs(density)))
    return as_float(density + np.float32(rng.normal(0, 0.015)) * (rim < 0)), there


def dust(rng: Rng, shape: Shape, count: int) -> tuple[F32, F32]:
    """Specks, fibres and scratches.

    Returns:
        float32 (h, w, 3): optical density; and float32 (h, w), where they are, 0 to 1.
    """
    h, w = shape
    density = np.zeros((h, w, 3), np.float32)
    for _ in range(count):
        spot = np.zeros(shape, np.uint8)
        at = rng.uniform(0, 1, 2) * (w, h)
        kind = rng.random()
        if kind < 0.6:
            axes = np.maximum(0, rng.lognormal(0.2, 0.7, 2)).astype(int)
            cv2.ellipse(
                spot, (int(at[0]), int(at[1])), (int(axes[0]), int(axes[1])),
                float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA,
            )  # fmt: skip
        else:
            turns = np.cumsum(rng.normal(0, 0.35 if kind < 0.85 else 0.02, 12))
            step = rng.uniform(1, 6) if kind < 0.85 else rng.uniform(4, 25)
            turns += rng.uniform(0, 2 * np.pi)
            moves = np.stack([np.cos(turns), np.sin(turns)], 1) * step
            line = (at + np.cumsum(moves, axis=0)).round().astype(np.int32)
            cv2.polylines(spot, [line], False, 255, 1, cv2.LINE_AA)
        ys, xs = np.flatnonzero(spot.any(1)), np.flatnonzero(spot.any(0))
        if not len(ys):
            continue
        box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
        grey = np.full(3, rng.uniform(0.15, 1.2))
        colour = grey * (np.exp(rng.normal(0, 0.2, 3)) if rng.random() < 0.25 else 1.0)
        if kind > 0.85 and rng.random() < 0.4:
            colour = -0.1 * grey  # scratches shine
        density[box] += (spot[box] / 255.0).astype(np.float32)[..., None] * colour.astype(
            np.float32
        )
    density = as_float(cv2.GaussianBlur(density, (0, 0), float(rng.uniform(0.3, 1.2))))
    return density, smoothstep(0.05, 0.10, strongest(np.abs(density)))


def fold(rng: Rng, shape: Shape) -> F32:
    """Where tissue lies double, 0 to 1: a narrow, curved band that tapers off."""
    h, w = shape
    drawn = np.zeros(shape, np.uint8)
    count = int(rng.integers(6, 20))
    at = rng.uniform(0.1, 0.9, 2) * (w, h)
    step = rng.uniform(0.02, 0.06) * min(h, w)
    turns = np.cumsum(rng.normal(0, 0.25, count)) + rng.uniform(0, 2 * np.pi)
    points = at + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * step, axis=0)
    widest = float(rng.uniform(1.5, 0.035 * min(h, w)))
    for k in range(count - 1):
        width = max(1, round(widest * np.sin(np.pi * (k + 1) / count)))
        start, stop = (tuple(int(v) for v in points[k + n].round()) for n in (0, 1))
        cv2.line(drawn, start, stop, 255, width, cv2.LINE_AA)
    return as_float(cv2.GaussianBlur(drawn, (0, 0), 0.7)) / np.float32(255)
