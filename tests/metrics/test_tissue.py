"""Masks against masks: known pictures, other libraries, and what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiprep.metrics import Overlap, compare_masks, overlap_of, resample_mask

MPP = (8.0, 8.0)
pairs = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def square(x: int, y: int, side: int = 10, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_two_squares_by_hand():
    scores = compare_masks(square(7, 5), square(5, 5), (100.0, 50.0))
    over = scores.overlap
    pixel = 100 * 50 / 1e6
    assert (over.shared_mm2, over.lost_mm2, over.kept_mm2) == pytest.approx(
        (80 * pixel, 20 * pixel, 20 * pixel)
    )
    assert over.iou == pytest.approx(80 / 120)
    assert over.dice == over.precision == over.recall == pytest.approx(0.8)
    assert over.area_error_mm2 == over.area_error == 0
    # Columns 2 away are 200 µm away; what overlaps of the upper and lower edges is 0 away.
    assert scores.hausdorff95_um == pytest.approx(200)
    assert 0 < scores.boundary_um < 200


def test_a_shift_is_measured_in_micrometres():
    for mpp, moved, um in (((8.0, 8.0), (3, 0), 24), ((8.0, 2.0), (0, 3), 6)):
        line = np.zeros((30, 30), bool)
        line[10:20, 10] = True
        if moved[1]:
            line = line.T.copy()
        there = np.roll(line, moved[::-1], axis=(0, 1))
        scores = compare_masks(there, line, mpp)
        assert scores.boundary_um == pytest.approx(um)
        assert scores.hausdorff95_um == pytest.approx(um)


def test_empty_masks_follow_the_conventions():
    none, some = np.zeros((40, 60), bool), square(3, 3)
    both = compare_masks(none, none, MPP)
    assert both.overlap == Overlap(0, 0, 0)
    assert (both.overlap.iou, both.overlap.dice) == (1, 1)
    assert (both.overlap.precision, both.overlap.recall) == (1, 1)
    assert both.overlap.area_error is None
    missed, invented = compare_masks(none, some, MPP), compare_masks(some, none, MPP)
    assert (missed.overlap.iou, missed.overlap.precision, missed.overlap.recall) == (0, None, 0)
    assert missed.overlap.area_error == -1
    assert (invented.overlap.precision, invented.overlap.recall) == (0, None)
    assert invented.overlap.area_error is None
    for scores in (both, missed, invented):
        assert scores.boundary_um is None
        assert scores.hausdorff95_um is None


def test_agrees_with_scipy_and_skimage():
    ndimage = pytest.importorskip("scipy.ndimage")
    confusion = pytest.importorskip("skimage.metrics").contingency_table
    rng = np.random.default_rng(1)
    mpp = (7.0, 9.0)
    for _ in range(5):
        noise = ndimage.gaussian_filter(rng.normal(size=(2, 90, 130)), (0, 6, 6))
        reference, predicted = noise[0] > 0.01, noise[0] + 0.6 * noise[1] > 0.01
        scores = compare_masks(predicted, reference, mpp)
        edges = [m & ~ndimage.binary_erosion(m) for m in (predicted, reference)]
        far = [ndimage.distance_transform_edt(~e, sampling=mpp[::-1]) for e in edges]
        there, back = far[1][edges[0]], far[0][edges[1]]
        mean = np.concatenate([there, back]).mean()
        assert scores.boundary_um == pytest.approx(mean, rel=1e-6)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert scores.hausdorff95_um == pytest.approx(expected, rel=1e-6)
        table = confusion(reference.astype(int), predicted.astype(int)).toarray()
        assert scores.overlap.precision == pytest.approx(table[1, 1] / table[:, 1].sum())
        assert scores.overlap.recall == pytest.approx(table[1, 1] / table[1].sum())


@settings(deadline=None, max_examples=150)
@given(pairs, st.floats(0.1, 50), st.floats(0.1, 50))
def test_what_always_holds(two, mpp_x, mpp_y):
    a, b = two
    ours, theirs = compare_masks(a, b, (mpp_x, mpp_y)), compare_masks(b, a, (mpp_x, mpp_y))
    over = ours.overlap
    assert 0 <= over.iou <= over.dice <= 1
    assert over.dice == pytest.approx(2 * over.iou / (1 + over.iou))
    assert theirs.overlap.iou == over.iou
    assert (theirs.overlap.precision, theirs.overlap.recall) == (over.recall, over.precision)
    assert theirs.overlap.area_error_mm2 == -over.area_error_mm2
    assert over.predicted_mm2 == pytest.approx(a.sum() * mpp_x * mpp_y / 1e6)
    assert over.reference_mm2 == pytest.approx(b.sum() * mpp_x * mpp_y / 1e6)
    assert (ours.boundary_um is None) == (not a.any() or not b.any())
    if ours.boundary_um is not None:
        assert ours.boundary_um == pytest.approx(theirs.boundary_um)
        assert ours.hausdorff95_um == pytest.approx(theirs.hausdorff95_um)
        assert ours.boundary_um >= 0
        flipped = compare_masks(a[::-1, ::-1], b[::-1, ::-1], (mpp_x, mpp_y))
        assert flipped.boundary_um == pytest.approx(ours.boundary_um)
    assert compare_masks(a, a, MPP).boundary_um in (0, None)


def test_resampled_masks_cover_the_same():
    mask = square(4, 8, side=20)
    np.testing.assert_array_equal(resample_mask(mask, (20, 30)), mask[::2, ::2])
    np.testing.assert_array_equal(resample_mask(mask, (80, 120)), mask.repeat(2, 0).repeat(2, 1))
    assert resample_mask(mask, mask.shape) is mask
    half = np.array([[True, False], [True, False]])
    assert resample_mask(half, (1, 1)).all(), "half a pixel counts"
    quarter = np.array([[True, False], [False, False]])
    assert not resample_mask(quarter, (1, 1)).any()


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_finer_and_back_is_the_same(mask, rows, cols):
    finer = resample_mask(mask, (mask.shape[0] * rows, mask.shape[1] * cols))
    np.testing.assert_array_equal(finer, mask.repeat(rows, 0).repeat(cols, 1))
    np.testing.assert_array_equal(resample_mask(finer, mask.shape), mask)


def test_wrong_arrays_are_refused():
    good = square(0, 0)
    for bad in (good.astype(np.uint8), good[None], good[:-1]):
        with pytest.raises(ValueError, match="mask"):
            overlap_of(bad, good, MPP)
    with pytest.raises(ValueError, match="positive"):
        overlap_of(good, good, (0.0, 1.0))


def test_the_length_of_outlines_pools_distances():
    square = np.zeros((40, 40), bool)
    square[10:20, 10:20] = True
    scores = compare_masks(square, square, (2.0, 2.0))
    assert scores.outline_mm == pytest.approx(2 * 36 * 2.0 / 1000)
    assert compare_masks(square, np.zeros_like(square), (2.0, 2.0)).outline_mm is None
