"""The network of the segmenter `net`: four questions asked of every pixel of a thumbnail.

A U-Net (Ronneberger et al. 2015) made for one core: the picture is halved at once and all but the
last convolution work at a quarter of the side or less; residual blocks (He et al. 2016) at the
coarse levels see some 3 mm of glass at 8 µm/px. Skips are added, not concatenated. It learns in
floats, with weights that are whole numbers of steps, and infers in whole numbers
(`tissue/integers.py`). The questions are `CLASSES`; answers are independent of each other, since
tissue may lie under ink.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsiprep.tissue.integers import STEPS, Conv8, added, doubled, rounded

__all__ = [
    "CLASSES",
    "MULTIPLE",
    "WIDTHS",
    "TissueNet",
    "load_network",
    "network_bytes",
    "read_network",
]

CLASSES: Final = ("tissue", "pen", "edge", "fold")
WIDTHS: Final = (16, 32, 64, 128, 192)
"""Channels at 1/2, 1/4 ... 1/32 of the side."""
_WORDS: Final = "wsiprep"
MULTIPLE: Final = 2 ** len(WIDTHS)
"""Sides are padded to multiples of this."""
NEAR_LEVELS: Final = 3
"""Of `near`: they are fine, and take most of the time and memory."""
NEAR_PX: Final = 32
"""Further than this from a place, what `near` and `fine` make of it does not depend on."""
ZERO: Final = 225
"""Of the pixels: about glass."""
SPREAD: Final = 40.0
"""Of the pixels: to about what layers are used to."""
LEAST_TOP: Final = 1e-3
"""Of activations of a level that are all nothing."""
DEVIATIONS: Final = 8.0
"""From the mean to the largest activation that whole numbers tell from larger ones."""
PIXELS: Final = -1
"""The level of what is put in."""


class _Rounded(nn.Conv2d):
    """A convolution with the weights that it will have in whole numbers, which it learns with.

    Where it learns in bfloat16, that rounds them again.
    """

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._conv_forward(x, rounded(self.weight), self.bias)
        return made


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv: nn.Conv2d = _Rounded(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.BatchNorm2d = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = functional.relu(self.norm(self.conv(x)), inplace=True)
        return made

    def top(self) -> float:
        """Above what it seldom answers, by `DEVIATIONS` of its normalisation."""
        spread = self.norm.bias + DEVIATIONS * self.norm.weight.abs()
        return float(spread.detach().max())

    def in_integers(self, unit: float, unit_out: float, *, zero: int = 0) -> Conv8:
        """The same in whole numbers, as of `Conv8`; for inference."""
        return Conv8(fuse_conv_bn_eval(self.conv, self.norm), unit, unit_out, zero=zero)


class _Residual(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(channels, channels), _Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        more: Tensor = self.second(self.first(x))
        return _sum(more, x)


class TissueNet(nn.Module):
    """From RGB to logits.

    Args:
        widths: Channels of the levels, finest first.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        down: list[nn.Module] = []
        for level, width in enumerate(widths):
            layers: list[nn.Module] = [_Conv(widths[level - 1] if level else 3, width, stride=2)]
            if level == 1:
                layers.append(_Conv(width, width))
            elif level > 1:
                layers.append(_Residual(width))
            down.append(nn.Sequential(*layers))
        self.down = nn.ModuleList(down)
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.narrow = nn.ModuleList(_Conv(wide, slim, kernel=1) for wide, slim in pairs)
        self.mix = nn.ModuleList(_Conv(slim, slim) for _, slim in pairs)
        self.head: nn.Module = _Rounded(widths[0], len(CLASSES), 1)
        self._integers = False

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits.

        Args:
            pixels: uint8 or float (B, 3, H, W) RGB of 0 to 255, H and W multiples of `MULTIPLE`;
                uint8 after `to_integers`.

        Returns:
            (B, 4, H / 2, W / 2); pixel (r, c) covers those at (2 r, 2 c) to (2 r + 1, 2 c + 1).
        """
        seen = self.near(pixels)
        return self.fine(seen, self.far(seen[-1]))

    def near(self, pixels: Tensor) -> list[Tensor]:
        """What is seen at 1/2, 1/4 and 1/8 of the side: of a picture, `NEAR_PX` around a place.

        Args:
            pixels: As of `forward`.

        Returns:
            (B, width, H / 2, W / 2), (B, width, H / 4, W / 4), (B, width, H / 8, W / 8); uint8
            after `to_integers`.
        """
        x = pixels
        if not self._integers:
            x = (pixels.to(next(self.parameters()).dtype) - ZERO) / SPREAD
        seen: list[Tensor] = []
        for layer in self.down[:NEAR_LEVELS]:
            x = layer(x)
            seen.append(x)
        return seen

    def far(self, coarse: Tensor) -> Tensor:
        """What the coarse levels make of the last of `near`: of its shape."""
        seen = [coarse]
        for layer in self.down[NEAR_LEVELS:]:
            seen.append(layer(seen[-1]))
        return self._up(seen.pop(), seen, NEAR_LEVELS - 1)

    def fine(self, seen: list[Tensor], x: Tensor) -> Tensor:
        """Logits, as of `forward`, from what `near` and `far` gave; `NEAR_PX` around a place."""
        answer: Tensor = self.head(self._up(x, seen[: NEAR_LEVELS - 1], 0))
        return answer

    def _up(self, x: Tensor, seen: list[Tensor], first: int) -> Tensor:
        """Up to the finest of the levels `seen`, of which `first` is the number."""
        for level, skip in reversed(list(enumerate(seen, first))):
            x = self.mix[level](_sum(_doubled(self.narrow[level](x)), skip))
        return x

    def to_integers(self) -> TissueNet:
        """Compute in whole numbers from now on (`tissue/integers.py`).

        The network then only infers, on the processor, and can be neither saved nor copied.

        Activations of a level share one unit, so that they can be added as they are: a power of
        two, so that all processors answer the same to the bit. It comes of the normalisations
        instead of pictures: behind one, a channel has its mean and deviation (Nagel et al. 2019,
        "Data-free quantization through weight equalization and bias correction", arXiv
        1906.04721, section 4.2.1).

        Raises:
            ValueError: its normalisations are not finite, or it computes so already.
        """
        self._refuse_integers()
        self.eval()
        convs = {name: one for name, one in self.named_modules() if isinstance(one, _Conv)}
        units = {PIXELS: 1.0}
        for level in range(len(self.widths)):
            tops = [conv.top() for name, conv in convs.items() if _levels(name)[1] == level]
            if not all(map(math.isfinite, tops)):
                raise ValueError(f"its activations at level {level} are not finite")
            units[level] = 2.0 ** math.ceil(math.log2(max(*tops, LEAST_TOP) / STEPS))
        with torch.no_grad():  # what `near` does with pixels that are floats
            convs["down.0.0"].conv.weight /= SPREAD
        for name, conv in convs.items():
            before, level = _levels(name)
            zero = ZERO if before == PIXELS else 0
            parent, _, child = name.rpartition(".")
            made = conv.in_integers(units[before], units[level], zero=zero)
            setattr(self.get_submodule(parent), child, made)
        assert isinstance(self.head, _Rounded)  # noqa: S101 - made above, and put here once
        self.head = Conv8(self.head, units[0], None)
        self._integers = True
        return self

    def _refuse_integers(self) -> None:
        if self._integers:
            raise ValueError("it computes in whole numbers, and has its weights no more")


def _levels(name: str) -> tuple[int, int]:
    """Of what a convolution takes and of what it gives, by its name in the network."""
    kind, level, *inner = name.split(".")
    given = int(level)
    if kind == "down" and inner == ["0"]:
        return given - 1, given
    return given + (kind == "narrow"), given


def _sum(x: Tensor, y: Tensor) -> Tensor:
    """Of two tensors of a level; of whole numbers in the first."""
    return added(x, y) if x.dtype == torch.uint8 else x + y


def _doubled(x: Tensor) -> Tensor:
    """At twice the side."""
    if x.dtype == torch.uint8:
        return doubled(x)
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def network_bytes(network: TissueNet, facts: Mapping[str, Any]) -> bytes:
    """Weights, half precision, and words on how they were made, as a safetensors file.

    Raises:
        ValueError: the network computes in whole numbers.
    """
    from safetensors.torch import save

    network._refuse_integers()
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    tensors = {k: v.contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    words = {"widths": list(network.widths), "classes": list(CLASSES), **facts}
    # One word holds all: the library writes several in an order that changes from run to run.
    return save(tensors, {_WORDS: json.dumps(words, sort_keys=True)})


def load_network(path: Path) -> tuple[TissueNet, dict[str, Any]]:
    """`read_network`, ready to infer: `TissueNet.to_integers`."""
    network, words = read_network(path)
    return network.to_integers(), words


def read_network(path: Path) -> tuple[TissueNet, dict[str, Any]]:
    """Read what `network_bytes` gave, and the words that it holds.

    Raises:
        ValueError: the file is none of this network.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            words: dict[str, Any] = json.loads((file.metadata() or {}).get(_WORDS, "{}"))
            names = file.keys()
            state: dict[str, Any] = {name: file.get_tensor(name).float() for name in names}
    except SafetensorError as err:
        raise ValueError(f"it is no safetensors file ({err})") from err
    if words.get("classes") != list(CLASSES):
        raise ValueError(f"its classes are {words.get('classes')}, not {', '.join(CLASSES)}")
    network = TissueNet(tuple(int(n) for n in words["widths"]))
    try:
        missing, unknown = network.load_state_dict(state, strict=False)
    except RuntimeError as err:
        raise ValueError(f"its tensors do not fit: {err}") from err
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise ValueError(f"tensors are missing or unknown: {[*missing, *unknown][:4]}")
    return network, words
