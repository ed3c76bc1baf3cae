from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wsiprep.tissue import regions
from wsiprep.tissue.clean import clean_tissue, smooth_outline

MASKS = npst.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def clean(mask, mpp=(10.0, 10.0), area=0.0, holes="keep", hole=0.0, exclude=None):
    return clean_tissue(
        mask, mpp, min_area_mm2=area, holes=holes, min_hole_mm2=hole, exclude=exclude
    )


def ring():
    mask = np.zeros((20, 20), bool)
    mask[3:15, 3:15] = True
    mask[6:10, 6:10] = False
    mask[12, 12] = False
    mask[18, 18] = True
    return mask


def test_small_pieces_go_and_the_limit_is_kept():
    # One pixel is 1e-4 mm².
    mask = ring()
    assert clean(mask, area=0.0).sum() == mask.sum()
    kept = clean(mask, area=1.5e-4)
    assert not kept[18, 18]
    assert kept.sum() == mask.sum() - 1
    assert clean(mask, area=mask[:16].sum() * 1e-4).sum() == mask.sum() - 1
    assert not clean(mask, area=(mask[:16].sum() + 1) * 1e-4).any()


def test_area_is_in_mm2_whatever_the_resolution():
    mask = np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True  # 100 px
    assert clean(mask, (8.0, 8.0), area=0.0064).any()
    assert not clean(mask, (4.0, 4.0), area=0.0064).any()
    assert clean(mask, (4.0, 16.0), area=0.0064).any()


def test_holes():
    mask = ring()
    assert clean(mask, hole=1.5e-4)[12, 12]
    assert not clean(mask, hole=1.5e-4)[7, 7]
    assert not clean(mask, hole=16e-4)[7, 7], "a hole of exactly the limit stays"
    assert clean(mask, hole=17e-4)[7, 7]
    filled = clean(mask, holes="remove")
    assert filled[3:15, 3:15].all()
    assert filled.sum() == 145


def test_a_bay_open_to_the_border_is_no_hole():
    mask = np.ones((10, 10), bool)
    mask[0:5, 4] = False
    assert not clean(mask, holes="remove", hole=1.0)[0:5, 4].any()


def test_a_hole_behind_a_corner_is_a_hole():
    mask = np.ones((5, 5), bool)
    mask[0, 0] = mask[1, 1] = False
    filled = clean(mask, holes="remove")
    assert filled[1, 1]
    assert not filled[0, 0]


def test_excluded_pixels_are_never_tissue():
    mask = ring()
    ink = np.zeros_like(mask)
    ink[6:10, 6:10] = True
    ink[3, 3] = True
    done = clean(mask, holes="remove", exclude=ink)
    assert not (done & ink).any()
    assert done[12, 12]


def test_input_is_left_alone():
    mask = ring()
    before = mask.copy()
    mask.flags.writeable = False
    clean(mask, area=1.0, holes="remove", hole=1.0, exclude=mask)
    np.testing.assert_array_equal(mask, before)


@settings(deadline=None, max_examples=150)
@given(MASKS, st.integers(0, 12), st.integers(0, 12), st.sampled_from(["keep", "remove"]))
def test_clean_is_idempotent_and_fills_before_it_drops(mask, area, hole, holes):
    once = clean(mask, area=area * 1e-4, hole=hole * 1e-4, holes=holes)
    again = clean(once, area=area * 1e-4, hole=hole * 1e-4, holes=holes)
    np.testing.assert_array_equal(once, again)
    count, labels = regions.label(once)
    assert all((labels == k).sum() >= area for k in range(1, count))


@settings(deadline=None, max_examples=100)
@given(MASKS, st.floats(0, 6))
def test_discs_by_definition(mask, radius):
    h, w = mask.shape
    y, x = np.mgrid[:h, :w]
    wide, narrow = regions.dilate(mask, radius), regions.erode(mask, radius)
    for r in range(h):
        for c in range(w):
            near = (y - r) ** 2 + (x - c) ** 2 <= (radius if radius >= 1 else 0) ** 2 + 1e-9
            assert wide[r, c] == (mask & near).any()
            assert narrow[r, c] == (mask | ~near).all()


@pytest.mark.parametrize("radius", [0.0, 3.0])
def test_closing_joins_what_is_near(radius):
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:10] = mask[5:15, 14:20] = True
    closed = regions.close(mask, radius)
    assert closed[10, 12] == (radius > 0)
    assert (closed | mask == closed).all()
    assert not closed[10, 25]


def test_empty_and_full():
    for value in (False, True):
        mask = np.full((4, 5), value)
        assert (clean(mask, area=0.0, holes="remove") == value).all()
        assert (regions.close(mask, 3) == value).all()
        assert (regions.erode(mask, 3) == value).all()


def test_smoothing_keeps_straight_outlines_and_takes_spikes():
    mask = np.zeros((80, 120), bool)
    mask[20:, 30:90] = True
    before = mask.copy()
    smooth = smooth_outline(mask, (8.0, 8.0), 24.0)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(smooth[35:, :], mask[35:, :])
    np.testing.assert_array_equal(smooth[:, 45:75], mask[:, 45:75])
    spiked = mask.copy()
    spiked[0:20, 60] = True
    spiked[50:54, 40:44] = False
    changed = np.argwhere(smooth_outline(spiked, (8.0, 8.0), 24.0) != smooth)
    assert len(changed) <= 4, "the foot of the spike"
    assert (np.abs(changed - [20, 60]) <= 1).all()
    np.testing.assert_array_equal(smooth_outline(mask, (8.0, 8.0), 0.0), mask)


def test_smoothing_is_in_um():
    mask = np.zeros((60, 60), bool)
    mask[20:30, 20:30] = True
    assert smooth_outline(mask, (8.0, 8.0), 16.0).any()
    assert not smooth_outline(mask, (8.0, 8.0), 100.0).any()
    assert smooth_outline(mask, (64.0, 64.0), 100.0).any()
