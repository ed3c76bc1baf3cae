from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.tissue.sam_frame import box_to_frame, fit_to_frame, frame_size, points_to_frame

SIDES = st.integers(1, 3000)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([64, 1024]))
def test_the_longer_side_is_full_and_the_box_is_the_frame(h, w, side):
    height, width = frame_size((h, w), side)
    assert max(height, width) == side
    assert min(height, width) >= 1
    box = box_to_frame(np.array([0, 0, w, h], np.float32), (h, w), side)
    np.testing.assert_allclose(box, [0, 0, width, height], rtol=1e-6)
    corners = points_to_frame(np.array([[0, 0], [w - 1, h - 1]], np.float32), (h, w), side)
    # Corner pixels of the image mirror each other in the frame.
    np.testing.assert_allclose(corners[0] + corners[1], [width - 1, height - 1], atol=1e-2)


def test_a_point_lands_where_its_pixel_lands():
    image = np.zeros((300, 1000), np.uint8)
    image[100:110, 700:710] = 255
    frame = fit_to_frame(image, 128)
    at = points_to_frame(np.array([[704.5, 104.5]], np.float32), image.shape, 128)[0]
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    weight = frame / frame.sum(dtype=float)
    assert (x * weight).sum() == pytest.approx(at[0], abs=0.1)
    assert (y * weight).sum() == pytest.approx(at[1], abs=0.1)


def test_an_image_of_the_frame_is_left_alone():
    image = np.zeros((64, 20, 3), np.uint8)
    assert fit_to_frame(image, 64) is image
    assert fit_to_frame(image, 128).shape == (128, 40, 3)
