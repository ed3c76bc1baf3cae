from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsiprep.tissue.segmenters._prompts import inner_points, make_prompts

MASKS = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def box_mask(shape, *boxes):
    mask = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_the_middle_of_every_piece_the_widest_first():
    mask = box_mask((60, 100), (5, 5, 16, 16), (20, 40, 51, 71))
    np.testing.assert_array_equal(inner_points(mask, 2), [[55, 35], [10, 10]])
    np.testing.assert_array_equal(inner_points(mask, 1), [[55, 35]])


def test_a_long_piece_gets_more_points_apart_from_each_other():
    points = inner_points(box_mask((30, 200), (5, 10, 26, 190)), 6)
    assert len(points) == 6
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)[~np.eye(6, dtype=bool)]
    assert gaps.min() > 10


def test_specks_beside_a_large_piece_get_none():
    mask = box_mask((120, 200), (5, 5, 106, 106), (10, 150, 14, 154), (50, 150, 67, 167))
    x, y = inner_points(mask, 5).astype(int).T
    assert (y[0], x[0], y[1], x[1]) == (55, 55, 58, 158)
    assert not box_mask(mask.shape, (10, 150, 14, 154))[y, x].any()


def test_a_round_piece_gets_one():
    y, x = np.mgrid[:41, :41]
    disc = np.hypot(x - 20, y - 20) <= 18
    points = inner_points(disc, 8)
    np.testing.assert_array_equal(points[0], [20, 20])
    assert len(points) == 1


def test_the_image_border_bounds_a_piece():
    np.testing.assert_array_equal(inner_points(np.ones((21, 21), bool), 1), [[10, 10]])


@settings(deadline=None)
@given(MASKS, st.integers(0, 7))
def test_points_lie_in_the_mask_and_are_few_and_always_the_same(mask, count):
    points = inner_points(mask, count)
    assert len(points) <= count
    assert (len(points) > 0) == (count > 0 and mask.any())
    x, y = points.astype(int).T
    assert mask[y, x].all()
    assert len({*zip(x, y, strict=True)}) == len(points)
    np.testing.assert_array_equal(points, inner_points(mask.copy(), count))


@settings(deadline=None)
@given(MASKS, st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans())
def test_labels_say_where_points_are(tissue, seed, count, box):
    pen = np.random.default_rng(seed).random(tissue.shape) < 0.3
    found = make_prompts(tissue, pen, box=box, points=count)
    h, w = tissue.shape
    assert (found.box is not None) == box
    if box:
        np.testing.assert_array_equal(found.box, [0, 0, w, h])
    x, y = found.points.astype(int).T
    on = found.labels == 1
    assert (tissue & ~pen)[y[on], x[on]].all()
    off = ~tissue
    assert off[y[~on], x[~on]].all()
    assert on.sum() <= count
    assert (~on).sum() <= count
    assert found.empty == (not box and not len(found.points))


def test_ink_has_half_of_the_points_off_tissue():
    tissue = box_mask((60, 200), (10, 10, 50, 50))
    pen = box_mask((60, 200), (5, 150, 15, 190), (40, 150, 50, 190), (25, 150, 35, 190))
    found = make_prompts(tissue, pen, box=True, points=4)
    x, y = found.points[found.labels == 0].astype(int).T
    assert pen[y, x].sum() == 2
    assert len(x) == 4
