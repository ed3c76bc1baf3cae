"""Distances between outlines against scipy, and against every pair of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiprep.metrics.boundary import nearest_um, outline

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def every_pair(of: np.ndarray, to: np.ndarray, mpp: tuple[float, float]) -> np.ndarray:
    a, b = (np.argwhere(m)[:, ::-1] * np.array(mpp) for m in (of, to))
    if not len(b):
        return np.full(len(a), np.inf)
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)).min(axis=1)


@settings(deadline=None, max_examples=200)
@given(
    masks.flatmap(lambda m: st.tuples(st.just(m), hnp.arrays(np.bool_, m.shape))),
    st.floats(0.3, 3.0),
    st.sampled_from([1.0, 1.0004, 0.7, 2.5]),
)
def test_nearest_is_that_of_every_pair(two, mpp_x, aspect):
    of, to = two
    mpp = (mpp_x, mpp_x * aspect)
    np.testing.assert_allclose(nearest_um(of, to, mpp), every_pair(of, to, mpp), rtol=1e-3)


@pytest.mark.parametrize("mpp", [(8.0, 8.0), (4.0, 9.0), (9.0, 4.0)])
def test_nearest_agrees_with_scipy(mpp):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(5)
    of, to = rng.random((2, 120, 170)) > np.array([0.9, 0.999])[:, None, None]
    expected = ndimage.distance_transform_edt(~to, sampling=mpp[::-1])[of]
    np.testing.assert_allclose(nearest_um(of, to, mpp), expected, rtol=1e-5)


@settings(deadline=None, max_examples=100)
@given(masks)
def test_outline_is_what_erosion_takes_away(mask):
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = mask & ~ndimage.binary_erosion(mask)
    np.testing.assert_array_equal(outline(mask), expected)
    assert outline(mask).any() == mask.any()
