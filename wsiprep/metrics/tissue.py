"""A mask against a reference mask: overlap, areas, distance of the outlines.

Conventions where a quotient has no denominator:

- Neither mask marks anything: they agree, and IoU, Dice, precision and recall are 1.
- Only the reference does: precision is None. Only the prediction does: recall is None.
- The relative area error is None where the reference marks nothing.
- Distances are None unless both masks mark something.

Source: definitions as in Maier-Hein et al., Metrics reloaded, Nature Methods 2024: average
symmetric surface distance; 95th percentile Hausdorff distance as the larger of both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.metrics.boundary import nearest_um, outline

__all__ = ["MaskScores", "Overlap", "compare_masks", "overlap_of", "resample_mask"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Areas of a prediction and a reference, and what follows from them.

    Attributes:
        shared_mm2: Marked by both.
        lost_mm2: Marked by the reference alone: tissue lost.
        kept_mm2: Marked by the prediction alone: glass kept.
    """

    shared_mm2: float
    lost_mm2: float
    kept_mm2: float

    @property
    def predicted_mm2(self) -> float:
        """Area of the prediction."""
        return self.shared_mm2 + self.kept_mm2

    @property
    def reference_mm2(self) -> float:
        """Area of the reference."""
        return self.shared_mm2 + self.lost_mm2

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where neither mask marks anything."""
        union = self.shared_mm2 + (self.lost_mm2 + self.kept_mm2)
        return self.shared_mm2 / union if union else 1.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum; 1 where neither mask marks anything."""
        both = 2 * self.shared_mm2 + (self.lost_mm2 + self.kept_mm2)
        return 2 * self.shared_mm2 / both if both else 1.0

    @property
    def precision(self) -> float | None:
        """Share of the prediction that is right; None where only the reference marks anything."""
        return self._share(self.predicted_mm2, self.lost_mm2)

    @property
    def recall(self) -> float | None:
        """Share of the reference that is found; None where only the prediction marks anything."""
        return self._share(self.reference_mm2, self.kept_mm2)

    @property
    def area_error_mm2(self) -> float:
        """Predicted minus reference area."""
        return self.kept_mm2 - self.lost_mm2

    @property
    def area_error(self) -> float | None:
        """`area_error_mm2` over the reference area; None where that is 0."""
        return self.area_error_mm2 / self.reference_mm2 if self.reference_mm2 else None

    def _share(self, whole: float, other: float) -> float | None:
        if whole:
            return self.shared_mm2 / whole
        return None if other else 1.0


@dataclass(frozen=True, slots=True)
class MaskScores:
    """How a prediction compares with a reference.

    Attributes:
        overlap: Areas, IoU, Dice, precision, recall.
        boundary_um: Mean distance between the outlines, both directions, in µm: over all outline
            pixels of both masks, the distance to the other outline. None unless both mark
            something.
        hausdorff95_um: 95th percentile of those distances, the larger of the two directions.
        outline_mm: What `boundary_um` is a mean over: pixels of both outlines times their side.
            With it, distances of several slides can be pooled. None where that is.
    """

    overlap: Overlap
    boundary_um: float | None
    hausdorff95_um: float | None
    outline_mm: float | None = None


def overlap_of(predicted: Mask, reference: Mask, mpp: tuple[float, float]) -> Overlap:
    """Areas on which two masks agree and differ.

    Args:
        predicted: bool (h, w).
        reference: bool (h, w).
        mpp: µm per pixel along x and y.

    Raises:
        ValueError: not two bool masks of one shape, or a scale that is not positive.
    """
    _check(predicted, reference, mpp)
    pixel_mm2 = mpp[0] * mpp[1] / 1e6
    both = int(np.count_nonzero(predicted & reference))
    lost = int(np.count_nonzero(reference)) - both
    kept = int(np.count_nonzero(predicted)) - both
    return Overlap(both * pixel_mm2, lost * pixel_mm2, kept * pixel_mm2)


def compare_masks(predicted: Mask, reference: Mask, mpp: tuple[float, float]) -> MaskScores:
    """Compare a mask with a reference pixel by pixel, and their outlines.

    An outline is made of the pixels of a mask that have a 4-neighbour outside it, beyond the image
    included; distances are between pixel centres.

    Args:
        predicted: bool (h, w).
        reference: bool (h, w).
        mpp: µm per pixel along x and y.

    Raises:
        ValueError: not two bool masks of one shape, or a scale that is not positive.
    """
    overlap = overlap_of(predicted, reference, mpp)
    if not overlap.predicted_mm2 or not overlap.reference_mm2:
        return MaskScores(overlap, None, None)
    crop = _extent(predicted | reference)
    ours, theirs = outline(predicted[crop]), outline(reference[crop])
    there, back = nearest_um(ours, theirs, mpp), nearest_um(theirs, ours, mpp)
    mean = (float(there.sum()) + float(back.sum())) / (len(there) + len(back))
    far = max(float(np.percentile(d, 95)) for d in (there, back))
    length = (len(there) + len(back)) * float(np.sqrt(mpp[0] * mpp[1])) / 1000
    return MaskScores(overlap, mean, far, length)


def resample_mask(mask: Mask, shape: tuple[int, int]) -> Mask:
    """A mask on another pixel grid that covers the same area.

    Made coarser, a pixel is marked where at least half of it is; made finer, it is repeated.

    Args:
        mask: bool (h, w).
        shape: (rows, columns) wanted.

    Returns:
        bool `shape`; the mask itself where it has that shape.
    """
    if mask.shape == shape:
        return mask
    coarser = shape[0] < mask.shape[0] or shape[1] < mask.shape[1]
    how = cv2.INTER_AREA if coarser else cv2.INTER_NEAREST_EXACT
    # float32: as bytes, half of 255 would be rounded one way or the other.
    grey = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=how)
    return np.asarray(np.asarray(grey) >= 0.5 - 1e-6)


def _extent(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask that is not empty."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def _check(predicted: Mask, reference: Mask, mpp: tuple[float, float]) -> None:
    for mask in (predicted, reference):
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"a mask is bool (h, w), not {mask.dtype} {mask.shape}")
    if predicted.shape != reference.shape:
        raise ValueError(f"masks of {predicted.shape} and {reference.shape} cannot be compared")
    if not (mpp[0] > 0 and mpp[1] > 0):
        raise ValueError(f"µm per pixel must be positive, not {mpp}")
