from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsiprep.core.contracts import Encoder
from wsiprep.core.errors import ConfigError, UnknownPluginError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders import EncoderConfig, load_encoder
from wsiprep.encoders.families.test import SPECS
from wsiprep.testing.encoder import EncoderContract


class TestMeanColour(EncoderContract):
    tolerance = 0.0

    @pytest.fixture
    def encoder(self) -> Encoder:
        encoder: Encoder = load_encoder("test", device="cpu")
        return encoder

    @pytest.fixture
    def known(self) -> EncoderSpec:
        return SPECS[0]


def test_is_the_mean_colour() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[0] = 255
    pixels[1, :2, :, 1] = 255
    np.testing.assert_array_equal(load_encoder("test")(pixels), [[1, 1, 1], [0, 0.5, 0]])


def test_a_large_patch_does_not_overflow() -> None:
    pixels = np.full((1, 3000, 3000, 3), 255, np.uint8)
    np.testing.assert_array_equal(load_encoder("test")(pixels), [[1, 1, 1]])


def test_takes_no_weights_and_no_model() -> None:
    with pytest.raises(ConfigError, match=r"no weights.*--weights"):
        load_encoder("test", EncoderConfig(encoder=("test",), weights=Path("w.pth")))
    with pytest.raises(UnknownPluginError, match="no models"):
        load_encoder("test:mean")
