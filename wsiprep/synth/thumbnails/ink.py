"""Marker pen on the cover glass."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from wsiprep.synth.texture import F32, as_float, smoothstep
from wsiprep.synth.thumbnails.noise import field

__all__ = ["INKS", "ink_density"]

Rng = np.random.Generator
Shape = tuple[int, int]

INKS: Final[dict[str, tuple[float, float, float]]] = {
    "black": (1.00, 0.99, 0.96),
    "blue": (0.98, 0.66, 0.20),
    "navy": (1.00, 0.86, 0.42),
    "teal": (0.98, 0.36, 0.48),
    "green": (0.98, 0.34, 0.72),
    "lime": (0.70, 0.20, 0.95),
    "red": (0.12, 0.98, 0.86),
    "crimson": (0.20, 0.98, 0.66),
    "orange": (0.04, 0.52, 0.98),
    "purple": (0.62, 0.98, 0.26),
    "pink": (0.05, 0.80, 0.30),
}
"""Optical density in red, green and blue of a full stroke, but for its depth."""


def ink_density(rng: Rng, shape: Shape, tissue: F32, mpp: float) -> tuple[F32, F32]:
    """A group of strokes of one pen.

    Args:
        rng: Random source.
        shape: (h, w).
        tissue: float32 (h, w), positive on tissue; some strokes go round it.
        mpp: µm per pixel.

    Returns:
        float32 (h, w, 3), optical density; float32 (h, w), cover by ink, 0 to 1.
    """
    h, w = shape
    width = int(np.clip(np.exp(rng.normal(np.log(600), 0.6)) / mpp, 2, 0.12 * min(h, w)))
    drawn = np.zeros(shape, np.uint8)
    kind = rng.random()
    if kind < 0.35 and (tissue > 0).any():
        _around(rng, drawn, tissue, width)
    elif kind < 0.55:
        _letters(rng, drawn, width)
    elif kind < 0.7:
        _dots(rng, drawn, width)
    else:
        for _ in range(int(rng.integers(1, 5))):
            _stroke(rng, drawn, width)
    if rng.random() < 0.15:  # a scribble that is filled
        reach = np.ones((5 * width, 5 * width), np.uint8)
        drawn = np.asarray(cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, reach), np.uint8)
    if not drawn.any():
        return np.zeros((h, w, 3), np.float32), np.zeros(shape, np.float32)

    inside = cv2.distanceTransform((drawn > 127).astype(np.uint8), cv2.DIST_L2, 3)
    inside = np.minimum(inside, np.float32(h + w))  # infinite where all is ink
    ragged = inside + np.float32(0.12 * width) * field(rng, shape, max(3.0, 0.5 * width), kind=2)
    blur = float(np.exp(rng.uniform(np.log(0.5), np.log(3))))
    cover = smoothstep(0.0, blur, as_float(ragged - 0.5)) * (inside > 0)
    if rng.random() < 0.4:  # a pen that runs dry leaves streaks
        streak = field(rng, shape, float(rng.uniform(2.6, 6)), stretch=float(rng.uniform(4, 20)))
        dry = float(rng.uniform(-1.2, 0.6))
        cover *= smoothstep(dry - 0.3, dry + 0.3, streak)
    cover = as_float(cv2.GaussianBlur(as_float(cover), (0, 0), 0.3 * blur + 0.3))
    rgb = np.array(INKS[str(rng.choice(list(INKS)))], np.float32)
    rgb = np.clip(rgb * np.exp(rng.normal(0, 0.12, 3)), 0, 1.3).astype(np.float32)
    depth = float(np.exp(rng.uniform(np.log(0.3), np.log(1.6))))
    uneven = np.exp(np.float32(0.18) * field(rng, shape, max(4.0, 1.0 * width)))
    dried = 1 + np.float32(rng.uniform(0, 0.6)) * np.exp(-((inside / max(1.0, 0.15 * width)) ** 2))
    return as_float((np.float32(depth) * cover * uneven * dried)[..., None] * rgb), cover


def _around(rng: Rng, drawn: np.ndarray, tissue: F32, width: int) -> None:
    """Along the outline of the tissue, near it or on it."""
    reach = int(abs(rng.normal(0, 2.5)) * width) + 1
    away = cv2.distanceTransform((tissue <= 0).astype(np.uint8), cv2.DIST_L2, 3)
    grown = (away <= reach).astype(np.uint8)
    outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in sorted(outlines, key=len, reverse=True)[: int(rng.integers(1, 3))]:
        step = max(1, int(len(outline) / rng.integers(12, 60)))
        points = outline[::step]
        share = 1.0 if rng.random() < 0.5 else rng.uniform(0.2, 0.9)
        points = points[: max(2, int(share * len(points)))]
        line = np.ascontiguousarray(points.reshape(-1, 2), np.int32)
        cv2.polylines(drawn, [line], bool(share == 1.0), 255, width, cv2.LINE_AA)


def _stroke(rng: Rng, drawn: np.ndarray, width: int) -> None:
    h, w = drawn.shape
    count = int(rng.integers(3, 9))
    start = rng.uniform(-0.1, 1.1, 2) * (w, h)
    heading, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25) * min(h, w)
    turns = np.cumsum(rng.normal(0, rng.uniform(0.05, 0.7), count)) + heading
    steps = np.stack([np.cos(turns), np.sin(turns)], 1) * step
    points = start + np.concatenate([[[0.0, 0.0]], np.cumsum(steps, axis=0)])
    fine = np.linspace(0, count, 8 * count)
    smooth = [np.interp(fine, np.arange(count + 1), points[:, k]) for k in (0, 1)]
    kernel = np.ones(7) / 7
    smooth = [np.convolve(np.pad(v, 3, mode="edge"), kernel, mode="valid") for v in smooth]
    line = np.stack(smooth, 1).round().astype(np.int32)
    cv2.polylines(drawn, [line], False, 255, width, cv2.LINE_AA)


def _letters(rng: Rng, drawn: np.ndarray, width: int) -> None:
    h, w = drawn.shape
    text = "".join(rng.choice(list("ABCHILNSTX0123456789+-?"), int(rng.integers(1, 5))))
    thick = max(1, width // 2)
    scale = float(rng.uniform(1.5, 5)) * thick / 6
    at = (int(rng.uniform(-0.1, 0.8) * w), int(rng.uniform(0.1, 1.0) * h))
    cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)


def _dots(rng: Rng, drawn: np.ndarray, width: int) -> None:
    h, w = drawn.shape
    for _ in range(int(rng.integers(1, 9))):
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        half = np.maximum(1, width * rng.uniform(0.3, 1.1, 2)).astype(int)
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(drawn, at, (int(half[0]), int(half[1])), turn, 0, 360, 255, -1, cv2.LINE_AA)
