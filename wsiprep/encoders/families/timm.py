"""`timm:MODEL` and `timm:hf-hub:OWNER/NAME`: any network of timm as an encoder."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wsiprep.core.errors import ConfigError, UnknownPluginError, WeightsError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.config import EncoderConfig
from wsiprep.encoders.families._pathology import HUB_MODELS, HubModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from wsiprep.encoders.torch_encoder import TorchEncoder

__all__ = ["SPECS", "create"]

SPECS: tuple[EncoderSpec, ...] = tuple(row.spec for row in HUB_MODELS.values())

_HUB = "hf-hub:"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_NAME_HINT = "Write timm:MODEL, e.g. timm:resnet50, or timm:hf-hub:OWNER/NAME."


@dataclass(frozen=True)
class _Plan:
    """What to build, and where its published weights are."""

    architecture: str
    arguments: Mapping[str, Any]
    facts: Mapping[str, Any]  # timm's pretrained_cfg: input_size, mean, std, classifier, license
    repo: str | None
    files: tuple[str, ...] = _WEIGHT_FILES
    known: HubModel | None = None


def create(model: str | None, cfg: EncoderConfig, device: torch.device) -> TorchEncoder:
    """Build a network of timm without its classifier, and load weights.

    The weights are `cfg.weights` if given, random (seed 0) if `cfg.random_weights`, else the
    published ones from the hub or its cache. Names in the file must fit the network, except for
    the classifier's.

    Args:
        model: Name of a timm model, with or without a tag, or `hf-hub:owner/name[@revision]`.
        cfg: Weights and precision.
        device: Where it runs.

    Raises:
        UnknownPluginError: timm has no such model.
        ConfigError: the network does not give one vector for an RGB patch.
        WeightsError: weights or configuration are missing, out of reach, or do not fit.
    """
    from wsiprep.encoders.torch_encoder import TorchEncoder, state_sha256

    if model is None:
        raise UnknownPluginError("encoder 'timm' needs a model.", stage="encoder", hint=_NAME_HINT)
    plan = _hub_plan(model) if model.startswith(_HUB) else _timm_plan(model)
    network, source = _loaded(plan, model, cfg)
    spec = plan.known.spec if plan.known else _spec(f"timm:{model}", plan, network)
    note = "Random weights: for measuring speed." if cfg.random_weights else spec.note
    spec = replace(
        spec,
        weights="random" if cfg.random_weights else "pretrained",
        source=source,
        note=note,
        weights_sha256=state_sha256(network),
    )
    if plan.known and plan.known.pooling == "class+mean":
        from wsiprep.encoders.pooling import ClassAndMean

        network = ClassAndMean(network)
    return TorchEncoder(network, spec, device, cfg.precision)


def _loaded(plan: _Plan, model: str, cfg: EncoderConfig) -> tuple[nn.Module, str]:
    """The network and where its weights come from; files are read before it is built."""
    from wsiprep.encoders.weights import load_strictly, read_weights

    if cfg.random_weights:
        return _network(plan, model), "random (seed 0)"
    if cfg.weights is not None:
        state, source = read_weights(cfg.weights), f"file {cfg.weights.name}"
    else:
        state, source = _published(plan, model), f"huggingface.co/{plan.repo}"
        if not model.startswith(_HUB):
            return _network(plan, model, state), source
    network = _network(plan, model)
    load_strictly(network, state, source, ignore=_heads(plan))
    return network, source


def _timm_plan(model: str) -> _Plan:
    import timm

    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else _NAME_HINT
        raise UnknownPluginError(f"timm has no model '{model}'.", stage="encoder", hint=hint)
    facts = _timm_facts(model)
    file = facts.get("hf_hub_filename")
    return _Plan(model, {}, facts, facts.get("hf_hub_id"), (file,) if file else _WEIGHT_FILES)


def _timm_facts(model: str) -> dict[str, Any]:
    import timm

    architecture = model.partition(".")[0]
    try:
        found = timm.get_pretrained_cfg(model)
    except RuntimeError as err:  # what timm raises for an unknown tag
        tags = timm.list_pretrained(f"{architecture}.*")
        raise UnknownPluginError(
            f"timm has no weights '{model}'.",
            stage="encoder",
            hint=f"It has: {', '.join(tags)}." if tags else "It has none for this model.",
        ) from err
    return dataclasses.asdict(found) if found else {}


def _hub_plan(model: str) -> _Plan:
    from wsiprep.encoders.hub import fetch

    repo = model.removeprefix(_HUB)
    known = HUB_MODELS.get(repo.partition("@")[0].lower())
    if known:
        facts = _timm_facts(known.architecture)
        return _Plan(known.architecture, known.arguments, facts, repo, known=known)
    try:
        config = json.loads(fetch(repo, ("config.json",)).read_text(encoding="utf-8"))
    except ValueError as err:
        raise WeightsError(
            f"config.json of hub repository '{repo}' is not JSON.", stage="encoder"
        ) from err
    if not isinstance(config, dict) or "architecture" not in config:
        raise WeightsError(
            f"hub repository '{repo}' does not hold a timm model: its config.json names no "
            "architecture.",
            stage="encoder",
            hint="Only repositories in timm's format can be loaded by timm:hf-hub:...",
        )
    facts = config.get("pretrained_cfg", config)
    arguments = dict(config.get("model_args", {}))
    if config.get("global_pool") is not None:
        arguments.setdefault("global_pool", config["global_pool"])
    return _Plan(config["architecture"], arguments, facts, repo)


def _network(plan: _Plan, model: str, state: dict[str, Tensor] | None = None) -> nn.Module:
    """The network without classifier, on the CPU; seeded random weights, or timm's way of `state`.

    timm checks names strictly only while the classifier is there, and knows how to read the
    older files of its own models; so it loads first, and the classifier goes afterwards.
    """
    import timm

    from wsiprep.encoders.weights import seeded

    arguments = {k: _layer(v) for k, v in plan.arguments.items()}
    try:
        with seeded():
            if state is None:
                arguments["num_classes"] = 0
                network: Any = timm.create_model(plan.architecture, pretrained=False, **arguments)
            else:
                overlay = {"state_dict": state, "custom_load": False}
                network = timm.create_model(
                    plan.architecture, pretrained=True, pretrained_cfg_overlay=overlay
                )
                network.pretrained_cfg.pop("state_dict", None)
                network.reset_classifier(0)
    except Exception as err:  # timm's constructors and loaders raise anything
        what = "built" if state is None else "loaded"
        raise WeightsError(
            f"timm model '{model}' cannot be {what}: {' '.join(str(err).split())[:300]}.",
            stage="encoder",
            hint="Check the name, and that this timm is recent enough for it.",
        ) from err
    built: nn.Module = network.eval().requires_grad_(False)
    return built


def _layer(value: Any) -> Any:
    """Layer classes by their names, which is how the table and hub configurations write them."""
    from timm.layers.mlp import SwiGLUPacked
    from torch import nn

    classes: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    return classes.get(value, value) if isinstance(value, str) else value


def _published(plan: _Plan, model: str) -> dict[str, Tensor]:
    from wsiprep.encoders.hub import fetch
    from wsiprep.encoders.weights import read_weights

    if not plan.repo:
        raise WeightsError(
            f"timm publishes no weights for '{model}' on the hub.",
            stage="encoder",
            hint="Give a file with --weights PATH, or measure speed with --random-weights.",
        )
    return read_weights(fetch(plan.repo, plan.files))


def _heads(plan: _Plan) -> tuple[str, ...]:
    heads = plan.facts.get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _spec(name: str, plan: _Plan, network: nn.Module) -> EncoderSpec:
    """Facts by timm's configuration; the length of a vector by trying."""
    import torch

    if not {"input_size", "mean", "std"} <= plan.facts.keys():
        raise WeightsError(
            f"the configuration of '{name}' does not say its input size, mean and std.",
            stage="encoder",
        )
    channels, height, width = plan.facts["input_size"]
    if channels != 3 or height != width:
        raise ConfigError(
            f"'{name}' takes {channels} x {height} x {width} input, not square RGB patches.",
            stage="encoder",
        )
    with torch.inference_mode():
        out = network(torch.zeros(1, 3, height, width))
    if not isinstance(out, torch.Tensor) or out.ndim != 2:
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ConfigError(
            f"'{name}' does not give one vector for a patch, but {shape}.",
            stage="encoder",
            hint="Its pooling is not known to wsiprep; `wsiprep models` lists what is.",
        )
    mean, std = (tuple(float(v) for v in plan.facts[key]) for key in ("mean", "std"))
    return EncoderSpec(
        name=name,
        dim=out.shape[1],
        input_px=height,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        pooling=f"timm's ({getattr(network, 'global_pool', '') or 'of the architecture'})",
        license=plan.facts.get("license") or "unknown",
    )
