"""Rows of an evaluation of tissue detection, and what they say together."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.metrics.bootstrap import Statistic, bootstrap_interval, mean_of, of_sums, quotient
from wsiprep.tasks.evaluate_config import EvaluationConfig

__all__ = ["TissueRow", "differences", "rows_csv", "summary"]

Floats = NDArray[np.float64]

MEANS: Final = (
    "iou", "dice", "precision", "recall", "boundary_um", "hausdorff95_um", "area_error",
    "lost_mm2", "kept_mm2", "pen_recall", "pen_precision",
)  # fmt: skip
"""Numbers of a slide whose mean over slides is reported."""


@dataclass(frozen=True, slots=True)
class TissueRow:
    """One slide and one segmenter; a row of `tissue.csv`.

    Numbers are None where they are undefined (see `wsiprep.metrics.tissue`) or where the slide
    failed.

    Attributes:
        slide: Slide id.
        segmenter: Label of what was evaluated.
        status: `ok` or `failed`.
        iou: Intersection over union.
        dice: Twice the intersection over the sum.
        precision: Share of the predicted tissue that is tissue.
        recall: Share of the tissue that was found.
        boundary_um: Mean symmetric distance of the outlines, µm.
        hausdorff95_um: 95th percentile Hausdorff distance, µm.
        outline_mm: Length of both outlines, by which `boundary_um` is pooled.
        area_error: Predicted minus reference area, over the reference area.
        area_error_mm2: Predicted minus reference area.
        predicted_mm2: Predicted tissue.
        reference_mm2: Tissue of the reference.
        shared_mm2: Tissue that was found.
        lost_mm2: Tissue lost.
        kept_mm2: Glass kept.
        pen_recall: Share of the ink that was found.
        pen_precision: Share of the predicted ink that is ink.
        pen_shared_mm2: Ink that was found.
        pen_lost_mm2: Ink missed.
        pen_kept_mm2: Taken for ink, and is none.
        thumbnail_s: Seconds to read the thumbnail.
        segment_s: Seconds to find tissue on it; None where it was there before.
        mpp: µm per pixel of the grid on which masks were compared.
        method: What made the mask: the segmenter, or the file.
        path: Where the slide is.
        reference: Where the reference is.
        group: What is resampled as one: the patient, or the slide.
        split: Value of the column `split`.
        error: Class of the error, when failed.
        reason: What failed.
        remedy: What to do about it.
        notes: Warnings.
    """

    slide: str
    segmenter: str
    status: str
    iou: float | None = None
    dice: float | None = None
    precision: float | None = None
    recall: float | None = None
    boundary_um: float | None = None
    hausdorff95_um: float | None = None
    outline_mm: float | None = None
    area_error: float | None = None
    area_error_mm2: float | None = None
    predicted_mm2: float | None = None
    reference_mm2: float | None = None
    shared_mm2: float | None = None
    lost_mm2: float | None = None
    kept_mm2: float | None = None
    pen_recall: float | None = None
    pen_precision: float | None = None
    pen_shared_mm2: float | None = None
    pen_lost_mm2: float | None = None
    pen_kept_mm2: float | None = None
    thumbnail_s: float | None = None
    segment_s: float | None = None
    mpp: float | None = None
    method: str = ""
    path: str = ""
    reference: str = ""
    group: str = ""
    split: str = ""
    error: str = ""
    reason: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


def rows_csv(rows: Sequence[TissueRow]) -> str:
    """The rows as CSV with a header; undefined numbers are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(TissueRow)]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in names])
    return text.getvalue()


def summary(label: str, rows: Sequence[TissueRow], cfg: EvaluationConfig) -> dict[str, Any]:
    """What a segmenter's rows say together.

    `mean` holds means over slides, each with the number of slides on which it is defined; `pooled`
    is made of areas summed over slides, so that a slide counts by its tissue, and of distances over
    all outlines. Both have percentile bootstrap intervals over groups.

    Args:
        label: Name of the segmenter.
        rows: Its rows; failed ones are counted and left out.
        cfg: Level, resamples and seed of the intervals.
    """
    done = [row for row in rows if row.status == "ok"]
    groups = [row.group for row in done]

    def interval(statistic: Statistic, used: Sequence[int]) -> dict[str, Any]:
        found = bootstrap_interval(
            statistic,
            len(used),
            groups=[groups[i] for i in used],
            confidence=cfg.confidence,
            resamples=cfg.resamples,
            seed=cfg.seed,
        )
        return {**found.canonical(), "slides": len(used)}

    mean: dict[str, Any] = {}
    for name in MEANS:
        values = [getattr(row, name) for row in done]
        used = [i for i, value in enumerate(values) if value is not None]
        if used:
            mean[name] = interval(mean_of([values[i] for i in used]), used)
    pooled: dict[str, Any] = {}
    for prefix, kinds in (("", ("iou", "dice", "precision", "recall", "area_error")),
                          ("pen_", ("recall", "precision"))):  # fmt: skip
        areas = [
            [getattr(row, f"{prefix}{part}_mm2") for part in ("shared", "lost", "kept")]
            for row in done
        ]
        used = [i for i, area in enumerate(areas) if area[0] is not None]
        for kind in kinds if used else ():
            table = np.array([areas[i] for i in used], dtype=np.float64)
            pooled[f"{prefix}{kind}"] = interval(of_sums(table, POOLED[kind]), used)
    for name in ("lost_mm2", "kept_mm2", "area_error_mm2") if done else ():
        column = [[getattr(row, name)] for row in done]
        pooled[name] = interval(of_sums(column, lambda sums: sums[:, 0]), range(len(done)))
    pairs = [(row.boundary_um, row.outline_mm) for row in done]
    known = [i for i, (um, mm) in enumerate(pairs) if um is not None and mm is not None]
    if known:
        table = np.array([pairs[i] for i in known], dtype=np.float64)
        table[:, 0] *= table[:, 1]
        mean_um = of_sums(table, lambda sums: quotient(sums[:, 0], sums[:, 1]))
        pooled["boundary_um"] = interval(mean_um, known)
    return {
        "segmenter": label,
        "slides": len(done),
        "groups": len(set(groups)),
        "failed": len(rows) - len(done),
        "mean": mean,
        "pooled": pooled,
        "seconds": _seconds(done),
    }


def differences(
    first: Sequence[TissueRow], other: Sequence[TissueRow], cfg: EvaluationConfig
) -> dict[str, Any]:
    """Mean of `other` minus `first` over the slides that both have, with intervals.

    Pairs of one slide are resampled together: an interval that leaves out 0 is a difference.

    Args:
        first: Rows of one segmenter, one for each slide.
        other: Rows of another, in the same order.
        cfg: Level, resamples and seed of the intervals.
    """
    out: dict[str, Any] = {}
    for name in ("iou", "dice", "precision", "recall", "boundary_um"):
        both = [
            (getattr(b, name) - getattr(a, name), a.group)
            for a, b in zip(first, other, strict=True)
            if getattr(a, name) is not None and getattr(b, name) is not None
        ]
        if both:
            found = bootstrap_interval(
                mean_of([value for value, _ in both]),
                len(both),
                groups=[group for _, group in both],
                confidence=cfg.confidence,
                resamples=cfg.resamples,
                seed=cfg.seed,
            )
            out[name] = {**found.canonical(), "slides": len(both)}
    return out


def _iou(s: Floats) -> Floats:
    return _or_one(quotient(s[:, 0], s.sum(axis=1)), s)


def _dice(s: Floats) -> Floats:
    return _or_one(quotient(2 * s[:, 0], s.sum(axis=1) + s[:, 0]), s)


def _precision(s: Floats) -> Floats:
    return _or_one(quotient(s[:, 0], s[:, 0] + s[:, 2]), s)


def _recall(s: Floats) -> Floats:
    return _or_one(quotient(s[:, 0], s[:, 0] + s[:, 1]), s)


def _area_error(s: Floats) -> Floats:
    return quotient(s[:, 2] - s[:, 1], s[:, 0] + s[:, 1])


POOLED: Final = {
    "iou": _iou,
    "dice": _dice,
    "precision": _precision,
    "recall": _recall,
    "area_error": _area_error,
}
"""From sums of shared, lost and kept area, float64 (B, 3), to values (B,)."""


def _or_one(values: Floats, sums: Floats) -> Floats:
    """1 where nothing is marked at all."""
    return np.where(sums.any(axis=1), values, 1.0)


def _seconds(done: Sequence[TissueRow]) -> dict[str, float] | None:
    """Of a slide: thumbnail and mask. The first slide also loads the segmenter."""
    both = [
        (row.thumbnail_s, row.segment_s)
        for row in done
        if row.thumbnail_s is not None and row.segment_s is not None
    ]
    if not both:
        return None
    return {
        "median": statistics.median(a + b for a, b in both),
        "mean": statistics.fmean(a + b for a, b in both),
        "thumbnail_median": statistics.median(a for a, _ in both),
        "segment_median": statistics.median(b for _, b in both),
        "first": both[0][0] + both[0][1],
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(value) if isinstance(value, tuple) else str(value)
