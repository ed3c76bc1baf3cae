"""Heat maps as GeoJSON that QuPath imports: outlines of what scores highest, and all patches.

Outlines are annotations, of a class named as the text. Patches are detections with a measurement
for each text, which QuPath shows in colours (Measure, Show measurement maps).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import PatchGrid, Size
from wsiprep.tissue.geojson import outline_polygons

__all__ = ["cell_boxes", "heat_geojson", "highest"]

DECIMALS: Final = 2
DIGITS: Final = 7
"""Significant digits of a score: what a float32 holds."""

PALETTE: Final = (
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167),
    (230, 159, 0), (86, 180, 233), (240, 228, 66), (120, 94, 240),
)  # fmt: skip
"""Colours of the texts in turn, told apart by people who are colour-blind (Okabe and Ito)."""


def cell_boxes(grid: PatchGrid, rows: NDArray[np.int64], size0: Size) -> NDArray[np.float64]:
    """What each patch stands for: a square of the stride's side about its middle.

    Where patches lie side by side that is the patch; where they overlap these squares do not.

    Args:
        grid: The patches.
        rows: int64 (M,), which of them.
        size0: Level-0 size of the slide, to which squares are cut.

    Returns:
        float64 (M, 4), left, top, right, bottom in level-0 pixels.
    """
    inset = _inset(grid)
    low = grid.cell[rows][:, ::-1] * grid.stride0_px + inset
    high = low + grid.stride0_px
    most = [size0.width, size0.height]
    return np.concatenate([np.clip(low, 0, most), np.clip(high, 0, most)], axis=1)


def highest(scores: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """The patches with the highest scores: bool (M,).

    At least one, and more than the share where scores at its edge are equal; none where that would
    be all, as nothing stands out.

    Args:
        scores: float32 (M,), finite.
        share: Above 0, up to 1.
    """
    if not len(scores):
        return np.zeros(0, np.bool_)
    count = max(1, round(share * len(scores)))
    edge = np.partition(scores, len(scores) - count)[len(scores) - count]
    chosen = scores >= edge
    if chosen.all() and share < 1:
        chosen = scores > edge
    return np.asarray(chosen, np.bool_)


def heat_geojson(
    grid: PatchGrid,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    texts: Sequence[str],
    size0: Size,
    *,
    top: float,
) -> str:
    """A FeatureCollection of outlines and patches, in level-0 pixels.

    Args:
        grid: The patches.
        rows: int64 (M,), those that have scores.
        scores: float32 (P, M), finite, a row for each text.
        texts: P texts.
        size0: Level-0 size of the slide.
        top: Share of the patches that is outlined for each text.

    Returns:
        GeoJSON text ending in a newline; the same input gives the same text.
    """
    features: list[dict[str, Any]] = []
    for number, (text, row) in enumerate(zip(texts, scores, strict=True)):
        features += _outlines(grid, rows, row, text, PALETTE[number % len(PALETTE)], size0, top)
    for box, column in zip(cell_boxes(grid, rows, size0).tolist(), scores.T, strict=True):
        x0, y0, x1, y1 = (round(value, DECIMALS) for value in box)
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "detection",
                    "measurements": {
                        text: _short(value) for text, value in zip(texts, column, strict=True)
                    },
                },
            }
        )
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, separators=(",", ":"), ensure_ascii=False) + "\n"


def _outlines(
    grid: PatchGrid,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    text: str,
    rgb: tuple[int, int, int],
    size0: Size,
    top: float,
) -> list[dict[str, Any]]:
    """An annotation for each connected piece of the highest patches."""
    mask = np.zeros(grid.shape, np.bool_)
    mask[tuple(grid.cell[rows[highest(scores, top)]].T)] = True
    shift = _inset(grid) / grid.stride0_px
    pieces = outline_polygons(mask, (grid.stride0_px, grid.stride0_px), (shift, shift))
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": _cut(rings, size0)},
            "properties": {
                "objectType": "annotation",
                "name": f"{text} {number}",
                "classification": {"name": text, "color": list(rgb)},
                "isLocked": False,
            },
        }
        for number, rings in enumerate(pieces, start=1)
    ]


def _cut(rings: list[list[list[float]]], size0: Size) -> list[list[list[float]]]:
    """Rings without what lies beyond the slide: the last row and column of cells reach over it."""
    return [
        [[min(max(x, 0.0), size0.width), min(max(y, 0.0), size0.height)] for x, y in ring]
        for ring in rings
    ]


def _inset(grid: PatchGrid) -> float:
    """From the corner of a patch to that of its square, level-0 pixels; below 0 with gaps."""
    return (grid.plan.side0_px - grid.stride0_px) / 2


def _short(value: np.float32) -> float:
    return float(f"{float(value):.{DIGITS}g}")
