from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from wsiprep.core.contracts import DeviceEncoder
from wsiprep.core.errors import DeviceError, EncodingError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.network import ieee_fp32
from wsiprep.encoders.torch_encoder import TorchEncoder, state_sha256
from wsiprep.encoders.weights import seeded
from wsiprep.testing.encoder import EncoderContract

CPU = torch.device("cpu")


def spec(dim: int, **facts: object) -> EncoderSpec:
    base: dict[str, object] = {
        "name": "tiny",
        "dim": dim,
        "input_px": None,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
    }
    return EncoderSpec(**(base | facts))  # type: ignore[arg-type]


def tiny() -> nn.Module:
    with seeded():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 6),
        )


class MeanPixel(nn.Module):
    """Mean of the normalised input: shows what reaches the network. Keeps the sizes it saw."""

    def __init__(self, at_most: int = 10**9, fail: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.at_most = at_most
        self.fail = fail
        self.seen: list[tuple[int, ...]] = []
        self.tried: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        if len(x) > self.at_most and self.fail is not None:
            self.fail()
        assert not torch.is_grad_enabled()
        self.seen.append(tuple(x.shape))
        return x.mean(dim=(2, 3)) * self.one


def cuda_out_of_memory() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_out_of_memory() -> None:
    torch.empty(2**50)  # more than an address space: the allocator itself refuses


def noise(count: int, side: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class TestTinyNetwork(EncoderContract):
    patch_px = 24

    @pytest.fixture
    def encoder(self) -> TorchEncoder:
        return TorchEncoder(tiny(), spec(6), CPU)


class TestTinyNetworkResizing(EncoderContract):
    patch_px = 24

    @pytest.fixture
    def encoder(self) -> TorchEncoder:
        return TorchEncoder(tiny(), spec(6, input_px=16), CPU, "fp32", patches=2)


def test_normalises_as_the_spec_says() -> None:
    pixels = noise(3)
    got = TorchEncoder(MeanPixel(), spec(3), CPU)(pixels)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    np.testing.assert_allclose(
        got, (pixels.mean(axis=(1, 2)) / 255 - mean) / std, rtol=1e-5, atol=1e-5
    )


# Pillow clamps after each of its two passes; so noise that overshoots is only made smaller here.
@pytest.mark.parametrize(("side", "low", "high"), [(40, 0, 256), (9, 80, 170)])
def test_resizes_as_pillow_does(side: int, low: int, high: int) -> None:
    class Picture(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).flatten(1)

    pixels = np.random.default_rng(0).integers(low, high, (1, side, side, 3), dtype=np.uint8)
    facts = spec(16 * 16 * 3, input_px=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    got = TorchEncoder(Picture(), facts, CPU)(pixels).reshape(16, 16, 3) * 255
    wanted = np.asarray(Image.fromarray(pixels[0]).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(got, wanted, atol=1.5)
    assert np.abs(got - wanted).mean() < 0.5


def test_a_patch_of_the_right_size_is_not_resized() -> None:
    facts = spec(3, mean=(0.0,) * 3, std=(1.0,) * 3)
    plain = TorchEncoder(MeanPixel(), facts, CPU)
    sized = TorchEncoder(MeanPixel(), spec(3, mean=(0.0,) * 3, std=(1.0,) * 3, input_px=16), CPU)
    np.testing.assert_array_equal(plain(noise(3)), sized(noise(3)))


@pytest.mark.parametrize("fail", [cuda_out_of_memory, cpu_out_of_memory])
def test_out_of_memory_halves_and_goes_on(fail: Callable[[], object]) -> None:
    module = MeanPixel(at_most=5, fail=fail)
    encoder = TorchEncoder(module, spec(3), CPU, patches=16, threads=1)
    pixels = noise(33)
    got = encoder(pixels)
    assert encoder.patches == 4
    assert module.tried == [16, 8, *[4] * 8, 1]
    np.testing.assert_allclose(
        got, TorchEncoder(MeanPixel(), spec(3), CPU, patches=33)(pixels), rtol=1e-5, atol=1e-6
    )
    module.tried.clear()
    encoder(pixels[:8])
    assert module.tried == [4, 4]  # the smaller number is remembered


def test_out_of_memory_in_numpy_counts_too() -> None:
    def fail() -> None:
        raise MemoryError

    encoder = TorchEncoder(MeanPixel(at_most=1, fail=fail), spec(3), CPU, patches=4, threads=1)
    assert encoder(noise(3)).shape == (3, 3)
    assert encoder.patches == 1


def test_out_of_memory_gives_up_threads_first() -> None:
    lock = threading.Lock()

    def fail() -> None:
        if not lock.acquire(blocking=False):  # memory is enough for one at a time
            cpu_out_of_memory()
        time.sleep(0.05)
        lock.release()

    module = MeanPixel(at_most=0, fail=fail)
    encoder = TorchEncoder(module, spec(3), CPU, patches=2, threads=3)
    pixels = noise(9)
    got = encoder(pixels)
    assert encoder.patches == 2
    np.testing.assert_array_equal(got, TorchEncoder(MeanPixel(), spec(3), CPU)(pixels))


def test_out_of_memory_for_one_patch() -> None:
    encoder = TorchEncoder(MeanPixel(at_most=0, fail=cuda_out_of_memory), spec(3), CPU)
    with pytest.raises(DeviceError, match=r"no memory for one patch of 16 px.*--batch-size"):
        encoder(noise(9))


def test_other_errors_are_not_taken_for_memory() -> None:
    def fail() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    module = MeanPixel(at_most=0, fail=fail)
    for threads in (1, 2):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            TorchEncoder(module, spec(3), CPU, threads=threads)(noise(2))
    assert len(module.tried) <= 3


def test_a_vector_has_the_same_bits_in_every_batch_and_on_any_threads() -> None:
    encoder = TorchEncoder(tiny(), spec(6), CPU, threads=2)
    pixels = noise(13)
    whole = encoder(pixels)
    for start, stop in ((0, 1), (2, 5), (7, 13), (12, 13)):
        np.testing.assert_array_equal(encoder(pixels[start:stop]), whole[start:stop])
    for threads in (1, 3, 5):
        other = TorchEncoder(tiny(), spec(6), CPU, threads=threads)
        np.testing.assert_array_equal(other(pixels), whole)


def test_threads_leave_torchs_own_alone() -> None:
    before = torch.get_num_threads()
    TorchEncoder(tiny(), spec(6), CPU, threads=3)(noise(7))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.03), ("fp16", 0.004)])
def test_half_precision_is_close(precision: str, limit: float) -> None:
    pixels = noise(6)
    full = TorchEncoder(tiny(), spec(6), CPU, "fp32")
    half = TorchEncoder(tiny(), spec(6), CPU, precision)  # type: ignore[arg-type]
    wanted, got = full(pixels), half(pixels)
    assert half.spec.precision == precision
    assert got.dtype == np.float32
    difference = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 0 < difference < limit
    assert half.spec.weights_sha256 == full.spec.weights_sha256  # of the weights as published


def test_auto_precision_on_a_cpu_is_fp32() -> None:
    assert TorchEncoder(tiny(), spec(6, precision="fp16"), CPU).spec.precision == "fp32"


def test_network_is_frozen() -> None:
    module = tiny()
    TorchEncoder(module, spec(6), CPU)
    assert not any(m.training for m in module.modules())
    assert not any(p.requires_grad for p in module.parameters())


def test_wrong_output_names_both_shapes() -> None:
    with pytest.raises(EncodingError, match=r"\(1, 6\) instead of \(1, 7\)"):
        TorchEncoder(tiny(), spec(7), CPU)(noise(4))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(EncodingError, match=r"gave a tuple, not \(1, 7\)"):
        TorchEncoder(Pair(), spec(7), CPU)(noise(4))


@pytest.mark.parametrize(
    "pixels",
    [
        noise(1).astype(np.float32),
        noise(1)[0],
        noise(1)[..., :2],
        noise(1)[:, :8],
        noise(1)[:0],
    ],
)
def test_wrong_input_is_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(EncodingError, match=r"must be uint8 \(B, T, T, 3\)"):
        TorchEncoder(tiny(), spec(6), CPU)(pixels)


def test_non_finite_output_is_the_callers_business() -> None:
    module = MeanPixel()
    module.one.data.fill_(float("nan"))
    assert np.isnan(TorchEncoder(module, spec(3), CPU)(noise(2))).all()


def test_state_hash() -> None:
    first = state_sha256(tiny())
    assert len(first) == 64
    assert state_sha256(tiny()) == first
    assert state_sha256(tiny().to(memory_format=torch.channels_last)) == first
    assert state_sha256(tiny().to(torch.bfloat16)) != first
    changed = tiny()
    changed[5].bias.data[0] += 1e-6
    assert state_sha256(changed) != first
    assert state_sha256(nn.Flatten()) == ""
    renamed = nn.Sequential(nn.Flatten(), tiny())
    assert state_sha256(renamed) != first


def test_ieee_fp32_is_set_within_and_restored() -> None:
    def now() -> tuple[object, object]:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        if hasattr(matmul, "fp32_precision"):
            return matmul.fp32_precision, cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        return matmul.allow_tf32, cudnn.allow_tf32

    before = now()
    within = []

    def fails() -> None:
        with ieee_fp32():
            within.append(now())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert within[0] in {("ieee", "ieee"), (False, False)}
    assert now() == before
    assert before not in {("ieee", "ieee"), (False, False)}  # or this test shows nothing


def test_a_tensor_on_the_device_is_as_good_as_an_array() -> None:
    encoder = TorchEncoder(tiny(), spec(6), CPU)
    assert isinstance(encoder, DeviceEncoder)
    assert encoder.device == "cpu"
    pixels = noise(5)
    np.testing.assert_array_equal(encoder.begin(torch.from_numpy(pixels)).result(), encoder(pixels))
    with pytest.raises(EncodingError, match="on meta, not on cpu"):
        encoder.begin(torch.empty((1, 8, 8, 3), dtype=torch.uint8, device="meta"))
    with pytest.raises(EncodingError, match="must be uint8"):
        encoder.begin(torch.zeros((1, 8, 8, 3)))


@pytest.mark.gpu
def test_pixels_on_cuda_make_no_round_trip() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    encoder = TorchEncoder(tiny(), spec(6), torch.device("cuda:0"))
    pixels = noise(8, 64)
    there = torch.from_numpy(pixels).to("cuda:0")
    np.testing.assert_array_equal(encoder.begin(there).result(), encoder(pixels))


@pytest.mark.gpu
def test_cuda_agrees_with_cpu_and_survives_a_full_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cuda = torch.device("cuda:0")
    pixels = noise(256, 256)
    wanted = TorchEncoder(tiny(), spec(6), CPU)(pixels)
    np.testing.assert_allclose(TorchEncoder(tiny(), spec(6), cuda)(pixels), wanted, atol=1e-4)
    encoder = TorchEncoder(tiny(), spec(6), cuda)
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**28 / total, cuda)
    try:
        np.testing.assert_allclose(encoder(pixels), wanted, atol=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert encoder.patches is not None
    assert encoder.patches < 256
