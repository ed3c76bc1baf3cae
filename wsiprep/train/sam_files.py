"""Files of a tuned SAM: whole checkpoints, which `--segmenter sam` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor

from wsiprep.train.sam_tuning import Tuning

__all__ = ["merged_state", "save_merged"]


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
