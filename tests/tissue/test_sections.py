"""Sections with planted truth, at 8 µm/px unless said otherwise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.tissue.sections import boxes_of, find_sections, in_reading_order

MPP = 8.0


def draw(*ellipses, shape=(600, 1000)):
    """Ellipses as (x, y, radius x, radius y)."""
    mask = np.zeros(shape, np.uint8)
    for x, y, rx, ry in ellipses:
        cv2.ellipse(mask, (round(x), round(y)), (round(rx), round(ry)), 0, 0, 360, 1, -1)
    return mask > 0


def sections(mask, gap=300.0, mpp=MPP, **more):
    found = find_sections(mask, (mpp, mpp), gap_um=gap, **more)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found > 0, mask if mask.any() else np.zeros_like(mask))
    assert set(np.unique(found[mask])) == set(range(1, int(found.max()) + 1))
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_far_apart(count):
    found = sections(draw(*[(120 + 180 * k, 300, 60, 90) for k in range(count)]))
    assert found.max() == count


@pytest.mark.parametrize("bridge", [4, 12, 24])
def test_similar_sections_on_a_narrow_bridge(bridge):
    mask = draw(*[(180 + 250 * k, 300, 110, 150) for k in range(3)])
    mask[300 - bridge // 2 : 300 + bridge // 2, 180:680] = True
    found = sections(mask)
    assert found.max() == 3
    assert [found[300, 180 + 250 * k] for k in range(3)] == [1, 2, 3]
    for k in range(3):
        own = draw((180 + 250 * k, 300, 100, 140))
        assert (found[own] == k + 1).mean() > 0.99


def test_sections_that_touch():
    found = sections(draw((200, 300, 130, 130), (455, 300, 130, 130), (710, 310, 130, 130)))
    assert found.max() == 3


@pytest.mark.parametrize("waist", [0.45, 0.6, 0.8])
def test_one_section_with_a_waist(waist):
    mask = draw((250, 300, 130, 130), (600, 300, 130, 130))
    half = round(130 * waist)
    mask[300 - half : 300 + half, 250:600] = True
    assert sections(mask).max() == 1


def test_a_kidney_and_a_ring_are_one():
    kidney = draw((500, 320, 300, 180)) & ~draw((500, 120, 110, 150))
    assert sections(kidney).max() == 1
    ring = draw((500, 300, 280, 280)) & ~draw((520, 300, 240, 220))
    assert sections(ring).max() == 1


def test_lobes_and_crumbs_belong_to_their_section():
    body = (400, 300, 220, 200)
    lobe = draw(body, (660, 300, 50, 50))
    assert sections(lobe).max() == 1, "a small part on a narrow neck"
    crumbs = draw(body, (650, 300, 12, 12), (200, 120, 8, 8))
    assert sections(crumbs).max() == 1
    far = draw(body, (950, 60, 12, 12))
    assert sections(far).max() == 2


def fragments(gap_um, levels=3):
    """Needle cores of 0.8 mm, torn across."""
    mask = np.zeros((600, 1000), bool)
    cut = round(gap_um / MPP)
    for level in range(levels):
        y = 100 + 180 * level
        mask[y : y + 100, 50:950] = True
        for x in (300, 520, 700):
            mask[y : y + 100, x : x + cut] = False
    return mask


def test_torn_cores_are_grouped():
    assert sections(fragments(160)).max() == 3
    assert sections(fragments(480)).max() == 12, "wider than the gap"
    assert sections(fragments(480), gap=600).max() == 3, "as the preset for biopsies"
    assert sections(fragments(160), gap=0).max() == 12


@pytest.mark.parametrize(("radius", "pitch"), [(62, 200), (37, 100), (37, 82), (125, 300)])
def test_cores_of_a_microarray(radius, pitch):
    rows, cols = 4, 6
    centres = [(pitch * (c + 1), pitch * (r + 1)) for r in range(rows) for c in range(cols)]
    shape = (pitch * (rows + 1), pitch * (cols + 1))
    mask = draw(*[(x, y, radius, radius) for x, y in centres], shape=shape)
    found = sections(mask, gap=100)
    numbers = [found[y, x] for x, y in centres]
    assert numbers == list(range(1, rows * cols + 1)), "rows from the top, each from the left"


def test_what_is_excluded_does_not_cut():
    whole = draw((500, 300, 300, 200))
    ink = np.zeros_like(whole)
    ink[:, 480:540] = True
    assert sections(whole & ~ink).max() == 2
    assert sections(whole & ~ink, bridge=whole & ink).max() == 1


def test_resolution_hardly_matters():
    mask = draw(*[(180 + 250 * k, 300, 110, 150) for k in range(3)])
    mask[295:305, 180:680] = True
    fine = mask.repeat(2, axis=0).repeat(2, axis=1)
    assert sections(mask).max() == sections(fine, mpp=4.0).max() == 3
    coarse = cv2.resize(mask.astype(np.uint8), None, fx=0.25, fy=0.25) > 0
    assert sections(coarse, mpp=32.0).max() == 3


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    share=st.floats(-0.5, 1.0),
    gap=st.sampled_from([0.0, 100.0, 300.0, 2000.0]),
    shift=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_any_mask_is_covered_wherever_it_lies(seed, share, gap, shift):
    noise = np.random.default_rng(seed).normal(size=(61, 83)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    mask = smooth > share * smooth.std()
    found = sections(mask, gap, mpp=40.0)
    np.testing.assert_array_equal(found, sections(mask, gap, mpp=40.0))
    wide = np.zeros((80, 100), bool)
    wide[shift[0] : shift[0] + 61, shift[1] : shift[1] + 83] = mask
    moved = sections(wide, gap, mpp=40.0)
    part = moved[shift[0] : shift[0] + 61, shift[1] : shift[1] + 83]
    np.testing.assert_array_equal(part, found)


def test_translation_at_the_resolution_where_blocks_are_used():
    mask = draw((200, 300, 90, 130), (420, 310, 120, 100), (330, 200, 20, 20))
    found = sections(mask)
    for down, right in ((1, 0), (3, 2), (0, 5)):
        moved = np.zeros((620, 1020), bool)
        moved[down : down + 600, right : right + 1000] = mask
        again = sections(moved)[down : down + 600, right : right + 1000]
        np.testing.assert_array_equal(again, found)


def test_nothing_and_everything():
    assert not sections(np.zeros((5, 7), bool)).any()
    assert (sections(np.ones((5, 7), bool)) == 1).all()
    assert sections(np.ones((1, 1), bool)).max() == 1


def test_reading_order_and_boxes():
    labels = np.zeros((10, 12), np.int32)
    labels[6:9, 1:4], labels[1:3, 7:12], labels[1:3, 0:2] = 3, 9, 12
    ordered = in_reading_order(labels)
    assert (ordered[1, 0], ordered[1, 8], ordered[7, 2]) == (1, 2, 3)
    assert boxes_of(labels) == {
        3: (slice(6, 9), slice(1, 4)),
        9: (slice(1, 3), slice(7, 12)),
        12: (slice(1, 3), slice(0, 2)),
    }
    assert boxes_of(np.zeros((3, 3), np.int32)) == {}
