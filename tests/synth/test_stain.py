"""Stain is additive in optical density."""

from __future__ import annotations

import numpy as np

from wsiprep.synth.stain import HE, transmit


def test_beer_lambert() -> None:
    nuclear = np.array([[0.0, 1.0, 0.5]], np.float32)
    counter = np.array([[0.0, 0.0, 0.4]], np.float32)
    density = HE.density(nuclear, counter)
    light = np.full((1, 3, 3), 240, np.float32)
    seen = transmit(light, density)
    h, e = np.array(HE.nuclear), np.array(HE.counter)
    np.testing.assert_allclose(seen[0, 0], 240, rtol=1e-5)
    np.testing.assert_allclose(seen[0, 1], 240 * 10**-h, rtol=1e-4)
    np.testing.assert_allclose(seen[0, 2], 240 * 10 ** -(0.5 * h + 0.4 * e), rtol=1e-4)


def test_haematoxylin_is_blue_and_eosin_pink() -> None:
    one, none = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    light = np.full((1, 1, 3), 240, np.float32)
    red, green, blue = transmit(light, HE.density(one, none))[0, 0]
    assert blue > red > green
    red, green, blue = transmit(light, HE.density(none, 0.4 * one))[0, 0]
    assert red > blue > green
