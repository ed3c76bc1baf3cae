"""How a batch is computed while the caller goes on: by threads, or by the streams of a GPU.

Both begin a batch in groups of `step` patches, and answer None for it when memory ran out; what
to do then is the encoder's business. A batch's pixels are kept until its vectors were asked for.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiprep.core.recycled import Recycled
from wsiprep.encoders.network import Network

__all__ = ["Batches", "Running", "StreamBatches", "Streams", "ThreadBatches", "is_no_memory"]

_NO_MEMORY = (
    "can't allocate memory",  # CPU allocator
    "out of memory",  # CUDA driver, MPS
    "ALLOC_FAILED",  # cuDNN, cuBLAS
)


class Running(Protocol):
    """A batch that was begun."""

    def vectors(self) -> NDArray[np.float32] | None:
        """Wait; float32 (B, dim), or None when memory ran out. Asked for once."""
        ...


class Batches(Protocol):
    """A way to compute batches; they are finished in the order they were begun in."""

    threads: int

    def begin(self, pixels: NDArray[np.uint8] | Tensor, step: int) -> Running:
        """Begin a batch, in groups of at most `step` patches."""
        ...

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A uint8 buffer to read pixels into."""
        ...

    def give_memory_back(self) -> None:
        """Wait for what is under way, and free what is kept for the next batch."""
        ...


class ThreadBatches:
    """Threads that each compute one group at a time, alone; a batch follows on another."""

    def __init__(self, network: Network, threads: int) -> None:
        self.threads = threads
        self._network = network
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._memory = Recycled()
        self._restore: weakref.finalize[[int], ThreadBatches] | None = None

    def begin(self, pixels: NDArray[np.uint8] | Tensor, step: int) -> Running:
        """Begin a batch, in groups of at most `step` patches."""
        if self._pid != os.getpid():  # threads do not come along into a forked process
            self._pool, self._pid = None, os.getpid()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "encoder", *self._alone())
        return _InThreads(self._pool, self._network, pixels, step, self.threads)

    def _alone(self) -> tuple[Any, ...]:
        """What makes the layers of a group stay in the thread that has it, on a CPU.

        torch keeps that number for all threads to come. When these threads are no longer needed,
        it is put back for whatever else the process does.
        """
        if self._network.device.type != "cpu":
            return ()
        if self._restore is None:
            self._restore = weakref.finalize(self, torch.set_num_threads, torch.get_num_threads())
        return torch.set_num_threads, (1,)

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Plain memory, used again when a batch is done."""
        return self._memory.allocate(shape)

    def give_memory_back(self) -> None:
        """End the threads, after the groups that are queued."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._memory.clear()
        if self._network.device.type == "mps":
            torch.mps.empty_cache()


class _InThreads:
    def __init__(
        self,
        pool: ThreadPoolExecutor,
        network: Network,
        pixels: NDArray[np.uint8] | Tensor,
        step: int,
        threads: int,
    ) -> None:
        starts = deque(range(0, len(pixels), step))
        self._vectors = np.empty((len(pixels), network.spec.dim), np.float32)
        work = partial(_compute, network, pixels, self._vectors, starts, step)
        self._jobs: list[Future[bool]] = [
            pool.submit(work) for _ in range(min(threads, len(starts)))
        ]
        # A batch that nobody will ask for any more is not computed to its end.
        self._abandon = weakref.finalize(self, starts.clear)

    def vectors(self) -> NDArray[np.float32] | None:
        try:
            wait(self._jobs)
        finally:
            self._abandon()
        enough = all([job.result() for job in self._jobs])
        return self._vectors if enough else None


def _compute(
    network: Network,
    pixels: NDArray[np.uint8] | Tensor,
    vectors: NDArray[np.float32],
    starts: deque[int],
    step: int,
) -> bool:
    """Groups of a batch until none is left; False when memory ran out."""
    try:
        while True:
            try:
                start = starts.popleft()
            except IndexError:
                return True
            group = slice(start, start + step)
            vectors[group] = network(_tensor(pixels[group])).cpu().numpy()
    except (RuntimeError, MemoryError) as err:
        if not is_no_memory(err):
            raise
        return False
    finally:
        starts.clear()  # after an error the others need not go on


class Streams:
    """What is asked of torch.cuda; copies to the device have a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def to_device(self, host: Tensor) -> Tensor:
        """Copy beside what is computed; what is computed next waits for the copy."""
        with torch.cuda.stream(self._copies):
            there = host.to(self._device, non_blocking=True)
        compute = torch.cuda.current_stream(self._device)
        compute.wait_stream(self._copies)
        # Allocated for the stream of copies: not to be reused there before it was computed with.
        there.record_stream(compute)
        return there

    def to_host(self, there: Tensor, host: Tensor) -> None:
        """Copy into page-locked memory, after what was computed so far."""
        host.copy_(there, non_blocking=True)

    def mark(self) -> Any:
        """Something to `synchronize` with: all that was computed and copied so far."""
        return torch.cuda.current_stream(self._device).record_event()

    def page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory that is copied without the CPU."""
        with torch.cuda.device(self._device):
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def give_memory_back(self) -> None:
        """Wait for all, and free the cache."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


class StreamBatches:
    """Copy in, compute and copy out are queued on a GPU; only `vectors` waits, for its own batch.

    The copy of a batch runs while the one before is computed, if its pixels are page-locked.
    """

    def __init__(self, network: Network, streams: Streams) -> None:
        self.threads = 1
        self._network = network
        self._streams = streams

    def begin(self, pixels: NDArray[np.uint8] | Tensor, step: int) -> Running:
        """Begin a batch, in groups of at most `step` patches."""
        try:
            return self._queue(pixels, step)
        except (RuntimeError, MemoryError) as err:
            if not is_no_memory(err):
                raise
        return _OutOfMemory()  # only here the traceback and the tensors it holds are gone

    def _queue(self, pixels: NDArray[np.uint8] | Tensor, step: int) -> Running:
        host = self._streams.page_locked((len(pixels), self._network.spec.dim), torch.float32)
        for start in range(0, len(pixels), step):
            group = slice(start, start + step)
            there = pixels[group]
            if not isinstance(there, Tensor):  # else it is there already
                there = self._streams.to_device(_tensor(there))
            self._streams.to_host(self._network(there), host[group])
        return _OnStreams(self._streams.mark(), host, pixels)

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Page-locked memory, from and back to torch's cache of it."""
        buffer: NDArray[np.uint8] = self._streams.page_locked(shape, torch.uint8).numpy()
        return buffer

    def give_memory_back(self) -> None:
        """Wait for all that is queued on the GPU, and free what torch keeps for later."""
        self._streams.give_memory_back()


class _OnStreams:
    def __init__(self, done: Any, host: Tensor, pixels: NDArray[np.uint8] | Tensor) -> None:
        self._done = done
        self._host = host
        # torch does not know who is copying them
        self._pixels: NDArray[np.uint8] | Tensor | None = pixels

    def vectors(self) -> NDArray[np.float32] | None:
        try:
            self._done.synchronize()
        except RuntimeError as err:
            if not is_no_memory(err):
                raise
            return None
        self._pixels = None
        # A copy: page-locked memory is for buffers, not for results that may be kept for long.
        vectors: NDArray[np.float32] = self._host.numpy().copy()
        return vectors


class _OutOfMemory:
    def vectors(self) -> NDArray[np.float32] | None:
        return None


def _tensor(group: NDArray[np.uint8] | Tensor) -> Tensor:
    if isinstance(group, Tensor):
        return group
    # torch warns about arrays that cannot be written, although it only reads this one.
    return torch.from_numpy(np.require(group, requirements=["C", "W"]))


def is_no_memory(err: BaseException) -> bool:
    """Whether torch says by this error that memory ran out, on whatever device."""
    if isinstance(err, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(err) for sign in _NO_MEMORY)
