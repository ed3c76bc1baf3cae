"""Noise is a function of place."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.synth.texture import enlarge, hash01, lattice, spectral_noise, tile_window, value_noise

NOISE = spectral_noise(np.random.default_rng(1), 64, 2.0, 1.0)


def test_spectral_noise_is_normal_and_tiles() -> None:
    assert abs(NOISE.mean()) < 1e-5
    assert abs(NOISE.std() - 1) < 1e-5
    jump = np.abs(NOISE[:, 0] - NOISE[:, -1]).mean()
    inside = np.abs(np.diff(NOISE, axis=1)).mean()
    assert jump < 2 * inside


@settings(deadline=None)
@given(
    x=st.integers(-500, 500),
    y=st.integers(-500, 500),
    dx=st.integers(0, 40),
    step=st.sampled_from([1, 2, 5, 8]),
)
def test_windows_agree_where_they_overlap(x: int, y: int, dx: int, step: int) -> None:
    for sample in (
        lambda window: tile_window(NOISE, window),
        lambda window: value_noise(NOISE, step, window),
        lambda window: enlarge(NOISE, step, window),
    ):
        large = sample((x, y, 90, 70))
        small = sample((x + dx, y + 7, 50, 60))
        np.testing.assert_allclose(small, large[7:67, dx : dx + 50], atol=2e-5)


def test_hash_is_uniform_and_without_pattern() -> None:
    ix, iy = lattice((-100, -100, 199, 199), 1.0)
    first, second = hash01(ix, iy, 7, 0), hash01(ix, iy, 7, 1)
    assert 0 <= first.min() < 0.001 < 0.999 < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01
    grid = first.reshape(200, 200)
    for pair in ((first, second), (grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1])):
        assert abs(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) < 0.03


def test_lattice_covers_a_window_with_negative_corner() -> None:
    ix, iy = lattice((-5, 3, 20, 4), 4.0)
    assert (ix.min(), ix.max(), iy.min(), iy.max()) == (-2, 3, 0, 1)
    assert len(ix) == 6 * 2
