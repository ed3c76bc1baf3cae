"""The network of the segmenter `net`: four questions asked of every pixel of a thumbnail.

A U-Net (Ronneberger et al. 2015) made for one core: the picture is halved at once and all but the
last convolution work at a quarter of the side or less; residual blocks (He et al. 2016) at the
coarse levels see some 3 mm of glass at 8 µm/px. Skips are added, not concatenated. The questions
are `CLASSES`; answers are independent of each other, since tissue may lie under ink.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

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


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = functional.relu(self.norm(self.conv(x)), inplace=True)
        return made

    def fuse(self) -> None:
        """Put the normalisation into the convolution; for inference."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class _Residual(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(channels, channels), _Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        more: Tensor = self.second(self.first(x))
        return x + more


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
        self.head = nn.Conv2d(widths[0], len(CLASSES), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits.

        Args:
            pixels: uint8 or float (B, 3, H, W) RGB of 0 to 255, H and W multiples of `MULTIPLE`.

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
            (B, width, H / 2, W / 2), (B, width, H / 4, W / 4), (B, width, H / 8, W / 8).
        """
        # In place where it can be: fresh memory costs about as much as what is done in it.
        x = torch.sub(pixels.to(self.head.weight.dtype), 225.0).div_(40.0)
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
            x = functional.interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.mix[level](x.add_(skip))
        return x

    def fuse(self) -> TissueNet:
        """Put all normalisations into their convolutions; the network then only infers."""
        self.eval()
        for module in self.modules():
            if isinstance(module, _Conv):
                module.fuse()
        return self


def network_bytes(network: TissueNet, facts: Mapping[str, Any]) -> bytes:
    """Weights, half precision, and words on how they were made, as a safetensors file."""
    from safetensors.torch import save

    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    tensors = {k: v.contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    words = {"widths": list(network.widths), "classes": list(CLASSES), **facts}
    # One word holds all: the library writes several in an order that changes from run to run.
    return save(tensors, {_WORDS: json.dumps(words, sort_keys=True)})


def load_network(path: Path) -> tuple[TissueNet, dict[str, Any]]:
    """`read_network`, ready to infer."""
    network, words = read_network(path)
    return network.fuse(), words


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
