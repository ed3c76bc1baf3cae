"""What a run settles before its first slide: each slide's own settings, plug-ins, encoders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsiprep.core.config import leaves, override
from wsiprep.core.contracts import DeviceEncoder, Encoder
from wsiprep.core.errors import ConfigError, UsageError
from wsiprep.encoders.config import EncoderConfig
from wsiprep.encoders.load import families, load_encoder, parse_name
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.open import readers
from wsiprep.store.claim import find_store
from wsiprep.store.schema import safe_name
from wsiprep.tasks.config import AnyConfig, stages
from wsiprep.tasks.inputs import Inputs, SlideRef
from wsiprep.tiles.device.decode import JpegDecoder, load_decoder
from wsiprep.tissue.detect import check_segmenter

__all__ = [
    "load_decoders",
    "load_encoders",
    "own_mpp",
    "own_settings",
    "random_weights",
]


def own_settings(cfg: AnyConfig, inputs: Inputs) -> list[AnyConfig]:
    """The settings of each slide: those of the command, with its cells of the manifest.

    Options of the segmenter are those of the command's: a slide with another segmenter, by its
    column or its preset, has its own options or none.

    Raises:
        UsageError: a cell is no value of its setting, one mask was given for several slides, or
            there is no reader or segmenter of a name.
        PluginUnavailableError: a reader or segmenter does not import.
    """
    tissue = stages(cfg).tissue
    if tissue is not None and tissue.mask and len(inputs.slides) > 1:
        raise UsageError(
            f"--mask is for a single slide, but there are {len(inputs.slides)}.",
            hint="Name each slide's mask in the manifest column `mask`.",
        )
    known = {name for _, name, _, _ in leaves(type(cfg))}
    configs: list[AnyConfig] = []
    _check_encoders(cfg)
    checked: set[str] = set()
    for ref in inputs.slides:
        values = {name: value for name, value in ref.overrides.items() if name in known}
        own = _own(cfg, values, f"manifest row of '{ref.id}'") if values else cfg
        plugins = f"{own.slide.reader} {stages(own).tissue}"
        if plugins not in checked:
            checked.add(plugins)
            _check_plugins(own)
        configs.append(own)
    return configs


def _own(cfg: AnyConfig, values: Mapping[str, str], origin: str) -> AnyConfig:
    own = override(cfg, values, origin)
    before, after = stages(cfg).tissue, stages(own).tissue
    if before is None or after is None or before.segmenter == after.segmenter:
        return own
    return override(cfg, values, origin, without=frozenset({"segmenter_option"}))


def _check_plugins(cfg: AnyConfig) -> None:
    if cfg.slide.reader != "auto":
        readers.load(cfg.slide.reader)
    tissue = stages(cfg).tissue
    if tissue is not None and tissue.mask is None:
        check_segmenter(tissue)


def _check_encoders(cfg: AnyConfig) -> None:
    """Refuse an encoder family that is not there, before anything is loaded or written."""
    encoding = stages(cfg).encoding
    for name in encoding.encoder if encoding else ():
        families.load(parse_name(name)[0])


def load_encoders(cfg: EncoderConfig | None, device: str) -> list[Encoder]:
    """The encoders of a run, with their weights.

    Raises:
        ConfigError: two of them would be stored under one name.
        UsageError, EnvironmentProblem: as `load_encoder`.
    """
    if cfg is None:
        return []
    encoders = [load_encoder(name, cfg, device) for name in cfg.encoder]
    names = [safe_name(encoder.spec.name) for encoder in encoders]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two of the encoders {', '.join(cfg.encoder)} would be stored under one name.",
            hint="Name one of them, and run once for each.",
        )
    return encoders


def load_decoders(
    configs: Sequence[AnyConfig], encoders: Sequence[Encoder], threads: int
) -> dict[str, JpegDecoder]:
    """The decoders on the encoders' device that the settings of the slides name.

    Raises:
        ConfigError: an encoder takes no pixels from a device.
        DeviceError, PluginUnavailableError: as `load_decoder`.
    """
    encodings = [stages(cfg).encoding for cfg in configs]
    names = {encoding.decode for encoding in encodings if encoding is not None} - {"cpu", "scaled"}
    if not names:
        return {}
    devices = [e.device for e in encoders if isinstance(e, DeviceEncoder)]
    if len(devices) < len(encoders):
        refused = next(e.spec.name for e in encoders if not isinstance(e, DeviceEncoder))
        raise ConfigError(
            f"encoder '{refused}' takes no pixels from a GPU, as --decode "
            f"{sorted(names)[0]} needs.",
            stage="encoder",
            hint="Pass --decode cpu.",
        )
    return {name: load_decoder(name, devices[0], threads) for name in sorted(names)}


def random_weights(encoders: Sequence[Encoder]) -> list[str]:
    """A sentence for each encoder whose features mean nothing."""
    return [
        f"'{encoder.spec.name}' has random weights: its features measure speed and mean nothing."
        for encoder in encoders
        if encoder.spec.weights == "random"
    ]


def own_mpp(out: Path, ref: SlideRef, cfg: AnyConfig) -> SlideConfig:
    """How to open a slide: with the µm/px that `segment` was told, where a later stage is not.

    Only where the command does not find tissue itself.
    """
    given = cfg.slide.slide_mpp is not None or cfg.slide.mpp_from_objective
    later = stages(cfg).tissue is None
    if given or not later or not os.path.exists(ref.path):
        return cfg.slide
    stored = find_store(out, ref.id, fingerprint(ref.path))
    if stored is None or stored.slide.mpp_source == "metadata":
        return cfg.slide
    return cfg.slide.model_copy(update={"slide_mpp": stored.slide.mpp})
