"""Where things are on a synthetic slide: sections, fat, lymphocytes, rings, ink.

The layout is a stack of coarse rasters (a cell is about 4 µm) and a list of rings. It is all that
is kept of a slide; pixels are painted from it block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.synth.arrange import place_rings
from wsiprep.synth.canvas import Canvas
from wsiprep.synth.classes import TissueClass
from wsiprep.synth.rings import Ring
from wsiprep.synth.texture import F32, as_float, smoothstep

__all__ = ["Layout", "plan_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Coarse plan of a slide.

    Distances are in µm, positive inside. Rasters are float32 (rows, cols), anchored at level-0
    (0, 0); a cell is `step` samples of the half grid, that is 2 * step level-0 pixels.

    Attributes:
        step: Samples of the half grid along a side of a cell.
        cell_um: The same in µm.
        tissue: Distance to the border of tissue.
        fat: Distance to the border of adipose regions.
        lymph: Density of lymphocytes, 0 to 1.
        loose: How loose the stroma is, 0 to 1.
        pen: Distance to the edge of the ink.
        rings: Glands and vessels.
        ring_bounds_um: float32 (n, 4), left, top, right, bottom of each ring.
        labels: uint8 (rows, cols), `TissueClass` of each cell.
    """

    step: int
    cell_um: float
    tissue: F32
    fat: F32
    lymph: F32
    loose: F32
    pen: F32
    rings: tuple[Ring, ...]
    ring_bounds_um: F32
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Section:
    centre_um: tuple[float, float]
    radii_um: tuple[float, float]
    fat_turn: float


def plan_layout(seed: int, size: Size, mpp: float, *, pen: bool) -> Layout:
    """Plan a slide.

    Args:
        seed: Of everything.
        size: Level-0 size.
        mpp: Level-0 µm per pixel.
        pen: Whether there is a pen stroke.
    """
    canvas = Canvas(seed, size, mpp)
    sections = _sections(canvas)
    tissue = _tissue(canvas, sections)
    fat = _fat(canvas, sections, tissue)
    lymph = _lymphocytes(canvas, sections, tissue, fat)
    loose = as_float(smoothstep(-0.6, 1.6, canvas.noise(900) + 0.4 * canvas.noise(250)))
    rings, gland_cells = place_rings(canvas, tissue, fat, lymph)
    stroke = _pen_stroke(canvas, sections[0]) if pen else np.full_like(tissue, -canvas.scale_um)

    labels = np.full(tissue.shape, TissueClass.GLASS, np.uint8)
    labels[tissue > 0] = TissueClass.STROMA
    labels[(tissue > 0) & (fat > 0)] = TissueClass.ADIPOSE
    labels[(tissue > 0) & (lymph > 0.5)] = TissueClass.LYMPHOCYTES
    labels[(tissue > 0) & gland_cells] = TissueClass.GLAND
    labels[stroke > 0] = TissueClass.PEN
    bounds = as_float([ring.bounds_um for ring in rings]).reshape(-1, 4)
    return Layout(
        step=canvas.step,
        cell_um=canvas.cell_um,
        tissue=tissue,
        fat=fat,
        lymph=lymph,
        loose=loose,
        pen=stroke,
        rings=rings,
        ring_bounds_um=bounds,
        labels=labels,
    )


def _sections(c: Canvas) -> tuple[_Section, ...]:
    w, h = c.width_um, c.height_um
    return (
        _Section((0.36 * w, 0.50 * h), (0.30 * w, 0.41 * h), c.rng.uniform(0.2, 0.9)),
        _Section((0.835 * w, 0.50 * h), (0.115 * w, 0.36 * h), c.rng.uniform(1.2, 1.9)),
    )


def _tissue(c: Canvas, sections: tuple[_Section, ...]) -> F32:
    field = np.full((c.rows, c.cols), -1e9, np.float32)
    for section in sections:
        body = c.blob(section.centre_um, section.radii_um, 0.22)
        # A block is trimmed with a knife: one side of a section is nearly straight.
        turn = section.fat_turn + c.rng.uniform(2.2, 3.6)
        reach = section.radii_um[0] * abs(np.cos(turn)) + section.radii_um[1] * abs(np.sin(turn))
        along = (c.x_um - section.centre_um[0]) * np.cos(turn)
        along += (c.y_um - section.centre_um[1]) * np.sin(turn)
        knife = as_float(0.70 * reach - along)
        field = np.maximum(field, np.minimum(body, knife))
    s = c.scale_um
    rough = min(130.0, 0.05 * s) * c.noise(min(900.0, 0.3 * s))
    rough += min(34.0, 0.02 * s) * c.noise(min(240.0, 0.12 * s))
    rough += min(16.0, 0.01 * s) * c.noise(70.0)
    field = as_float(field + rough)
    for _ in range(7):  # crumbs that came off
        section = sections[int(c.rng.integers(len(sections)))]
        turn, out = c.rng.uniform(0, 2 * np.pi), c.rng.uniform(1.08, 1.3)
        x = section.centre_um[0] + out * section.radii_um[0] * np.cos(turn)
        y = section.centre_um[1] + out * section.radii_um[1] * np.sin(turn)
        radius = c.rng.uniform(0.006, 0.02) * s
        crumb = c.blob((float(x), float(y)), (radius, radius * c.rng.uniform(0.4, 1.0)), 0.4)
        field = np.maximum(field, crumb)
    between = np.abs(c.x_um - 0.69 * c.width_um) - 0.012 * c.width_um
    inset = 0.02 * s
    rim_x = np.minimum(c.x_um, c.width_um - c.x_um) - inset
    rim_y = np.minimum(c.y_um, c.height_um - c.y_um) - inset
    clear = np.minimum(between, np.minimum(rim_x, rim_y) + min(20.0, 0.01 * s) * c.noise(120.0))
    return c.distance(np.minimum(field, clear) > 0)


def _fat(c: Canvas, sections: tuple[_Section, ...], tissue: F32) -> F32:
    field = np.full_like(tissue, -1e9)
    for section in sections:
        dx = (c.x_um - section.centre_um[0]) / section.radii_um[0]
        dy = (c.y_um - section.centre_um[1]) / section.radii_um[1]
        along = dx * np.cos(section.fat_turn) + dy * np.sin(section.fat_turn)
        reach = min(section.radii_um)
        near = as_float((1.5 - np.hypot(dx, dy)) * reach)
        field = np.maximum(field, np.minimum((along - 0.66) * reach, near))
    s = c.scale_um
    field += min(170.0, 0.06 * s) * c.noise(min(700.0, 0.25 * s))
    field += min(50.0, 0.02 * s) * c.noise(min(200.0, 0.1 * s))
    # A rim of stroma encloses the lobules here and there.
    rim = as_float(tissue - 18 - 14 * c.noise(260.0))
    return c.distance((field > 0) & (rim > 0))


def _lymphocytes(c: Canvas, sections: tuple[_Section, ...], tissue: F32, fat: F32) -> F32:
    field = np.full_like(tissue, -1e9)
    counts = (7, 3)
    for section, count in zip(sections, counts, strict=True):
        for _ in range(count):
            for _attempt in range(40):
                turn, out = c.rng.uniform(0, 2 * np.pi), np.sqrt(c.rng.uniform(0.02, 0.75))
                x = section.centre_um[0] + out * section.radii_um[0] * np.cos(turn)
                y = section.centre_um[1] + out * section.radii_um[1] * np.sin(turn)
                col = int(np.clip(x / c.cell_um, 0, c.cols - 1))
                row = int(np.clip(y / c.cell_um, 0, c.rows - 1))
                if tissue[row, col] > 0.02 * c.scale_um and fat[row, col] < -0.01 * c.scale_um:
                    break
            radius = min(c.rng.uniform(70, 210), c.rng.uniform(0.05, 0.075) * c.scale_um)
            shape = (radius, radius * c.rng.uniform(0.5, 1.0))
            field = np.maximum(field, c.blob((float(x), float(y)), shape, 0.35))
    field += min(16.0, 0.01 * c.scale_um) * c.noise(170.0)
    field[fat > -10] = -1e9
    return smoothstep(-30.0, 24.0, as_float(np.clip(field, -400, 400)))


def _pen_stroke(c: Canvas, section: _Section) -> F32:
    """A marker stroke that follows part of a section's border, half over the tissue."""
    start = section.fat_turn + c.rng.uniform(2.6, 3.4)
    turn = start + np.linspace(0, c.rng.uniform(0.9, 1.2), 60)
    wobble = 1.03 + 0.025 * np.sin(np.linspace(0, 7, 60) + c.rng.uniform(0, 6))
    x = section.centre_um[0] + section.radii_um[0] * wobble * np.cos(turn)
    y = section.centre_um[1] + section.radii_um[1] * wobble * np.sin(turn)
    path = np.stack([x, y], axis=1) / c.cell_um - 0.5
    line = np.ones((c.rows, c.cols), np.uint8)
    cv2.polylines(line, [np.round(path).astype(np.int32)], False, 0, 1)
    half_width = min(210.0, 0.045 * c.scale_um)
    reach = cv2.distanceTransform(line, cv2.DIST_L2, 5) * np.float32(c.cell_um)
    return as_float(half_width * (1 + 0.08 * c.noise(400.0)) - reach)
