"""A torch network as an encoder: pixels to the device, normalised there, vectors back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiprep.core.cores import available_cores
from wsiprep.core.errors import DeviceError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.batches import Batches, Running, StreamBatches, Streams, ThreadBatches
from wsiprep.encoders.network import Network

__all__ = ["PendingBatch", "Precision", "TorchEncoder", "state_sha256"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class TorchEncoder:
    """An encoder made of a torch module.

    Pixels travel to the device as uint8, are resized there to `spec.input_px` if they have
    another size (antialiased bicubic, clamped to 0..255 as image libraries do), normalised there,
    and go through the network without gradients. Resizing keeps the field of view: patches of
    T px at `mpp` reach the network at mpp * T / input_px.

    A CPU computes one patch at a time in each of several threads, and each thread alone: a
    vector's bits depend neither on its batch nor on the number of threads, activations stay in
    cache, and threads that decode tiles beside it do not stall every layer, as they do when all
    threads share one layer. Elsewhere the whole batch is computed at once; on CUDA a batch is
    copied to the device while the one before is computed. When memory runs out, first threads are
    given up and then the patches computed at a time halved, for this batch and all later ones.

    An encoder is used by one thread at a time.

    Args:
        module: Takes float (B, 3, S, S), gives (B, spec.dim). It is changed in place: to eval
            mode, without gradients, on `device`, in the wanted precision, and on a CPU in the
            library that computes its products (docs/adr/0008).
        spec: Facts; `weights_sha256` and `precision` are filled in.
        device: Where the network runs.
        precision: Numbers it computes in; the half types convert the whole network, weights
            and normalisation layers included, and are not an autocast. fp32 is IEEE: no TF32.
            `auto` is the published precision on a GPU and fp32 on a CPU.
        patches: Most patches computed at a time; None is 1 on a CPU, no limit elsewhere.
        threads: Threads on a CPU; None takes the cores that this process was given.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: EncoderSpec,
        device: torch.device,
        precision: Precision = "auto",
        *,
        patches: int | None = None,
        threads: int | None = None,
    ) -> None:
        used = precision
        if used == "auto":
            used = "fp32" if device.type == "cpu" else spec.precision
        sha256 = spec.weights_sha256 or state_sha256(module)
        self._spec = replace(spec, precision=used, weights_sha256=sha256)
        self._network = Network(module, self._spec, device, _DTYPES[used])
        on_cpu = device.type == "cpu"
        self._patches = patches or (1 if on_cpu else None)
        self._batches: Batches
        if device.type == "cuda":
            self._batches = StreamBatches(self._network, Streams(device))
        else:
            count = (threads or available_cores()) if on_cpu else 1
            self._batches = ThreadBatches(self._network, count)
        self._shrunk = 0

    @property
    def spec(self) -> EncoderSpec:
        """Facts, with the hash of the weights and the precision as used."""
        return self._spec

    @property
    def device(self) -> str:
        """Where the network runs, e.g. `cuda:0`."""
        return str(self._network.device)

    @property
    def patches(self) -> int | None:
        """Most patches computed at a time; None is no limit. Smaller once memory ran out."""
        return self._patches

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A buffer to read pixels into: page-locked on CUDA, so that copying needs no CPU.

        Args:
            shape: (B, T, T, 3).

        Returns:
            uint8 of that shape, not initialised; it may be used again and again, and sliced.
        """
        return self._batches.allocate(shape)

    def begin(self, pixels: NDArray[np.uint8] | Tensor) -> PendingBatch:
        """Begin a batch, and return before it is computed.

        Batches are finished in the order they were begun in. The caller bounds how many there
        are: two keep the device busy.

        Args:
            pixels: uint8 (B, T, T, 3) RGB, B >= 1, an array or a tensor on `device`; not to be
                written to before `result` was asked for.

        Raises:
            EncodingError: `pixels` has a wrong shape or is elsewhere; on CUDA also if the
                network's output has a wrong shape.
        """
        shape = tuple(pixels.shape)
        if isinstance(pixels, Tensor) and pixels.device != self._network.device:
            raise self._network.wrong(f"patches are on {pixels.device}, not on {self.device}")
        fits = pixels.dtype in (np.uint8, torch.uint8) and pixels.ndim == 4 and 0 not in shape
        if not fits or shape[1] != shape[2] or shape[3] != 3:
            raise self._network.wrong(
                f"patches must be uint8 (B, T, T, 3), not {pixels.dtype} {shape}"
            )
        return PendingBatch(partial(self._finish, pixels, self._run(pixels), self._shrunk))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches.

        Args:
            pixels: uint8 (B, T, T, 3) RGB, B >= 1.

        Returns:
            float32 (B, dim).

        Raises:
            DeviceError: not enough memory for one patch.
            EncodingError: `pixels` or the network's output has a wrong shape.
        """
        return self.begin(pixels).result()

    def _run(self, pixels: NDArray[np.uint8] | Tensor) -> Running:
        return self._batches.begin(pixels, self._patches or len(pixels))

    def _finish(
        self, pixels: NDArray[np.uint8] | Tensor, running: Running, shrunk: int
    ) -> NDArray[np.float32]:
        """Vectors of a batch that was begun after `shrunk` cuts; again if memory ran out."""
        vectors = running.vectors()
        while vectors is None:
            self._batches.give_memory_back()
            if shrunk == self._shrunk:  # else the batch before this one has made the cut
                self._shrink(len(pixels), pixels.shape[1])
            shrunk = self._shrunk
            vectors = self._run(pixels).vectors()
        return vectors

    def _shrink(self, count: int, patch_px: int) -> None:
        """Compute less at a time, after a batch of `count` patches was too much."""
        self._shrunk += 1
        if self._batches.threads > 1:
            self._batches.threads = 1
            return
        at_a_time = min(count, self._patches or count)
        if at_a_time <= 1:
            raise DeviceError(
                f"{self._network.device} has no memory for one patch of {patch_px} px with "
                f"'{self._spec.name}' in {self._spec.precision}.",
                stage="encoder",
                hint="Free the device, lower --batch-size, compute in --precision bf16 or fp16, "
                "or choose another --device.",
            )
        self._patches = at_a_time // 2


class PendingBatch:
    """A batch that was begun by `TorchEncoder.begin`."""

    def __init__(self, finish: Callable[[], NDArray[np.float32]]) -> None:
        self._outcome: Callable[[], NDArray[np.float32]] | NDArray[np.float32] = finish

    def result(self) -> NDArray[np.float32]:
        """Wait for this batch; the same array each time it is asked for.

        Returns:
            float32 (B, dim).

        Raises:
            DeviceError: not enough memory for one patch.
            EncodingError: the network's output has a wrong shape.
        """
        if callable(self._outcome):
            self._outcome = self._outcome()  # the pixels may go
        return self._outcome


def state_sha256(module: nn.Module) -> str:
    """sha256 (hex) over a module's parameters and buffers; empty when it has none.

    Each tensor adds its name, dtype, shape and bytes (row-major), in order of names, so the
    hash does not depend on device, memory layout or the format of the weights file.
    """
    state = module.state_dict()
    if not state:
        return ""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
