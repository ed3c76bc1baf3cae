from __future__ import annotations

import numpy as np

from wsiprep.views import draw_agreement
from wsiprep.views.agreement import KEPT_RGB, LOST_RGB, SHARED_RGB


def masks(h=200, w=300):
    predicted, reference = np.zeros((h, w), bool), np.zeros((h, w), bool)
    predicted[40:160, 50:150] = True
    reference[40:160, 100:200] = True
    return predicted, reference


def nearest(pixel):
    colours = {"shared": SHARED_RGB, "lost": LOST_RGB, "kept": KEPT_RGB}
    shift = pixel.astype(float) - pixel.mean()
    return max(colours, key=lambda n: float(np.dot(shift, colours[n] - np.mean(colours[n]))))


def test_each_area_has_its_colour():
    thumbnail = np.full((200, 300, 3), (200, 150, 190), np.uint8)
    before = thumbnail.copy()
    picture = draw_agreement(thumbnail, *masks())
    np.testing.assert_array_equal(thumbnail, before)
    assert picture.shape == (200, 300, 3)
    assert picture.dtype == np.uint8
    assert nearest(picture[100, 75]) == "kept"
    assert nearest(picture[100, 125]) == "shared"
    assert nearest(picture[100, 175]) == "lost"
    glass = picture[10, 10].astype(int)
    assert np.ptp(glass) < np.ptp(thumbnail[10, 10].astype(int)), "faded to grey"
    edge = picture[100, 99:101].astype(int)
    assert (np.abs(edge - SHARED_RGB) < 40).all(axis=1).any(), "the reference is outlined"


def test_masks_of_another_size_lie_at_the_same_place():
    thumbnail = np.full((100, 150, 3), 240, np.uint8)
    fine = draw_agreement(thumbnail, *masks())
    coarse = draw_agreement(thumbnail, *(m[::2, ::2] for m in masks()))
    assert np.abs(fine.astype(int) - coarse).max() <= 12
    small = draw_agreement(thumbnail, *masks(), side_px=75)
    assert small.shape == (50, 75, 3)
    assert nearest(small[25, 18]) == "kept"
    assert nearest(small[25, 44]) == "lost"


def test_empty_masks_leave_the_picture():
    thumbnail = np.full((20, 30, 3), 240, np.uint8)
    none = np.zeros((20, 30), bool)
    np.testing.assert_array_equal(draw_agreement(thumbnail, none, none), thumbnail)
