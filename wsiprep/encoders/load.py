"""From an encoder's name to an encoder that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from wsiprep.core.contracts import Encoder
from wsiprep.core.devices import device_name
from wsiprep.core.errors import UnknownPluginError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.config import EncoderConfig
from wsiprep.encoders.families import registry as families

if TYPE_CHECKING:
    import torch

__all__ = ["encoder_specs", "families", "load_encoder", "parse_name", "resolve_device"]


def parse_name(name: str) -> tuple[str, str | None]:
    """Split `family` or `family:model`; the model may hold further colons.

    Raises:
        UnknownPluginError: the family or the model is empty.
    """
    family, colon, model = name.strip().partition(":")
    if not family or (colon and not model):
        raise UnknownPluginError(
            f"'{name}' is no encoder name.",
            stage="encoder",
            hint="Write family or family:model, e.g. lite0 or timm:resnet50.",
        )
    return family, model if colon else None


def encoder_specs() -> list[tuple[str, EncoderSpec]]:
    """(family, facts) of every model known by name, families sorted; torch is not imported.

    Raises:
        PluginUnavailableError: an installed family does not import.
    """
    return [(family, spec) for family in families.names() for spec in families.load(family).SPECS]


def load_encoder(name: str, cfg: EncoderConfig | None = None, device: str = "auto") -> Encoder:
    """Build an encoder with its weights, on a device.

    Args:
        name: `family` or `family:model`.
        cfg: Weights and precision; `cfg.encoder` is not looked at. Defaults when None.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UnknownPluginError: no such family, or no such model in it.
        PluginUnavailableError: a library that the family needs does not import.
        ConfigError: the settings do not fit the encoder, e.g. weights for one that has none.
        WeightsError: weights are missing, cannot be fetched, or do not fit.
        DeviceError: the device is not there.
    """
    family, model = parse_name(name)
    plugin = families.load(family)
    encoder = plugin.create(model, cfg or EncoderConfig(encoder=(name,)), resolve_device(device))
    return cast(Encoder, encoder)


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the first of CUDA, MPS, CPU that is there.

    Raises:
        DeviceError: it is not there; the message lists what is.
    """
    import torch

    remedy = "Use --device auto to take the first of them."
    without_cuda = torch.version.cuda is None and torch.version.hip is None
    if without_cuda and name.strip().lower().startswith("cuda"):
        remedy += " This torch is built without CUDA."
    found = device_name(
        name,
        cuda=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        mps=torch.backends.mps.is_available(),
        stage="encoder",
        remedy=remedy,
    )
    return torch.device(found)
