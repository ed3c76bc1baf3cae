"""Layouts of slides whose tissue is of stated kinds, in areas of stated sizes.

One section of stroma lies in the middle of the slide. One kind of tissue fills about half of it,
and each of a few others a smaller area. Every kind is made of what the painter knows: glands and
vessels of different sizes and walls, fat, lymphocytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.synth.arrange import footprint
from wsiprep.synth.canvas import Canvas
from wsiprep.synth.classes import TissueClass
from wsiprep.synth.layout import Layout
from wsiprep.synth.rings import Ring, grow_ring
from wsiprep.synth.texture import F32, as_float, smoothstep

__all__ = ["GLASS", "KINDS", "STROMA", "Composition", "Kind", "compose"]

Kind = Literal["adipose", "lymphoid", "tubular", "cystic", "solid", "blood"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of tissue; an index into this names one in rasters."""

STROMA, GLASS = -1, -2
"""What a raster of kinds has where there is none of them."""

_MAIN_SHARE = (0.44, 0.54)
_LESSER_SHARE = (0.13, 0.17)
_GAP_UM = 7.0
_NO_LUMEN_UM = 300.0


@dataclass(frozen=True, slots=True)
class Composition:
    """A layout, and which kind of tissue is where.

    Attributes:
        layout: For the painter.
        kind: int8 (rows, cols), index into `KINDS`, `STROMA` or `GLASS`, in cells of the layout.
    """

    layout: Layout
    kind: NDArray[np.int8]


def compose(seed: int, size: Size, mpp: float, main: Kind, lesser: Sequence[Kind]) -> Composition:
    """Plan a slide.

    Args:
        seed: Of everything that is random.
        size: Level-0 size.
        mpp: µm per level-0 pixel.
        main: What about half of the tissue is of.
        lesser: What an area of about 15 % of the tissue each is of; at most three.
    """
    if len({main, *lesser}) < 1 + len(lesser) or len(lesser) > 3:
        raise ValueError("lesser kinds are at most three, all different and not the main one")
    c = Canvas(seed, size, mpp)
    centre = (0.5 * c.width_um, 0.5 * c.height_um)
    body = c.blob(centre, (0.43 * c.width_um, 0.43 * c.height_um), 0.12)
    body += as_float(0.02 * c.scale_um * c.noise(0.15 * c.scale_um))
    rim_x = np.minimum(c.x_um, c.width_um - c.x_um)
    rim = np.minimum(rim_x, np.minimum(c.y_um, c.height_um - c.y_um)) - 0.02 * c.scale_um
    tissue = c.distance(np.minimum(body, rim) > 0)
    kind = _areas(c, tissue, main, lesser)
    fat = c.distance((kind == KINDS.index("adipose")) & (tissue > 20))
    lymph = as_float(np.clip(c.distance(kind == KINDS.index("lymphoid")), -400, 400))
    rings = tuple(_rings(c, kind, tissue))

    labels = np.full(kind.shape, TissueClass.STROMA, np.uint8)
    labels[kind == GLASS] = TissueClass.GLASS
    labels[fat > 0] = TissueClass.ADIPOSE
    labels[kind == KINDS.index("lymphoid")] = TissueClass.LYMPHOCYTES
    for ring in rings:
        if ring.kind == "gland" and (spot := footprint(c, ring, 0.0)) is not None:
            labels[spot[0]][spot[1] > 0] = TissueClass.GLAND
    layout = Layout(
        step=c.step,
        cell_um=c.cell_um,
        tissue=tissue,
        fat=fat,
        lymph=smoothstep(-30.0, 24.0, lymph),
        loose=as_float(smoothstep(-0.6, 1.6, c.noise(900) + 0.4 * c.noise(250))),
        pen=np.full_like(tissue, -c.scale_um),
        rings=rings,
        ring_bounds_um=as_float([ring.bounds_um for ring in rings]).reshape(-1, 4),
        labels=labels,
    )
    return Composition(layout, kind)


def _areas(c: Canvas, tissue: F32, main: Kind, lesser: Sequence[Kind]) -> NDArray[np.int8]:
    """Divide the tissue; areas have the shares that they should, whatever their shape."""
    inside = tissue > 0
    kind = np.where(inside, STROMA, GLASS).astype(np.int8)
    total = int(inside.sum())
    turn = c.rng.uniform(0, 2 * np.pi)
    along = (
        c.x_um * np.cos(turn)
        + c.y_um * np.sin(turn)
        + 0.09 * c.scale_um * c.noise(0.25 * c.scale_um)
    )
    _take(kind, as_float(along), int(c.rng.uniform(*_MAIN_SHARE) * total), KINDS.index(main))
    # The others lie side by side in what is left, in equal slices across.
    across = as_float(c.y_um * np.cos(turn) - c.x_um * np.sin(turn))
    left = kind == STROMA
    ends = np.quantile(across[left], np.linspace(0, 1, len(lesser) + 1))
    wobble = as_float(0.04 * c.scale_um * c.noise(0.2 * c.scale_um))
    centres = []
    for low, high in pairwise(ends.tolist()):
        slice_ = left & (across >= low) & (across <= high)
        depth = c.distance(slice_)
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        centres.append((float(c.x_um[row, col]), float(c.y_um[row, col])))
    for name, (x, y) in zip(lesser, centres, strict=True):
        far = as_float(np.hypot(c.x_um - x, c.y_um - y) + wobble)
        _take(kind, far, int(c.rng.uniform(*_LESSER_SHARE) * total), KINDS.index(name))
    return kind


def _take(kind: NDArray[np.int8], field: F32, cells: int, number: int) -> None:
    """Give the cells of stroma with the smallest values of a field to a kind."""
    free = np.flatnonzero(kind == STROMA)
    nearest = np.argpartition(field.ravel()[free], min(cells, len(free) - 1))[:cells]
    kind.ravel()[free[nearest]] = number


def _rings(c: Canvas, kind: NDArray[np.int8], tissue: F32) -> Iterator[Ring]:
    """Glands and lakes of blood, crowded into the areas of their kinds."""
    for name in ("tubular", "cystic", "solid", "blood"):
        area = kind == KINDS.index(name)
        if not area.any():
            continue
        where = area & (tissue > 14)
        taken = np.zeros(kind.shape, np.uint8)
        mm2 = float(area.sum()) * c.cell_um**2 / 1e6
        radii = np.sort(_radii_um(c.rng, name, mm2))[::-1]
        spots = np.flatnonzero(where)
        for radius, spot in zip(radii, c.rng.choice(spots, len(radii)), strict=True):
            row, col = divmod(int(spot), kind.shape[1])
            if taken[row, col]:
                continue
            centre = (float(c.x_um[row, col]), float(c.y_um[row, col]))
            grown = _grow(c.rng, name, centre, float(radius))
            found = footprint(c, grown[0], _GAP_UM)
            if found is None:
                continue
            window, shape = found
            if (((taken[window] > 0) | ~where[window]) & (shape > 0)).any():
                continue
            cv2.bitwise_or(taken[window], shape, dst=taken[window])
            yield from grown


def _radii_um(rng: np.random.Generator, name: str, mm2: float) -> NDArray[np.float64]:
    """Mean radii of what to try to place in an area; most of it does not find room."""
    centre, spread, low, high, tries = {
        "tubular": (32, 0.30, 22, 52, 3000),
        "cystic": (76, 0.35, 42, 140, 1500),
        "solid": (58, 0.40, 32, 110, 2000),
        "blood": (74, 0.45, 32, 140, 1500),
    }[name]
    count = int(tries * mm2) + 40
    return np.clip(rng.lognormal(np.log(centre), spread, count), low, high)


def _grow(
    rng: np.random.Generator, name: str, centre_um: tuple[float, float], radius_um: float
) -> list[Ring]:
    """What one place of a kind holds; the first ring encloses the others."""
    if name == "tubular":
        return [grow_ring(rng, "gland", centre_um, radius_um)]
    smooth = grow_ring(rng, "vessel", centre_um, radius_um)
    if name == "blood":
        return [replace(smooth, wall_um=3.5)]
    if name == "cystic":
        return [replace(smooth, kind="gland", wall_um=float(rng.uniform(13, 18)))]
    # Solid: epithelium all through, with nuclei in shells from the border to the middle.
    shells = []
    outer = replace(smooth, kind="gland", wall_um=_NO_LUMEN_UM)
    for depth in np.arange(0.0, 0.9 * radius_um, 10.5):
        shrunk = np.asarray(centre_um) + (outer.outline_um - centre_um) * (1 - depth / radius_um)
        seed = int(rng.integers(1 << 31))
        shells.append(replace(outer, outline_um=as_float(shrunk), seed=seed))
    return shells
