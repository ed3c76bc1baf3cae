"""A frozen torch network on a device: uint8 patches in, float32 vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.core.errors import EncodingError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.onednn import onednn_pays, use_onednn

__all__ = ["Network", "ieee_fp32"]


class Network:
    """Resizes, normalises and computes patches on the device.

    Args:
        module: Takes float (B, 3, S, S), gives (B, spec.dim). It is changed in place: to eval
            mode, without gradients, on `device`, in `dtype`; on a CPU with oneDNN's products where
            these are faster.
        spec: Facts.
        device: Where it runs.
        dtype: Numbers it computes in.
    """

    def __init__(
        self, module: nn.Module, spec: EncoderSpec, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.spec = spec
        self.device = device
        self._dtype = dtype
        # Not all torch versions have antialiased resizing on MPS; there the CPU does it.
        self._resize_on = torch.device("cpu") if device.type == "mps" else device
        module.eval().requires_grad_(False)
        module = module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu" and dtype is torch.float32 and onednn_pays():
            module = use_onednn(module)
        self._module = module
        mean = torch.tensor(spec.mean, dtype=torch.float64)
        std = torch.tensor(spec.std, dtype=torch.float64)
        self._scale = (1 / (255 * std)).float().view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).float().view(1, 3, 1, 1).to(device)

    def __call__(self, patches: Tensor) -> Tensor:
        """Compute patches together; on CUDA this returns before they are computed.

        Args:
            patches: uint8 (B, T, T, 3), on the host or the device.

        Returns:
            float32 (B, dim) on the device.

        Raises:
            EncodingError: the network's output has a wrong shape.
        """
        side_px = self.spec.input_px
        resized = side_px not in (None, patches.shape[1])
        ieee: AbstractContextManager[None] = nullcontext()
        if self.device.type == "cuda" and self._dtype is torch.float32:
            ieee = ieee_fp32()
        with torch.inference_mode(), ieee:
            x = patches.to(self._resize_on if resized else self.device)
            x = x.permute(0, 3, 1, 2).to(torch.float32)  # channels_last comes from (B, T, T, 3)
            if resized:
                x = functional.interpolate(
                    x, size=side_px, mode="bicubic", align_corners=False, antialias=True
                ).clamp_(0, 255)
                x = x.to(self.device)
            x = x.mul_(self._scale).add_(self._shift)
            x = x.to(self._dtype, memory_format=torch.channels_last)
            out = self._module(x)
            expected = (len(patches), self.spec.dim)
            if not isinstance(out, Tensor):
                raise self.wrong(f"the network gave a {type(out).__name__}, not {expected}")
            if tuple(out.shape) != expected:
                raise self.wrong(f"the network gave {tuple(out.shape)} instead of {expected}")
            return out.float()

    def wrong(self, message: str) -> EncodingError:
        """An error that names the encoder."""
        return EncodingError(f"encoder '{self.spec.name}': {message}.", stage="encoder")


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
