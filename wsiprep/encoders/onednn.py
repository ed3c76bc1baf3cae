"""Matrix products of a network on an x86 CPU by oneDNN, where torch would take MKL's."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["onednn_pays", "use_onednn"]


def onednn_pays() -> bool:
    """Whether oneDNN's products are faster than MKL's on this processor: not on Intel's.

    Measured in docs/adr/0008-encoder-speed.md. It is asked of the processor's name, never of a
    clock, so that a resumed run computes the same bits.
    """
    try:
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        name = platform.processor()
    # The Macs that have an x86 processor have Intel's; they call it i386.
    return "GenuineIntel" not in name and platform.system() != "Darwin"


def use_onednn(module: nn.Module) -> nn.Module:
    """Let linear layers and 1 x 1 convolutions of a float32 network compute in oneDNN.

    torch hands both to MKL, for convolutions when a batch is small and a thread computes alone.
    MKL's products reach half the speed of oneDNN's on CPUs that are not Intel's; the numbers
    differ by rounding.

    Only layers whose class is exactly torch's are changed, in place; names, parameters and hooks
    stay. Nothing is changed where torch has no oneDNN, or does not prefer MKL to it.

    Args:
        module: In eval mode, on the CPU, in float32.
    """
    if not _is_there():
        return module
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = _Linear
        elif type(layer) is nn.Conv2d and _is_product(layer):
            layer.__class__ = _Conv1x1
    return module


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not _is_plain(x, self.weight):
            return super().forward(x)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


class _Conv1x1(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or not _is_plain(x, self.weight):
            return super().forward(x)
        out: Tensor = torch.mkldnn_convolution(
            x, self.weight, self.bias, (0, 0), self.stride, self.dilation, self.groups
        )
        return out


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether both are float32 and stay so; else it is torch's to say what is computed."""
    plain = x.dtype is torch.float32 and weight.dtype is torch.float32
    return plain and not torch.is_autocast_enabled("cpu")


def _is_product(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0)


def _is_there() -> bool:
    # The linear operator is the one that torch's own compiler emits; it has no public name.
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return (
        x86
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
