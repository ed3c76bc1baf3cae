"""Nuclei and red blood cells: drawn once as small stamps, then pressed into a block."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.texture import F32, as_float, smoothstep, spectral_noise

__all__ = [
    "CELLS",
    "EPITHELIUM",
    "LYMPHOCYTE",
    "PLUMP",
    "RED_CELL",
    "SPINDLE",
    "CellKind",
    "Cells",
    "StampBook",
]

_VARIANTS = 16
_COLUMNS = ("x", "y", "kind", "angle", "pick", "weight")
_ANGLES = 24


@dataclass(frozen=True, slots=True)
class CellKind:
    """How one kind of nucleus looks. Lengths in µm, densities in units of stain.

    Attributes:
        half_length_um: Half the long axis, mean over the variants.
        half_width_um: Half the short axis.
        density: Stain in the middle.
        rim: Stain added at the nuclear membrane.
        clumps: Strength of chromatin clumps.
        nucleolus: Share of variants with a nucleolus.
        bend: How irregular the outline is.
        halo: How much the shrinkage rim round it hides what lies below, 0 to 1.
    """

    half_length_um: float
    half_width_um: float
    density: float
    rim: float
    clumps: float
    nucleolus: float
    bend: float
    halo: float


CELLS: tuple[CellKind, ...] = (
    CellKind(6.4, 1.6, 0.80, 0.06, 0.10, 0.0, 0.10, 0.10),  # spindle: fibroblast, endothelium
    CellKind(3.2, 2.9, 0.88, 0.08, 0.16, 0.0, 0.05, 0.35),  # lymphocyte
    CellKind(4.9, 3.0, 0.47, 0.20, 0.17, 0.55, 0.07, 0.25),  # epithelium
    CellKind(4.2, 2.6, 0.58, 0.15, 0.20, 0.2, 0.12, 0.20),  # plump stromal cell
    CellKind(3.3, 3.0, 0.62, 0.10, 0.03, 0.0, 0.05, 0.55),  # red blood cell, pressed into eosin
)
SPINDLE, LYMPHOCYTE, EPITHELIUM, PLUMP, RED_CELL = range(len(CELLS))


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells to be drawn, in the order in which they are drawn.

    Attributes:
        x: float32 (n,), level-0 pixels.
        y: The same down.
        kind: int (n,), index into `CELLS`.
        angle: float32 (n,), of the long axis, radians.
        pick: float32 (n,), 0 to 1, chooses the variant.
        weight: float32 (n,), factor on the density.
    """

    x: F32
    y: F32
    kind: NDArray[np.int64]
    angle: F32
    pick: F32
    weight: F32

    @staticmethod
    def of(kind: int, x: F32, y: F32, angle: F32, pick: F32, weight: F32) -> Cells:
        """Cells that are all of one kind."""
        return Cells(x, y, np.full(len(x), kind, np.int64), angle, pick, weight)

    def only(self, keep: NDArray[np.bool_]) -> Cells:
        """The cells where `keep` is true."""
        return Cells(*(getattr(self, name)[keep] for name in _COLUMNS))

    @staticmethod
    def join(parts: list[Cells]) -> Cells:
        """All cells of the parts, first part first."""
        return Cells(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
        )


class StampBook:
    """Stamps of every kind, variant and angle for one resolution.

    Args:
        rng: Source of the variants.
        mpp: Level-0 µm per pixel.
    """

    def __init__(self, rng: np.random.Generator, mpp: float) -> None:
        self._ink: list[list[F32]] = []
        self._keep: list[list[F32]] = []
        grain = spectral_noise(rng, 64, max(0.45 / mpp, 0.6), max(0.45 / mpp, 0.6))
        for kind in CELLS:
            ink: list[F32] = []
            keep: list[F32] = []
            for _ in range(_VARIANTS):
                shape = _Variant.draw(rng, kind)
                for a in range(_ANGLES):
                    stamp, hold = shape.stamp(kind, np.pi * a / _ANGLES, mpp, grain)
                    ink.append(stamp)
                    keep.append(hold)
            self._ink.append(ink)
            self._keep.append(keep)

    def press(self, cells: Cells, target: F32, x0: int, y0: int) -> None:
        """Draw cells into a block, later ones over earlier ones.

        Args:
            cells: What to draw; those outside the block are clipped.
            target: float32 (h, w), stain density, changed in place.
            x0: Level-0 x of the first column.
            y0: Level-0 y of the first row.
        """
        h, w = target.shape
        turn = np.round(cells.angle / np.pi * _ANGLES).astype(np.int64) % _ANGLES
        variant = np.minimum((cells.pick * _VARIANTS).astype(np.int64), _VARIANTS - 1)
        index = (variant * _ANGLES + turn).tolist()
        xs = (np.round(cells.x).astype(np.int64) - x0).tolist()
        ys = (np.round(cells.y).astype(np.int64) - y0).tolist()
        kinds, weights = cells.kind.tolist(), cells.weight.tolist()
        for x, y, kind, i, weight in zip(xs, ys, kinds, index, weights, strict=True):
            ink, keep = self._ink[kind][i], self._keep[kind][i]
            r = ink.shape[0] // 2
            left, top = x - r, y - r
            if left < 0 or top < 0 or x + r >= w or y + r >= h:
                a0, b0 = max(0, -left), max(0, -top)
                a1, b1 = min(2 * r + 1, w - left), min(2 * r + 1, h - top)
                if a0 >= a1 or b0 >= b1:
                    continue
                ink, keep = ink[b0:b1, a0:a1], keep[b0:b1, a0:a1]
                left, top = left + a0, top + b0
            view = target[top : top + ink.shape[0], left : left + ink.shape[1]]
            view *= keep
            view += ink * np.float32(weight)


@dataclass(frozen=True, slots=True)
class _Variant:
    length: float
    width: float
    bends: tuple[tuple[int, float, float], ...]
    curve: float
    nucleolus: tuple[float, float] | None
    grain_at: tuple[int, int]

    @staticmethod
    def draw(rng: np.random.Generator, kind: CellKind) -> _Variant:
        nucleolus = None
        if rng.random() < kind.nucleolus:
            nucleolus = (float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.35, 0.35)))
        return _Variant(
            length=kind.half_length_um * float(rng.uniform(0.8, 1.22)),
            width=kind.half_width_um * float(rng.uniform(0.85, 1.18)),
            bends=tuple(
                (k, kind.bend * float(rng.standard_normal()), float(rng.uniform(0, 2 * np.pi)))
                for k in (2, 3, 4)
            ),
            curve=float(rng.normal(0, 0.16)) if kind.half_length_um > 6 else 0.0,
            nucleolus=nucleolus,
            grain_at=(int(rng.integers(64)), int(rng.integers(64))),
        )

    def stamp(self, kind: CellKind, angle: float, mpp: float, grain: F32) -> tuple[F32, F32]:
        """Stain of a unit weight, and the share of what lies below that stays."""
        r = int(np.ceil((self.length * 1.15 + 1.0) / mpp)) + 1
        ys, xs = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float32) * np.float32(mpp)
        along = xs * np.cos(angle) + ys * np.sin(angle)
        across = ys * np.cos(angle) - xs * np.sin(angle)
        across = across + self.curve * (along**2 / self.length - self.length / 3)
        q, theta = cv2.cartToPolar(as_float(along / self.length), as_float(across / self.width))
        for k, share, phase in self.bends:
            q = q / (1 + share * np.cos(k * theta + phase))
        soft = 0.45 * max(mpp, 0.5) / self.width + 0.06
        body = smoothstep(1 + soft, 1 - soft, as_float(q))
        rows = (np.arange(2 * r + 1) + self.grain_at[1]) % 64
        cols = (np.arange(2 * r + 1) + self.grain_at[0]) % 64
        stain = kind.density * (1 + kind.clumps * grain[rows[:, None], cols[None, :]])
        stain = stain + kind.rim * np.exp(-(((q - 0.84) / 0.16) ** 2))
        if self.nucleolus is not None:
            px = self.nucleolus[0] * self.length
            py = self.nucleolus[1] * self.width
            stain = stain + 0.42 * np.exp(-((along - px) ** 2 + (across - py) ** 2) / 0.75**2)
        reach = 1 + 0.9 / self.width
        shade = smoothstep(reach + soft, reach - soft, as_float(q))
        keep = 1 - np.maximum(body, kind.halo * shade)
        return as_float(body * stain), as_float(keep)
