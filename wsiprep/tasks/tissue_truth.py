"""A slide with what is true of it, and how a prediction scores against that.

Masks are compared on the grid of the thumbnail (`tissue_mpp`), to which both are brought: a pixel
is tissue where at least half of it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.report import white_note
from wsiprep.metrics.tissue import compare_masks, overlap_of, resample_mask
from wsiprep.tasks.evaluate_config import EvaluateTissueConfig
from wsiprep.tasks.reference_pairs import Pair
from wsiprep.tasks.tissue_candidates import Prediction, SeenSlide
from wsiprep.tasks.tissue_summary import TissueRow
from wsiprep.tissue.given import given_digest, given_tissue

__all__ = ["Truth", "identity", "scored", "truth_of"]


@dataclass(frozen=True, slots=True)
class Truth:
    """A slide with its references on the grid of the thumbnail.

    Attributes:
        slide: The slide.
        thumbnail: uint8 (h, w, 3) RGB.
        tissue: bool (h, w).
        pen: bool (h, w), or None where nothing is known of ink.
        mpp: µm per pixel along x and y.
        notes: Warnings for the user.
    """

    slide: SeenSlide
    thumbnail: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    pen: NDArray[np.bool_] | None
    mpp: tuple[float, float]
    notes: tuple[str, ...]


def truth_of(slide: SeenSlide, pair: Pair, cfg: EvaluateTissueConfig) -> Truth:
    """Read the thumbnail and the references of a slide.

    Raises:
        TissueInputError: a reference cannot be used for this slide.
        SlideReadError: the thumbnail cannot be read.
    """
    info, wanted = slide.info, cfg.tissue.tissue_mpp
    thumbnail = slide.thumbnail(wanted)
    h, w = thumbnail.shape[:2]
    given = given_tissue(pair.reference, info, wanted)
    pen = given.pen if given.pen.any() else None
    if pair.reference_pen is not None:
        ink = given_tissue(pair.reference_pen, info, wanted)
        pen = ink.mask | ink.pen
    return Truth(
        slide,
        thumbnail,
        resample_mask(given.mask, (h, w)),
        None if pen is None else resample_mask(pen, (h, w)),
        (info.mpp * info.size0.width / w, info.mpp * info.size0.height / h),
        (*info.notes, *white_note(slide.bad, "thumbnail"), *given.notes),
    )


def scored(
    row: TissueRow, told: Prediction, predicted: NDArray[np.bool_], truth: Truth
) -> TissueRow:
    """The row with its numbers.

    Args:
        row: Names and paths.
        told: The prediction.
        predicted: bool (h, w), its tissue on the grid of the truth.
        truth: The slide with its references.
    """
    scores = compare_masks(predicted, truth.tissue, truth.mpp)
    over = scores.overlap
    row = replace(
        row,
        iou=over.iou, dice=over.dice, precision=over.precision, recall=over.recall,
        boundary_um=scores.boundary_um, hausdorff95_um=scores.hausdorff95_um,
        outline_mm=scores.outline_mm,
        area_error=over.area_error, area_error_mm2=over.area_error_mm2,
        predicted_mm2=over.predicted_mm2, reference_mm2=over.reference_mm2,
        shared_mm2=over.shared_mm2, lost_mm2=over.lost_mm2, kept_mm2=over.kept_mm2,
        thumbnail_s=round(truth.slide.seconds, 4),
        segment_s=None if told.seconds is None else round(told.seconds, 4),
        mpp=float(np.sqrt(truth.mpp[0] * truth.mpp[1])),
        method=told.mask.method,
        notes=(*truth.notes, *told.mask.notes),
    )  # fmt: skip
    if truth.pen is None or not told.tells_pen:
        return row
    ink = overlap_of(resample_mask(told.mask.pen, truth.pen.shape), truth.pen, truth.mpp)
    return replace(
        row,
        pen_recall=ink.recall, pen_precision=ink.precision,
        pen_shared_mm2=ink.shared_mm2, pen_lost_mm2=ink.lost_mm2, pen_kept_mm2=ink.kept_mm2,
    )  # fmt: skip


def identity(slide: SeenSlide, pair: Pair) -> dict[str, Any]:
    """What the numbers of a slide were made from."""
    files = {"reference": pair.reference, "pen": pair.reference_pen}
    if pair.predicted is not None and pair.predicted.is_file():  # else its own row says so
        files["predicted"] = pair.predicted
    return {
        "fingerprint": slide.info.fingerprint,
        "mpp": slide.info.mpp,
        **{name: given_digest(path, pair.id) for name, path in files.items() if path is not None},
    }
