"""A torch network as an encoder: pixels to the device, normalised there, vectors back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.core.errors import DeviceError, EncodingError
from wsiprep.core.types import EncoderSpec

__all__ = ["Precision", "TorchEncoder", "state_sha256"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_NO_MEMORY = (
    "can't allocate memory",  # CPU allocator
    "out of memory",  # CUDA driver, MPS
    "ALLOC_FAILED",  # cuDNN, cuBLAS
)


class TorchEncoder:
    """An encoder made of a torch module.

    Pixels travel to the device as uint8, are resized there to `spec.input_px` if they have
    another size (antialiased bicubic, clamped to 0..255 as image libraries do), normalised there,
    and go through the network without gradients. Resizing keeps the field of view: patches of
    T px at `mpp` reach the network at mpp * T / input_px.

    A CPU computes one patch at a time in each of several threads, and each thread alone: a
    vector's bits depend neither on its batch nor on the number of threads, activations stay in
    cache, and threads that decode tiles beside it do not stall every layer, as they do when all
    threads share one layer. Elsewhere the whole batch is computed at once. When memory runs out,
    first threads are given up and then the patches computed at a time halved, for this call and
    all later ones.

    Args:
        module: Takes float (B, 3, S, S), gives (B, spec.dim). It is changed in place: to eval
            mode, without gradients, on `device`, in the wanted precision.
        spec: Facts; `weights_sha256` and `precision` are filled in.
        device: Where the network runs.
        precision: Numbers it computes in; the half types convert the whole network, weights
            and normalisation layers included, and are not an autocast. fp32 is IEEE: no TF32.
            `auto` is the published precision on a GPU and fp32 on a CPU.
        patches: Most patches computed at a time; None is 1 on a CPU, no limit elsewhere.
        threads: Threads on a CPU; None takes as many as torch would.
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
        self._device = device
        self._dtype = _DTYPES[used]
        # Not all torch versions have antialiased resizing on MPS; there the CPU does it.
        self._resize_on = torch.device("cpu") if device.type == "mps" else device
        module.eval().requires_grad_(False)
        self._module = module.to(device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        on_cpu = device.type == "cpu"
        self._patches = patches or (1 if on_cpu else None)
        self._threads = (threads or torch.get_num_threads()) if on_cpu else 0
        self._pool: ThreadPoolExecutor | None = None
        mean = torch.tensor(spec.mean, dtype=torch.float64)
        std = torch.tensor(spec.std, dtype=torch.float64)
        self._scale = (1 / (255 * std)).float().view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).float().view(1, 3, 1, 1).to(device)

    @property
    def spec(self) -> EncoderSpec:
        """Facts, with the hash of the weights and the precision as used."""
        return self._spec

    @property
    def patches(self) -> int | None:
        """Most patches computed at a time; None is no limit. Smaller once memory ran out."""
        return self._patches

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
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or 0 in pixels.shape:
            raise self._wrong(f"patches must be uint8 (B, T, T, 3), not {_describe(pixels)}")
        if pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3:
            raise self._wrong(f"patches must be uint8 (B, T, T, 3), not {_describe(pixels)}")
        vectors = np.empty((len(pixels), self._spec.dim), np.float32)
        start = 0
        while start < len(pixels):
            step = self._patches or len(pixels)
            groups = [pixels[at : at + step] for at in range(start, len(pixels), step)]
            for done in self._map(groups):
                if done is None:
                    self._shrink(min(step, len(pixels) - start), pixels.shape[1])
                    break
                vectors[start : start + len(done)] = done
                start += len(done)
        return vectors

    def _map(self, groups: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32] | None]:
        """Vectors of each group, in order; None for one that memory did not suffice for."""
        if not self._threads:
            return map(self._encode_group, groups)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._threads, "encoder", initializer=torch.set_num_threads, initargs=(1,)
            )
        if self._threads > 1:
            return self._pool.map(self._encode_group, groups)
        submit = self._pool.submit  # one after the other: the first may find no memory
        return (submit(self._encode_group, group).result() for group in groups)

    def _encode_group(self, group: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Vectors of a group, or None when memory ran out."""
        try:
            return self._forward(group)
        except (RuntimeError, MemoryError) as err:
            if not _is_no_memory(err):
                raise
        # Only here, after the traceback and the tensors it holds are gone, is memory free again.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()
        return None

    def _shrink(self, count: int, patch_px: int) -> None:
        """Compute less at a time, after a group of `count` patches was too much."""
        if self._threads > 1:
            self._threads = 1
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None
            return
        if count <= 1:
            raise DeviceError(
                f"{self._device} has no memory for one patch of {patch_px} px with "
                f"'{self._spec.name}' in {self._spec.precision}.",
                stage="encoder",
                hint="Free the device, lower --batch-size, compute in --precision bf16 or fp16, "
                "or choose another --device.",
            )
        self._patches = count // 2

    def _forward(self, group: NDArray[np.uint8]) -> NDArray[np.float32]:
        side_px = self._spec.input_px
        resized = side_px not in (None, group.shape[1])
        # torch warns about arrays that cannot be written, although it only reads this one.
        batch = torch.from_numpy(np.require(group, requirements=["C", "W"]))
        ieee: AbstractContextManager[None] = nullcontext()
        if self._device.type == "cuda" and self._dtype is torch.float32:
            ieee = ieee_fp32()
        with torch.inference_mode(), ieee:
            x = batch.to(self._resize_on if resized else self._device)
            x = x.permute(0, 3, 1, 2).to(torch.float32)  # channels_last comes from (B, T, T, 3)
            if resized:
                x = functional.interpolate(
                    x, size=side_px, mode="bicubic", align_corners=False, antialias=True
                ).clamp_(0, 255)
                x = x.to(self._device)
            x = x.mul_(self._scale).add_(self._shift)
            x = x.to(self._dtype, memory_format=torch.channels_last)
            out = self._module(x)
            expected = (len(group), self._spec.dim)
            if not isinstance(out, Tensor):
                raise self._wrong(f"the network gave a {type(out).__name__}, not {expected}")
            if tuple(out.shape) != expected:
                raise self._wrong(f"the network gave {tuple(out.shape)} instead of {expected}")
            result: NDArray[np.float32] = out.float().cpu().numpy()
        return result

    def _wrong(self, message: str) -> EncodingError:
        return EncodingError(f"encoder '{self._spec.name}': {message}.", stage="encoder")


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


@contextmanager
def ieee_fp32() -> Iterator[None]:
    """Within it, CUDA computes float32 products in full, not as TF32 (cuDNN's default)."""
    matmul: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    owners: list[tuple[Any, str, Any]]
    if hasattr(matmul, "fp32_precision"):  # torch 2.9; reading the older names there may fail
        owners = [(matmul, "fp32_precision", "ieee"), (convolution.conv, "fp32_precision", "ieee")]
    else:
        owners = [(matmul, "allow_tf32", False), (convolution, "allow_tf32", False)]
    before = [getattr(owner, name) for owner, name, _ in owners]
    try:
        for owner, name, value in owners:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(owners, before, strict=True):
            setattr(owner, name, value)


def _is_no_memory(err: BaseException) -> bool:
    if isinstance(err, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(err) for sign in _NO_MEMORY)


def _describe(array: NDArray[np.uint8]) -> str:
    return f"{array.dtype} {array.shape}"
