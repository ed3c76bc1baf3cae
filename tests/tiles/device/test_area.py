"""Area averaging on a device against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.tiles.device.area import area_taps, shrink


@settings(deadline=None, max_examples=200)
@given(patch_px=st.integers(1, 300), more=st.integers(0, 700))
def test_every_pixel_is_covered_once(patch_px, more):
    read_px = patch_px + more
    taps, covered = area_taps(read_px, patch_px)
    assert taps.min() == 0
    assert taps.max() == read_px - 1
    total = np.zeros(read_px)
    np.add.at(total, taps, covered)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    np.testing.assert_allclose(covered.sum(axis=0), read_px / patch_px, rtol=1e-6)


def both(read_px, patch_px, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, read_px, read_px, 3), np.uint8)
    size = (patch_px, patch_px)
    wanted = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pixels])
    got = shrink(torch.from_numpy(pixels), patch_px)
    assert got.dtype == torch.uint8
    return got.numpy(), wanted


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7, 16])
def test_whole_factors_are_opencvs_to_the_byte(factor):
    got, wanted = both(64 * factor, 64)
    np.testing.assert_array_equal(got, wanted)


@settings(deadline=None, max_examples=60)
@given(patch_px=st.integers(1, 96), more=st.integers(0, 200), seed=st.integers(0, 9))
def test_other_factors_are_within_a_level(patch_px, more, seed):
    got, wanted = both(patch_px + more, patch_px, seed)
    assert np.abs(got.astype(int) - wanted).max() <= 1


@settings(deadline=None, max_examples=60)
@given(patch_px=st.integers(1, 96), more=st.integers(0, 200), seed=st.integers(0, 9))
def test_they_are_the_exact_means_rounded(patch_px, more, seed):
    read_px = patch_px + more
    line = np.arange(read_px)
    start, stop = (np.arange(patch_px) + np.arange(2)[:, None]) * read_px / patch_px
    covered = np.minimum(stop[:, None], line + 1) - np.maximum(start[:, None], line)
    matrix = covered.clip(0) * patch_px / read_px
    pixels = np.random.default_rng(seed).integers(0, 256, (1, read_px, read_px, 3), np.uint8)
    exact = np.einsum("yi,bijc,xj->byxc", matrix, pixels.astype(float), matrix, optimize=True)
    got = shrink(torch.from_numpy(pixels), patch_px).numpy()
    assert np.abs(got - exact).max() <= 0.5 + 1e-3


def test_white_stays_white():
    white = torch.full((1, 301, 301, 3), 255, dtype=torch.uint8)
    assert bool((shrink(white, 224) == 255).all())
