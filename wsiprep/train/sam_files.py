"""Files of a tuned SAM: what was tuned and nothing else, or a whole checkpoint of it.

The whole one is what `--segmenter sam` loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor

from wsiprep.core.errors import WeightsError
from wsiprep.train.sam_tuning import Tuning, choose_parameters

__all__ = ["load_tuned", "merged_state", "save_merged", "save_tuned"]

_FORMAT = "wsiprep-sam-tuned-1"


def save_tuned(path: Path, sam: Sam, tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write what was tuned, and nothing else.

    Args:
        path: A `.safetensors` file.
        sam: A network after `choose_parameters`.
        tuning: What was given to `choose_parameters`.
        facts: Kept in the file: what the base was, epochs, whatever matters.
    """
    tuned = {
        name: p.detach().cpu().contiguous() for name, p in sam.named_parameters() if p.requires_grad
    }
    own = {
        "format": _FORMAT,
        "lora_rank": str(tuning.lora_rank),
        "lora_alpha": repr(tuning.lora_alpha),
    }
    save_file(tuned, path, metadata={**facts, **own})


def load_tuned(path: Path, sam: Sam) -> tuple[Tuning, dict[str, str]]:
    """Put a tuned file into a network with the weights it was tuned from, in place.

    The network is left as `choose_parameters` leaves it, so that tuning can go on.

    Args:
        path: What `save_tuned` wrote.
        sam: The network; with the weights of the base, and without LoRA layers or with those of
            the file.

    Returns:
        How it was tuned, and the facts kept in the file.

    Raises:
        WeightsError: the file cannot be read, is no tuned file, or does not fit the network.
        PluginUnavailableError: the file has LoRA layers, and `peft` is not installed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            tuned = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as err:
        raise _unusable(path, f"cannot be read ({err})") from err
    if facts.pop("format", None) != _FORMAT:
        raise _unusable(path, "was not written by tuning")
    tuning = Tuning(int(facts.pop("lora_rank")), int(facts.pop("lora_alpha")))
    has_lora = any(".lora_" in name for name, _ in sam.named_parameters())
    chosen = choose_parameters(sam, Tuning() if has_lora else tuning)
    wrong = sorted(chosen.keys() ^ tuned.keys()) + sorted(
        name for name in chosen.keys() & tuned.keys() if chosen[name].shape != tuned[name].shape
    )
    if wrong:
        more = ", ..." if len(wrong) > 4 else ""
        raise _unusable(path, f"does not fit the network: {', '.join(wrong[:4])}{more}")
    with torch.no_grad():
        for name, parameter in chosen.items():
            parameter.copy_(tuned[name])
    return tuning, facts


def merged_state(sam: Sam, tuning: Tuning) -> dict[str, Tensor]:
    """Weights of a plain network that gives what the tuned one gives.

    LoRA updates are added to the weights that they update: W + alpha / rank * B A.

    Args:
        sam: The tuned network; not changed.
        tuning: How it was tuned.

    Returns:
        Name -> tensor on the CPU, with the names of segment-anything.
    """
    state = {name: value.detach().cpu() for name, value in sam.state_dict().items()}
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and name.endswith(".weight"):
            stem = name.removesuffix("base_layer.weight")
            down = state[f"{stem}lora_A.default.weight"]
            up = state[f"{stem}lora_B.default.weight"]
            value = value + (tuning.lora_alpha / tuning.lora_rank) * (up @ down)
        merged[plain] = value.contiguous()
    return merged


def save_merged(path: Path, sam: Sam, tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write a whole checkpoint, which `--segmenter-option checkpoint=PATH` takes.

    Args:
        path: A `.safetensors` file.
        sam: The tuned network; not changed.
        tuning: How it was tuned.
        facts: Kept in the file.
    """
    # A file holds every array once; copies keep parameters that share memory apart.
    state = {name: value.clone() for name, value in merged_state(sam, tuning).items()}
    save_file(state, path, metadata=dict(facts))


def _unusable(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"tuned file {path} {what}.",
        stage="tissue",
        hint="Give the file and the base checkpoint of one and the same tuning.",
    )
