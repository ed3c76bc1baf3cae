"""Whether patches that a text lights up lie where they should.

Scores are of the patches of one slide and one text; the truth is which patches lie in the region
the text names. Every number is over patches (cells of the lattice), so glass counts for nothing.

Source: pointing game: Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018;
energy-based pointing: Wang et al., Score-CAM, 2020; the other names as usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsiprep.metrics.bootstrap import Statistic, mean_of
from wsiprep.metrics.ranking import auroc, average_precision

__all__ = [
    "Grounding",
    "cells_inside",
    "centre_map",
    "grounding_chances",
    "grounding_statistics",
    "score_heat_map",
]

NAMES = ("auroc", "average_precision", "pointing", "iou", "energy")


@dataclass(frozen=True, slots=True)
class Grounding:
    """How well one heat map fits one region; NaN where a number is undefined.

    Attributes:
        auroc: Of patches inside against those outside.
        average_precision: Likewise.
        pointing: 1 if the highest patch is inside (or near enough); where several share the
            highest score, the share of them that is.
        iou: Intersection over union of the region and as many (or `top_area`) highest patches.
        energy: Share of the scores, negative ones taken as 0, that is inside.
        prevalence: Share of patches that is inside: what pointing, average precision and energy
            are by chance.
        patches: Their number.
    """

    auroc: float
    average_precision: float
    pointing: float
    iou: float
    energy: float
    prevalence: float
    patches: int


def cells_inside(mask: ArrayLike, cell: ArrayLike) -> NDArray[np.bool_]:
    """Which patches lie in a mask of the lattice.

    Args:
        mask: bool (rows, columns).
        cell: int (N, 2), row and column of each patch.

    Returns:
        bool (N,); a cell beyond the mask is outside.
    """
    area, at = np.asarray(mask, dtype=np.bool_), np.asarray(cell)
    known = ((at >= 0) & (at < np.array(area.shape))).all(axis=1)
    inside = np.zeros(len(at), dtype=np.bool_)
    inside[known] = area[at[known, 0], at[known, 1]]
    return inside


def centre_map(cell: ArrayLike) -> NDArray[np.float64]:
    """A heat map that knows only where tissue is: highest at the middle of the patches.

    Args:
        cell: int (N, 2), row and column of each patch; N > 0.

    Returns:
        float64 (N,), from 1 at the mean of the cells down to 0 at the patch furthest from it, by
        distance.
    """
    at = np.asarray(cell, dtype=np.float64)
    far = np.linalg.norm(at - at.mean(axis=0), axis=1)
    return np.asarray(1 - far / max(float(far.max()), 1.0))


def score_heat_map(
    scores: ArrayLike,
    inside: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    tolerance_cells: int = 0,
    top_area: float | None = None,
) -> Grounding:
    """Compare a heat map with a region.

    Args:
        scores: (N,) finite numbers, one a patch.
        inside: bool (N,), which patches are in the region.
        cell: int (N, 2), row and column; needed for a tolerance.
        tolerance_cells: Pointing also counts this many cells (in rows or columns) beside the
            region.
        top_area: Share of patches that the IoU takes for marked; as many as the region has if
            None.

    Raises:
        ValueError: shapes do not fit, no patch, scores not finite, or a tolerance without cells.
    """
    heat, region = np.asarray(scores, dtype=np.float64), np.asarray(inside, dtype=np.bool_)
    if heat.ndim != 1 or heat.shape != region.shape or not len(heat):
        raise ValueError(f"scores {heat.shape} and region {region.shape} must be (N,), N > 0")
    if not np.isfinite(heat).all():
        raise ValueError("a score is not a finite number")
    if top_area is not None and not 0 < top_area <= 1:
        raise ValueError(f"an area lies above 0 and up to 1, not at {top_area}")
    near = _near(region, cell, tolerance_cells)
    marked = int(region.sum()) if top_area is None else max(1, round(top_area * len(heat)))
    positive = np.maximum(heat, 0)
    total = float(positive.sum())
    some = bool(region.any())
    return Grounding(
        auroc=auroc(heat, region),
        average_precision=average_precision(heat, region),
        pointing=float(near[heat == heat.max()].mean()) if some else float("nan"),
        iou=_iou(heat, region, marked) if some else float("nan"),
        energy=float(positive[region].sum()) / total if some and total else float("nan"),
        prevalence=float(region.mean()),
        patches=len(heat),
    )


def grounding_statistics(found: Sequence[Grounding]) -> dict[str, Statistic]:
    """For `bootstrap_interval`: means over heat maps of what is defined."""
    return {name: mean_of([getattr(one, name) for one in found]) for name in NAMES}


def grounding_chances(found: Sequence[Grounding]) -> dict[str, Statistic]:
    """The same of heat maps that know nothing: AUROC 1/2, the others about the prevalence.

    IoU is that of as many patches drawn at random as the region has (expected intersection over
    expected union): p / (2 - p).
    """
    share = np.array([one.prevalence for one in found])
    share = np.where(share > 0, share, np.nan)
    said = {name: mean_of(share) for name in NAMES}
    said["auroc"] = mean_of(np.where((share > 0) & (share < 1), 0.5, np.nan))
    said["iou"] = mean_of(share / (2 - share))
    return said


def _near(region: NDArray[np.bool_], cell: ArrayLike | None, tolerance: int) -> NDArray[np.bool_]:
    """Patches in the region, or within some cells of one that is."""
    if tolerance == 0:
        return region
    if cell is None or tolerance < 0:
        raise ValueError("a tolerance is 0 or more, and needs the cells of the patches")
    at = np.asarray(cell, dtype=np.int64)
    if at.shape != (len(region), 2):
        raise ValueError(f"cells {at.shape} for {len(region)} patches")
    low = at.min(axis=0) - tolerance
    grown = np.zeros(tuple(at.max(axis=0) + tolerance + 1 - low), dtype=np.bool_)
    span = range(-tolerance, tolerance + 1)
    for row, column in at[region] - low:
        grown[row + span.start : row + span.stop, column + span.start : column + span.stop] = True
    return np.asarray(grown[at[:, 0] - low[0], at[:, 1] - low[1]])


def _iou(heat: NDArray[np.float64], region: NDArray[np.bool_], marked: int) -> float:
    """Of the region and the highest patches; of those tied at the edge an even share is taken."""
    edge = np.partition(heat, len(heat) - marked)[len(heat) - marked]
    above, tied = heat > edge, heat == edge
    share = (marked - int(above.sum())) / int(tied.sum())
    both = float((region & above).sum() + share * (region & tied).sum())
    return both / (int(region.sum()) + marked - both)
