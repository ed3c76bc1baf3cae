from __future__ import annotations

import pytest

from wsiprep.core.errors import ConfigError
from wsiprep.encoders import EncoderConfig


def test_defaults_need_nothing() -> None:
    cfg = EncoderConfig()
    assert cfg.encoder == ("lite0",)
    assert cfg.weights is None


def test_weights_are_for_one_encoder() -> None:
    assert EncoderConfig(encoder=("timm:a",), weights="w.pth").weights is not None
    with pytest.raises(ConfigError, match=r"--weights is one file.*2 encoders.*timm:a, timm:b"):
        EncoderConfig(encoder=("timm:a", "timm:b"), weights="w.pth")


def test_weights_and_random_weights_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        EncoderConfig(weights="w.pth", random_weights=True)


def test_an_encoder_is_named_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        EncoderConfig(encoder=("test", "test"))
