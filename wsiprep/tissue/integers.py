"""Convolutions in whole numbers, on the processor: answers of the tissue network in less time.

Weights have 7 bits, activations 8, sums 32; only the last answers are floats again. (Source: Jacob
et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", arXiv 1712.05877, applied to a network that is trained already. Deviations: activations
have no zero point, as they follow a ReLU, but the pixels have; weights span -63 to 63, since
processors without VNNI add two products in 16 bits.) Sums of whole numbers are the same whatever
computes them. So are results where units are powers of two: the orders in which oneDNN scales them
on different processors then round alike.
"""

from __future__ import annotations

import math
import platform
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["STEPS", "Conv8", "added", "doubled", "has_kernel", "rounded"]

STEPS: Final = 255
"""Steps that an activation may be worth, from 0."""
WEIGHT_STEPS: Final = 63
"""Steps that a weight may be worth, to either side of 0."""
NARROWEST_PX: Final = 8
"""What is narrower is computed in floats: with AMX and a stride of two, inputs of one or two
columns get wrong answers (torch 2.15)."""


class Conv8(nn.Module):
    """A convolution (and ReLU) of uint8 that gives uint8, or float32.

    It can be neither saved nor copied: what torch packs cannot.

    Args:
        conv: What it computes, normalisation put into it; it pads by half its kernel.
        unit: What one step of the input is worth.
        unit_out: What one step of the output is worth, which is clipped to 0 to `STEPS`; None for
            the values themselves, float32, without ReLU.
        zero: Step of the input that is worth nothing; borders are padded with it.
        native: Compute in whole numbers where torch can, but for the narrowest input; otherwise
            the same in floats.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        unit: float,
        unit_out: float | None,
        *,
        zero: int = 0,
        native: bool = True,
    ) -> None:
        super().__init__()
        steps, worth = _in_steps(conv.weight.detach().float())
        self._steps, self._worth = steps.to(torch.int8), worth.flatten()
        self._bias = torch.zeros(len(steps)) if conv.bias is None else conv.bias.detach().float()
        self._unit, self._unit_out, self._zero = unit, unit_out, zero
        self._stride, self._padding = conv.stride[0], conv.kernel_size[0] // 2
        self._packed = self._pack() if native and has_kernel() else None

    def forward(self, x: Tensor) -> Tensor:
        """uint8 (B, inputs, H, W) to uint8 or float32 (B, outputs, H / stride, W / stride).

        Sides are rounded up. Other input raises a RuntimeError or gives nothing of meaning.
        """
        if self._packed is None or x.shape[3] < NARROWEST_PX:
            return self._in_floats(x)
        return self._in_integers(x, self._packed)

    def _in_floats(self, x: Tensor) -> Tensor:
        """As `_in_integers`; exact while sums stay below 2**24.

        Of the 1,728 products of a 3 x 3 kernel on 192 channels, more than half would have to be
        the largest there are; with more channels, a smaller share.
        """
        weight = self._steps.float().contiguous(memory_format=torch.channels_last)
        values = x.float()
        if self._zero:
            values.sub_(self._zero)
        with torch.autocast("cpu", enabled=False):
            sums = torch.conv2d(values, weight, None, self._stride, self._padding)
        sums.mul_((self._unit * self._worth).view(1, -1, 1, 1)).add_(self._bias.view(1, -1, 1, 1))
        if self._unit_out is None:
            return sums
        return sums.mul_(1 / self._unit_out).round_().clamp_(0, STEPS).to(torch.uint8)

    def _pack(self) -> Tensor:
        """The weights as `_in_integers` takes them."""
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            self._steps, self._worth, self._unit, self._zero, *self._geometry(), None
        )
        return packed

    def _in_integers(self, x: Tensor, packed: Tensor) -> Tensor:
        """By what torch.compile uses on processors.

        It works on plain tensors; torch's quantised ones are to be removed (its issue 184982).
        """
        dtype, unit_out, then = (
            (torch.float32, 1.0, "none")
            if self._unit_out is None
            else (torch.uint8, self._unit_out, "relu")
        )
        made: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, self._unit, self._zero, packed, self._worth, torch.zeros_like(self._worth).long(),
            self._bias, *self._geometry(), unit_out, 0, dtype, then, [], "",
        )  # fmt: skip
        return made

    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        """Stride, padding, dilation, groups."""
        return [self._stride] * 2, [self._padding] * 2, [1, 1], 1


_TRIALS: Final = (
    (3, 16, 3, 2, 225, False),
    (64, 16, 3, 1, 0, False),
    (192, 64, 1, 1, 0, False),
    (16, 4, 1, 1, 0, True),
)
"""Inputs, outputs, side of the kernel, stride, zero, and whether it gives floats."""


@lru_cache(maxsize=1)
def has_kernel() -> bool:
    """Whether torch has a convolution of uint8 here that computes what it should.

    It is no public function of torch: trials tell. Other processors than x86-64 were not tried.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with torch.inference_mode():
            return all(_is_right(*trial) for trial in _TRIALS)
    except (AttributeError, RuntimeError, TypeError):  # there is none, or of other arguments
        return False


def _is_right(inputs: int, outputs: int, kernel: int, stride: int, zero: int, floats: bool) -> bool:
    with torch.random.fork_rng(devices=[]):  # who draws by lot next gets the same
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    assert conv.bias is not None  # noqa: S101 - made above
    conv.bias.copy_(torch.arange(float(outputs)) - 2.5)
    count = conv.weight.numel()
    conv.weight.copy_((torch.arange(count) % 11 - 5.0).view_as(conv.weight))
    conv.weight[::2] = 5.0  # the largest sums, which 16 bits would not hold
    x = (torch.arange(inputs * 143) % 13 * 21 + 3).to(torch.uint8).view(1, inputs, 11, 13)
    x = x.contiguous(memory_format=torch.channels_last)
    unit = 2.0 ** -math.ceil(math.log2(inputs * kernel**2))
    trial = Conv8(conv, unit, None if floats else 4.0, zero=zero, native=False)
    found, wanted = trial._in_integers(x, trial._pack()), trial._in_floats(x)
    return found.dtype == wanted.dtype and torch.equal(found, wanted)


def rounded(weight: Tensor) -> Tensor:
    """Weights as `Conv8` has them, to be learnt with.

    Their gradient is that of the weights (the straight-through estimator of Bengio et al. 2013,
    arXiv 1308.3432). Normalisation after a convolution changes nothing, as each channel has its
    own step.

    Args:
        weight: Floats (outputs, inputs, k, k).
    """
    with torch.no_grad():
        steps, worth = _in_steps(weight)
        change = steps * worth - weight
    return weight + change


def _in_steps(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights in whole steps, as of them, and what a step is worth, (outputs, 1, 1, 1)."""
    worth = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / WEIGHT_STEPS
    return torch.round(weight / worth), worth


def added(x: Tensor, y: Tensor) -> Tensor:
    """The sum of two uint8 tensors, clipped to `STEPS`, in the first.

    Args:
        x: uint8 (B, C, H, W); a copy of it is changed if its memory is not channels-last.
        y: The same.
    """
    x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
    cv2.add(_rows(x), _rows(y), _rows(x))
    return x


def doubled(x: Tensor) -> Tensor:
    """Each pixel of a uint8 (B, C, H, W) four times: its nearest enlargement (B, C, 2 H, 2 W).

    In channels-last memory; much faster than torch's where channels are few.
    """
    pixels = x.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(pixels.repeat(2, 2).repeat(2, 1)).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = x.permute(0, 2, 3, 1).numpy()
    return pixels.reshape(-1, pixels.shape[2] * pixels.shape[3])
