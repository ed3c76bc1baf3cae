import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.grounding import (
    cells_inside,
    centre_map,
    grounding_chances,
    grounding_statistics,
    score_heat_map,
)


def test_by_hand():
    found = score_heat_map([4, 3, 2, 1, -5], [True, False, True, False, False])
    assert found.auroc == pytest.approx(5 / 6)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.pointing == 1
    assert found.iou == pytest.approx(1 / 3)  # {0, 1} against {0, 2}
    assert found.energy == pytest.approx(6 / 10)
    assert (found.prevalence, found.patches) == (0.4, 5)
    wider = score_heat_map([4, 3, 2, 1, -5], [True, False, True, False, False], top_area=0.6)
    assert wider.iou == pytest.approx(2 / 3)


def test_the_middle_of_the_tissue():
    cell = np.argwhere(np.ones((5, 5), bool))
    heat = centre_map(cell)
    assert heat[12] == heat.max() == 1
    assert heat[[0, 4, 20, 24]].tolist() == [0] * 4
    assert centre_map(cell + 7).tolist() == heat.tolist()
    assert centre_map([[3, 4]]).tolist() == [1]


def test_the_region_itself_is_perfect_and_its_negative_is_not():
    region = np.arange(20) % 3 == 0
    best = score_heat_map(region.astype(float), region)
    assert (best.auroc, best.average_precision, best.pointing, best.iou, best.energy) == (1,) * 5
    worst = score_heat_map(-region.astype(float), region)
    assert (worst.auroc, worst.pointing, worst.iou) == (0, 0, 0)
    assert np.isnan(worst.energy)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20))
def test_order_does_not_matter_and_a_flat_map_is_at_chance(rows):
    scores, inside = map(np.array, zip(*rows, strict=True))
    order = np.random.default_rng(0).permutation(len(rows))
    one, other = score_heat_map(scores, inside), score_heat_map(scores[order], inside[order])
    for name in ("auroc", "average_precision", "pointing", "iou", "energy"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True)
    flat = score_heat_map(np.ones(len(rows)), inside)
    chance = grounding_chances([flat])
    for name in ("auroc", "average_precision", "pointing", "iou", "energy"):
        value = float(chance[name](np.ones((1, 1)))[0])
        assert getattr(flat, name) == pytest.approx(value, nan_ok=True)


def test_a_near_miss():
    cell = [(5, 5), (5, 6), (5, 8), (9, 9)]
    inside = [True, False, False, False]
    assert score_heat_map([0, 1, 0, 0], inside).pointing == 0
    assert score_heat_map([0, 1, 0, 0], inside, cell=cell, tolerance_cells=1).pointing == 1
    assert score_heat_map([0, 0, 1, 0], inside, cell=cell, tolerance_cells=2).pointing == 0
    assert score_heat_map([0, 0, 1, 0], inside, cell=cell, tolerance_cells=3).pointing == 1
    assert score_heat_map([0, 1, 1, 0], inside, cell=cell, tolerance_cells=1).pointing == 0.5


def test_cells_of_a_mask():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    inside = cells_inside(mask, [(1, 2), (2, 1), (-1, 2), (1, 9), (2, 3)])
    assert inside.tolist() == [True, False, False, False, False]


def test_what_is_undefined_is_left_out_of_means():
    nothing = score_heat_map([1, 2], [False, False])
    whole = score_heat_map([1, 2], [True, True])
    assert np.isnan(nothing.pointing)
    assert np.isnan(whole.auroc)
    found = grounding_statistics([nothing, whole, score_heat_map([2, 1], [True, False])])
    assert bootstrap_interval(found["auroc"], 3, resamples=20).value == 1
    assert bootstrap_interval(found["pointing"], 3, resamples=20).value == 1


def test_wrong_arguments_are_refused():
    for args, how in (
        (([1, 2], [True]), {}),
        (([], []), {}),
        (([np.inf], [True]), {}),
        (([1], [True]), {"tolerance_cells": 1}),
        (([1], [True]), {"tolerance_cells": 1, "cell": [(1, 1), (2, 2)]}),
        (([1], [True]), {"top_area": 0}),
    ):
        with pytest.raises(ValueError, match=r"must be|finite|tolerance|cells|area"):
            score_heat_map(*args, **how)
