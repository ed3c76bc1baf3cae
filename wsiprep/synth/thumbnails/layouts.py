"""Where tissue lies: signed fields, positive inside, in pixels from the border or about so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import cv2
import numpy as np

from wsiprep.synth.texture import F32, as_float
from wsiprep.synth.thumbnails.noise import field

__all__ = ["LAYOUTS", "NOWHERE", "Layout"]

Rng = np.random.Generator
Shape = tuple[int, int]

NOWHERE: Final = np.float32(-1e3)
"""The field where there is nothing near."""


def _blob(
    rng: Rng, shape: Shape, centre: tuple[float, float], radii: tuple[float, float], lobing: float
) -> F32:
    """A lobed, turned ellipse."""
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = xs - np.float32(centre[0]), ys - np.float32(centre[1])
    u, v = (dx * cos + dy * sin) / radii[0], (dy * cos - dx * sin) / radii[1]
    r, theta = cv2.cartToPolar(as_float(u), as_float(v))
    border = np.ones_like(r)
    for k in range(2, 8):
        share = lobing * rng.standard_normal() / k
        border += np.float32(share) * np.cos(k * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    return as_float((border - r) * min(radii))


def _rough(rng: Rng, shape: Shape, inside: F32, size_px: float) -> F32:
    """Borders as tissue has them: bumps of several sizes."""
    for wave, depth in ((0.5, 0.10), (0.15, 0.05), (0.05, 0.03)):
        wave_px = max(2.6, wave * size_px)
        inside = as_float(
            inside
            + np.float32(depth * size_px * rng.uniform(0.2, 1.6)) * field(rng, shape, wave_px)
        )
    return inside


def _resection(rng: Rng, shape: Shape, share: float) -> F32:
    h, w = shape
    scale = np.sqrt(share * h * w / np.pi)
    aspect = np.exp(rng.uniform(0, 0.7))
    radii = (scale * aspect, scale / aspect)
    off = 0.15 if rng.random() < 0.6 else 0.5  # seen as a whole, or a part of it
    centre = (w * rng.uniform(0.5 - off, 0.5 + off), h * rng.uniform(0.5 - off, 0.5 + off))
    return _rough(rng, shape, _blob(rng, shape, centre, radii, rng.uniform(0.02, 0.35)), scale)


def _pieces(rng: Rng, shape: Shape, share: float) -> F32:
    h, w = shape
    count = int(rng.integers(2, 9))
    sizes = rng.lognormal(0, 0.5, count)
    sizes *= np.sqrt(share * h * w / np.pi / (sizes**2).sum())
    out = np.full(shape, NOWHERE, np.float32)
    for size in sizes:
        aspect = np.exp(rng.uniform(0, 0.6))
        centre = (w * rng.uniform(0.05, 0.95), h * rng.uniform(0.05, 0.95))
        blob = _blob(rng, shape, centre, (size * aspect, size / aspect), rng.uniform(0.05, 0.4))
        np.maximum(out, blob, out=out)
    return _rough(rng, shape, out, float(sizes.mean()))


def _fragments(rng: Rng, shape: Shape, share: float) -> F32:
    """Crumbs of all sizes, some in flocks."""
    h, w = shape
    seeds = np.zeros(shape, np.uint8)
    count = int(rng.integers(15, 120))
    flock = rng.uniform(0, 1, (max(1, count // 12), 2)) * (w, h)
    budget = share * h * w
    for _ in range(count):
        size = min(float(rng.lognormal(1.6, 0.8)), 0.1 * min(h, w))
        if rng.random() < 0.6:
            centre = flock[rng.integers(len(flock))] + rng.normal(0, 0.08 * min(h, w), 2)
        else:
            centre = rng.uniform(0, 1, 2) * (w, h)
        axes = (max(1, int(size * rng.uniform(0.8, 2.5))), max(1, int(size)))
        turn = float(rng.uniform(0, 180))
        at = (int(centre[0]), int(centre[1]))
        cv2.ellipse(seeds, at, axes, turn, 0, 360, 1, -1)
        budget -= np.pi * axes[0] * axes[1]
        if budget < 0:
            break
    return _rough(rng, shape, _signed(seeds), float(rng.uniform(8, 30)))


def _cores(rng: Rng, shape: Shape, share: float) -> F32:
    """Needle biopsies: long, thin, curved, broken here and there."""
    h, w = shape
    seeds = np.zeros(shape, np.uint8)
    count = int(rng.integers(1, 7))
    length = 0.8 * max(h, w) * rng.uniform(0.4, 1.0)
    width = float(np.clip(share * h * w / count / length, 4, 0.1 * min(h, w)))
    turn = rng.uniform(0, np.pi)
    for _ in range(count):
        centre = rng.uniform(0.15, 0.85, 2) * (w, h)
        angle = turn + rng.normal(0, 0.3)
        t = np.linspace(-0.5, 0.5, 24)
        bend = rng.normal(0, 0.12, 2)
        along = t * length * rng.uniform(0.5, 1)
        across = length * (bend[0] * t**2 + bend[1] * t**3)
        x = centre[0] + along * np.cos(angle) - across * np.sin(angle)
        y = centre[1] + along * np.sin(angle) + across * np.cos(angle)
        points = np.stack([x, y], 1).round().astype(np.int32)
        cut = np.flatnonzero(rng.random(len(points)) < 0.06)
        for part in np.split(points, cut):
            if len(part) > 1:
                cv2.polylines(seeds, [part], False, 1, max(1, int(width)))
    return _rough(rng, shape, _signed(seeds), width)


def _tma(rng: Rng, shape: Shape, share: float) -> F32:
    """Cores of a tissue microarray."""
    h, w = shape
    pitch = min(h, w) / rng.uniform(2.5, 9)
    radius = pitch * float(np.clip(np.sqrt(share / np.pi) * 1.4, 0.25, 0.44))
    seeds = np.zeros(shape, np.uint8)
    for y in np.arange(pitch / 2, h, pitch):
        for x in np.arange(pitch / 2, w, pitch):
            if rng.random() < 0.12:
                continue
            at = np.array([x, y]) + rng.normal(0, 0.04 * pitch, 2)
            axes = np.maximum(1, radius * rng.uniform(0.8, 1.05, 2)).astype(int)
            arc = 360 if rng.random() < 0.8 else float(rng.uniform(100, 330))
            start = float(rng.uniform(0, 360))
            cv2.ellipse(
                seeds, (int(at[0]), int(at[1])), (int(axes[0]), int(axes[1])), start, 0, arc, 1, -1
            )
    return _rough(rng, shape, _signed(seeds), 0.4 * radius)


def _sections(rng: Rng, shape: Shape, share: float) -> F32:
    """The same piece several times over, as sections of one block."""
    h, w = shape
    count = int(rng.integers(2, 5))
    scale = np.sqrt(share * h * w / np.pi / count)
    aspect = np.exp(rng.uniform(0, 0.6))
    one = _blob(rng, shape, (w / 2, h / 2), (scale * aspect, scale / aspect), rng.uniform(0.1, 0.4))
    one = _rough(rng, shape, one, scale)
    along = rng.uniform(0, np.pi)
    out = np.full(shape, NOWHERE, np.float32)
    for k in range(count):
        shift = (k - (count - 1) / 2) * rng.uniform(1.7, 2.4) * scale
        turn = float(rng.normal(0, 8))
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), turn, float(rng.uniform(0.9, 1.05)))
        matrix[:, 2] += (shift * np.cos(along), shift * np.sin(along))
        moved = cv2.warpAffine(one, matrix, (w, h), borderValue=float(NOWHERE))
        np.maximum(out, moved, out=out)
    return out


def _filled(rng: Rng, shape: Shape, share: float) -> F32:
    """Tissue nearly everywhere: a corner of a large slide."""
    wave = rng.uniform(0.2, 0.8) * min(shape)
    noise = field(rng, shape, wave)
    level = np.quantile(noise[::4, ::4], 1 - max(share, 0.6))
    return _rough(rng, shape, as_float((noise - level) * np.float32(0.25 * wave)), 0.2 * wave)


def _empty(rng: Rng, shape: Shape, share: float) -> F32:
    return np.full(shape, NOWHERE, np.float32)


def _signed(mask: np.ndarray) -> F32:
    """Distance in pixels to the border of a mask, positive inside."""
    if not mask.any():
        return np.full(mask.shape, NOWHERE, np.float32)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    far = np.float32(sum(mask.shape))  # infinite where all is tissue
    return as_float(np.minimum(inside, far) - outside)


class Layout(NamedTuple):
    """How tissue lies on a slide.

    Attributes:
        odds: How often it is drawn, against the others.
        place: From a random source, (h, w) and the wanted share of tissue to a field.
    """

    odds: float
    place: Callable[[Rng, Shape, float], F32]


LAYOUTS: Final = {
    "resection": Layout(6, _resection),
    "pieces": Layout(4, _pieces),
    "fragments": Layout(2, _fragments),
    "cores": Layout(2, _cores),
    "tma": Layout(1.5, _tma),
    "sections": Layout(2, _sections),
    "filled": Layout(3, _filled),
    "empty": Layout(1, _empty),
}
"""Every layout by name."""
