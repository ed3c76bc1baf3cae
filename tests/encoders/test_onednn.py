from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsiprep.core.types import EncoderSpec
from wsiprep.encoders import network, onednn
from wsiprep.encoders.onednn import onednn_pays, use_onednn
from wsiprep.encoders.torch_encoder import TorchEncoder
from wsiprep.encoders.weights import seeded

CPU = torch.device("cpu")

needs_onednn = pytest.mark.skipif(not onednn._is_there(), reason="torch has no oneDNN here")


class Block(nn.Module):
    """Convolutions, linear layers on tokens and on one vector, normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.point = nn.Conv2d(24, 48, 1)
        self.norm = nn.LayerNorm(48)
        self.up, self.down = nn.Linear(48, 192), nn.Linear(192, 48)
        self.head = nn.Linear(48, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.stem(x)).flatten(2).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        out: Tensor = self.head(x.mean(dim=1))
        return out


def block() -> nn.Module:
    with seeded():
        return Block().eval().requires_grad_(False)


def spec() -> EncoderSpec:
    return EncoderSpec(
        name="block", dim=10, input_px=None, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)
    )


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("before", "after"), [(8, 5), (48, 192), (64, 1)])
def test_a_linear_layer_gives_the_same(before: int, after: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(before)
    plain = nn.Linear(before, after, bias=bias).requires_grad_(False)
    ours = use_onednn(copy.deepcopy(plain))
    assert type(ours) is not nn.Linear
    tokens = torch.randn(3, 7, before, generator=generator)
    wide = torch.randn(3, 7, 2 * before, generator=generator)
    with torch.inference_mode():
        for x in (
            tokens, tokens[0], tokens[0, 0], tokens[None], tokens[:, 0], wide[..., ::2],
            wide[..., before:], tokens.transpose(1, 2).contiguous().transpose(1, 2),
            tokens[:1, :1].expand(3, 7, before), tokens[:0],
        ):  # fmt: skip
            torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("stride", [1, 2])
def test_a_small_convolution_gives_the_same(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(16, 24, 1, stride=stride).requires_grad_(False)
    ours = use_onednn(copy.deepcopy(plain))
    assert type(ours) is not nn.Conv2d
    with torch.inference_mode():
        for count in (1, 3):
            x = torch.randn(count, 16, 9, 8, generator=generator)
            for layout in (torch.contiguous_format, torch.channels_last):
                y = x.contiguous(memory_format=layout)
                torch.testing.assert_close(ours(y), plain(y), rtol=1e-5, atol=1e-5)


def test_only_what_is_exactly_torchs_is_changed() -> None:
    class Mine(nn.Linear):
        pass

    layers = [Mine(2, 2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.LayerNorm(4),
              nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1, padding="same")]  # fmt: skip
    before = [type(layer) for layer in layers]
    use_onednn(nn.Sequential(*layers))
    assert [type(layer) for layer in layers] == before


def test_names_parameters_and_hooks_stay() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 1)).requires_grad_(False)
    state = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    seen = []
    module[0].register_forward_hook(lambda *_: seen.append(1))
    use_onednn(use_onednn(module))
    assert {n: t.data_ptr() for n, t in module.state_dict().items()} == state
    module[0](torch.zeros(1, 4))
    assert seen == [1]
    assert isinstance(module[0], nn.Linear)
    assert isinstance(module[1], nn.Conv2d)


@pytest.mark.parametrize("lacks", ["x86", "oneDNN", "operator"])
def test_a_machine_without_it_computes_as_before(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "x86":
        monkeypatch.setattr(onednn.platform, "machine", lambda: "arm64")
    elif lacks == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.ops, "mkldnn", Path())
    module = use_onednn(block())
    assert not any(type(m).__module__ == onednn.__name__ for m in module.modules())
    assert TorchEncoder(module, spec(), CPU)(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 10)


@needs_onednn
@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_on_a_cpu_uses_it_in_fp32_where_it_pays(
    precision: str, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "onednn_pays", lambda: pays)
    module = block()
    TorchEncoder(module, spec(), CPU, precision)  # type: ignore[arg-type]
    count = sum(type(m).__module__ == onednn.__name__ for m in module.modules())
    assert count == (4 if pays and precision == "fp32" else 0)


@pytest.mark.parametrize(
    ("system", "told", "processor", "pays"),
    [
        ("Linux", "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)", "", False),
        ("Linux", "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC", "x86_64", True),
        ("Windows", None, "Intel64 Family 6 Model 154 Stepping 3, GenuineIntel", False),
        ("Windows", None, "AMD64 Family 25 Model 80 Stepping 0, AuthenticAMD", True),
        ("Darwin", None, "i386", False),
    ],
)
def test_it_pays_on_processors_that_are_not_intels(
    system: str, told: str | None, processor: str, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path, **_: str) -> str:
        assert path == Path("/proc/cpuinfo")
        if told is None:
            raise FileNotFoundError
        return told

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(onednn.platform, "system", lambda: system)
    monkeypatch.setattr(onednn.platform, "processor", lambda: processor)
    assert onednn_pays() is pays


@pytest.mark.parametrize("pays", [True, False])
def test_bits_depend_neither_on_the_batch_nor_on_threads(
    pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "onednn_pays", lambda: pays)
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    whole = TorchEncoder(block(), spec(), CPU, threads=1)(pixels)
    with torch.inference_mode():
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.3
        np.testing.assert_allclose(whole, block()(x).numpy(), rtol=1e-3, atol=1e-5)
    for threads in (2, 3):
        encoder = TorchEncoder(block(), spec(), CPU, threads=threads)
        np.testing.assert_array_equal(encoder(pixels), whole)
        for start, stop in ((0, 1), (3, 9), (10, 11)):
            np.testing.assert_array_equal(encoder(pixels[start:stop]), whole[start:stop])
    first, second = encoder.begin(pixels[:6]), encoder.begin(pixels[6:])
    np.testing.assert_array_equal(np.concatenate([first.result(), second.result()]), whole)
