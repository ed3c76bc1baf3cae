"""Batches under way on a GPU's streams, as far as a fake shows them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.encoders.means import CPU, SPEC, Mean, flat, means, no_memory
from wsiprep.core.contracts import AsyncEncoder, Pending
from wsiprep.core.errors import DeviceError, EncodingError
from wsiprep.encoders.batches import StreamBatches, Streams
from wsiprep.encoders.torch_encoder import TorchEncoder


class LateStreams(Streams):
    """Copies to the host only when somebody waits for them, as a GPU may."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.queue: list[tuple[Tensor, Tensor]] = []
        self.fail_waiting: list[Exception] = []

    def to_device(self, host: Tensor) -> Tensor:
        self.log.append(f"in {len(host)}")
        return host.clone()

    def to_host(self, there: Tensor, host: Tensor) -> None:
        self.log.append(f"out {len(there)}")
        self.queue.append((there, host))

    def mark(self) -> Any:
        streams, upto = self, len(self.queue)

        class Event:
            def synchronize(self) -> None:
                streams.log.append("wait")
                if streams.fail_waiting:
                    raise streams.fail_waiting.pop()
                for there, host in streams.queue[:upto]:
                    host.copy_(there)

        return Event()

    def page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, 77, dtype=dtype)

    def give_memory_back(self) -> None:
        self.log.append("free")


def streamed(module: nn.Module, patches: int = 10**6) -> tuple[TorchEncoder, LateStreams]:
    encoder = TorchEncoder(module, SPEC, CPU, patches=patches)
    streams = LateStreams()
    encoder._batches = StreamBatches(encoder._network, streams)
    return encoder, streams


def test_pixels_that_are_there_are_not_copied_there() -> None:
    encoder, streams = streamed(Mean(lambda first, _: streams.log.append(f"compute {first}")))
    pending = encoder.begin(torch.from_numpy(flat(1, 2)))
    assert streams.log == ["compute 1", "out 2"]
    np.testing.assert_allclose(pending.result(), means(1, 2), rtol=1e-6)


def test_two_batches_are_queued_and_each_is_waited_for_by_itself() -> None:
    encoder, streams = streamed(Mean(lambda first, _: streams.log.append(f"compute {first}")))
    first, second = encoder.begin(flat(1, 2)), encoder.begin(flat(3))
    queued = ["in 2", "compute 1", "out 2", "in 1", "compute 3", "out 1"]
    assert streams.log == queued
    np.testing.assert_allclose(first.result(), means(1, 2), rtol=1e-6)
    assert streams.log == [*queued, "wait"]
    assert float(streams.queue[1][1][0, 0]) == 77  # nobody has waited for the second
    np.testing.assert_allclose(second.result(), means(3), rtol=1e-6)
    assert second.result() is second.result()
    assert streams.log == [*queued, "wait", "wait"]


def test_a_batch_in_groups_has_one_result() -> None:
    encoder, streams = streamed(Mean(), patches=2)
    np.testing.assert_allclose(encoder(flat(1, 2, 3, 4, 5)), means(1, 2, 3, 4, 5), rtol=1e-6)
    assert streams.log == ["in 2", "out 2", "in 2", "out 2", "in 1", "out 1", "wait"]


def test_pixels_live_until_the_result_and_no_longer() -> None:
    encoder, _ = streamed(Mean())
    pixels = flat(1, 2)
    alive = weakref.ref(pixels)
    pending = encoder.begin(pixels)
    del pixels
    gc.collect()
    assert alive() is not None
    pending.result()
    gc.collect()
    assert alive() is None


def test_a_result_is_no_page_locked_buffer() -> None:
    encoder, streams = streamed(Mean())
    vectors = encoder(flat(1))
    streams.queue[0][1].fill_(5)
    np.testing.assert_allclose(vectors, means(1), rtol=1e-6)


def test_buffers_come_from_the_streams() -> None:
    encoder, _ = streamed(Mean())
    assert (encoder.allocate((2, 4, 4, 3)) == 77).all()
    plain = TorchEncoder(Mean(), SPEC, CPU).allocate((2, 4, 4, 3))
    assert (plain.shape, plain.dtype) == ((2, 4, 4, 3), np.uint8)
    assert isinstance(encoder, AsyncEncoder)
    assert isinstance(encoder.begin(flat(1)), Pending)


def test_memory_that_runs_out_at_begin_is_found_for_the_result() -> None:
    tried: list[int] = []

    def before(_: int, count: int) -> None:
        tried.append(count)
        if count > 2:
            no_memory()

    encoder, streams = streamed(Mean(before))
    first, second = encoder.begin(flat(1, 2, 3, 4, 5)), encoder.begin(flat(6, 7, 8))
    assert tried == [5, 3]
    np.testing.assert_allclose(first.result(), means(1, 2, 3, 4, 5), rtol=1e-6)
    assert encoder.patches == 2
    assert tried == [5, 3, 2, 2, 1]
    # The second was begun before the cut: it is computed again, not cut again.
    np.testing.assert_allclose(second.result(), means(6, 7, 8), rtol=1e-6)
    assert encoder.patches == 2
    assert tried == [5, 3, 2, 2, 1, 2, 1]
    assert streams.log.count("free") == 2


def test_memory_that_runs_out_while_waiting() -> None:
    encoder, streams = streamed(Mean())
    first, second = encoder.begin(flat(1, 2, 3, 4)), encoder.begin(flat(5, 6, 7, 8))
    streams.fail_waiting.append(RuntimeError("CUDA error: out of memory"))
    np.testing.assert_allclose(first.result(), means(1, 2, 3, 4), rtol=1e-6)
    assert encoder.patches == 2
    np.testing.assert_allclose(second.result(), means(5, 6, 7, 8), rtol=1e-6)
    assert streams.log.index("free") < streams.log.index("in 2")


def test_other_errors_while_waiting_are_not_taken_for_memory() -> None:
    encoder, streams = streamed(Mean())
    pending = encoder.begin(flat(1))
    streams.fail_waiting.append(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side"):
        pending.result()


def test_no_memory_for_one_patch_on_streams() -> None:
    encoder, _ = streamed(Mean(no_memory))
    pending = encoder.begin(flat(1, 2, 3))
    with pytest.raises(DeviceError, match="no memory for one patch"):
        pending.result()


def test_a_wrong_network_is_said_at_once() -> None:
    encoder, _ = streamed(nn.Flatten())
    with pytest.raises(EncodingError, match=r"\(1, 48\) instead of \(1, 3\)"):
        encoder.begin(flat(1))


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class FakeStream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: FakeStream) -> None:
            log.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> str:
            return f"event of {self.name}"

    class FakeTensor:
        def to(self, device: torch.device, *, non_blocking: bool) -> FakeTensor:
            assert non_blocking
            log.append(f"copy to {device}")
            return self

        def record_stream(self, stream: FakeStream) -> None:
            log.append(f"kept for {stream.name}")

        def copy_(self, other: object, *, non_blocking: bool) -> None:
            assert non_blocking
            log.append("copy to host")

    @contextmanager
    def within(stream: FakeStream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield
        log.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("compute"))
    streams = Streams(torch.device("cuda:1"))
    tensor: Any = FakeTensor()
    assert streams.to_device(tensor) is tensor
    assert log == [
        "on copies", "copy to cuda:1", "off copies", "compute waits for copies",
        "kept for compute",
    ]  # fmt: skip
    streams.to_host(tensor, tensor)
    assert log[-1] == "copy to host"
    assert streams.mark() == "event of compute"


@pytest.mark.gpu
def test_many_batches_through_few_buffers_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    encoder = TorchEncoder(Mean2(), SPEC, torch.device("cuda:0"))
    buffers = [encoder.allocate((32, 256, 256, 3)) for _ in range(3)]
    assert all(torch.from_numpy(b).is_pinned() for b in buffers)
    assert torch.from_numpy(buffers[0][5:]).is_pinned()
    waiting: list[tuple[Pending, int]] = []
    for k in range(40):
        buffer = buffers[k % 3]
        buffer[:] = k  # its batch, three ago, is done
        waiting.append((encoder.begin(buffer[: 32 - k % 2]), k))
        if len(waiting) == 3:
            pending, value = waiting.pop(0)
            got = pending.result()
            assert len(got) == 32 - value % 2
            np.testing.assert_allclose(got, np.full_like(got, value / 255), rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_a_full_device_with_batches_in_flight_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda:0")
    encoder = TorchEncoder(Mean2(), SPEC, device)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 256, 3), dtype=np.uint8)
    wanted = pixels.mean(axis=(1, 2)) / 255
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**28 / total, device)
    try:
        batches = [encoder.begin(pixels[:8]), encoder.begin(pixels), encoder.begin(pixels[8:])]
        got = [batch.result() for batch in batches]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    for vectors, part in zip(got, (wanted[:8], wanted, wanted[8:]), strict=True):
        np.testing.assert_allclose(vectors, part, atol=1e-4)
    assert encoder.patches is not None
    assert encoder.patches < 248


class Mean2(nn.Module):
    """Mean colour by way of work that keeps a GPU busy for a while."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = x * 1.0
        return x.mean(dim=(2, 3))
