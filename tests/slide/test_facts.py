"""Levels of real pyramids: sizes that were rounded are reduced by whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from wsiprep.core.types import TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.slide.facts import keep_levels


@pytest.mark.parametrize(
    ("sizes", "scales"),
    [
        ([(99999, 79999), (24999, 19999), (6249, 4999)], [1.0, 4.0, 16.0]),
        ([(99999, 79999), (25000, 20000), (6250, 5000)], [1.0, 4.0, 16.0]),
        ([(46000, 32914), (11500, 8228), (2875, 2057)], [1.0, 4.0, 16.0]),
        ([(3000, 3000), (1000, 1000)], [1.0, 3.0]),
        ([(10000, 5000), (6667, 3333)], [1.0, pytest.approx(1.5, rel=1e-3)]),
    ],
)
def test_scales_are_whole_where_the_sizes_say_so(sizes, scales):
    assert keep_levels(sizes)[1] == scales


@settings(deadline=None, max_examples=200)
@given(
    width=st.integers(2000, 200_000),
    height=st.integers(2000, 200_000),
    factor=st.sampled_from([2, 3, 4, 8, 16]),
    up=st.booleans(),
)
def test_a_level_reduced_by_a_whole_number_is_known_as_such(width, height, factor, up):
    sizes = [(width, height)]
    sizes.append(tuple(-(-n // factor) if up else n // factor for n in sizes[0]))
    assert keep_levels(sizes)[1] == [1.0, float(factor)]


def test_grids_of_odd_pyramids_align():
    sizes = [(99999, 79999), (24999, 19999)]
    _, scales, _ = keep_levels(sizes)
    info = make_info(mpp=0.25, downsamples=tuple(scales), size0=sizes[0])
    mask = np.ones((80, 100), bool)
    tissue = TissueMask(mask, np.zeros_like(mask), 250.0, info.size0, "test")
    fine = make_grid(info, tissue, GridConfig(mpp=0.25, min_tissue=0))
    coarse = make_grid(info, tissue, GridConfig(mpp=1.0, min_tissue=0))
    assert coarse.plan.level == 1
    corners = set(map(tuple, fine.origin0_px.tolist()))
    assert set(map(tuple, coarse.origin0_px.tolist())) <= corners
