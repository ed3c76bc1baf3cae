"""A language model whose weights lie spread over the processes: FSDP of torch (`fully_shard`).

Each process keeps a part of every transformer block: of its weights, of their gradients and of the
optimiser's moments. A block is put together when it is used, forwards and backwards, and taken
apart again, so that a device holds one or two whole blocks at a time. Source: Rajbhandari et al.
2020, "ZeRO", stage 3.

What is not in a block stays whole on every process: the token embeddings and the head, because an
assistant embeds text outside of the network's forward pass and the two may be one tensor; the norm
between them; slide encoder and projector, which are small. Their gradients are averaged by
`Processes.average_gradients`, those of blocks by FSDP.

Putting a block together takes all processes. They must use the language model equally often, and
gather its weights together.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsiprep.core.errors import ConfigError, PluginUnavailableError

if TYPE_CHECKING:
    from wsiprep.train.language.processes import Processes

__all__ = [
    "any_spread",
    "blocks_of",
    "check_several",
    "gathered",
    "own_part",
    "own_parts",
    "shard",
    "whole_again",
]

NEEDS = "2.7"
"""First torch whose `fully_shard` can leave parameters out."""


def shard(language: nn.Module, processes: Processes) -> None:
    """Spread the blocks of a language model, and bring it to the device of each process.

    A block goes to the device, takes the weights of the first process, and is cut, before the next
    one does: no device ever holds all of them. What learns must be settled before, and be held in
    float32 (`master`). With precision bf16, or where the model rounds to it, blocks compute in
    bfloat16, and gradients are averaged in float32; weights and moments keep their dtypes.

    Args:
        language: See `interface.LanguageModel`; with all its weights, the same on each process.
        processes: All of them.

    Raises:
        ConfigError: there is one process; or the network has no blocks that can be spread.
        PluginUnavailableError: this torch is too old.
    """
    check_several(processes)
    cut, policy_of, mesh_of = _fsdp()
    blocks = blocks_of(language)
    mesh = mesh_of(processes.device.type, (processes.world,))
    asked = torch.bfloat16 if processes.precision == "bf16" else None
    rounded = asked or getattr(language, "rounds_to", None)
    for block in blocks:
        block.to(processes.device)
        processes.share([block])
        # The norm after the last block has whole weights, and is given what those are made for.
        last = torch.float32 if rounded is not None and block is blocks[-1] else None
        policy = policy_of(param_dtype=rounded, reduce_dtype=torch.float32, output_dtype=last)
        cut(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    rest = {p for p in language.parameters() if not _is_spread(p)}
    # FSDP wants one root, which sees to the end of a backward pass; it has no weights of its own.
    cut(language, mesh=mesh, ignored_params=rest)
    language.to(processes.device)


def check_several(processes: Processes) -> None:
    """See that a language model can be spread, before it is read.

    Raises:
        ConfigError: there is one process.
        PluginUnavailableError: this torch is too old.
    """
    if processes.world == 1:
        raise ConfigError(
            "a language model is spread over several processes, and there is one.",
            hint="Start with torchrun or accelerate launch, or drop --shard.",
        )
    _fsdp()


def blocks_of(language: nn.Module) -> list[nn.Module]:
    """The transformer blocks: the list of modules that holds most weights.

    Raises:
        ConfigError: there is none, or blocks share weights with each other or with the rest.
    """
    lists = [part for part in language.modules() if isinstance(part, nn.ModuleList) and len(part)]
    sizes = [sum(p.numel() for p in part.parameters()) for part in lists]
    if not sizes or not max(sizes):
        raise ConfigError(
            "the language model has no list of blocks to spread.",
            stage="models",
            hint="Drop --shard, or choose another language model.",
        )
    blocks = list(lists[sizes.index(max(sizes))])
    owners: dict[int, set[int]] = {}
    inside = {id(part) for block in blocks for part in block.modules()}
    rest = [part for part in language.modules() if id(part) not in inside]
    held = [part.parameters(recurse=False) for part in rest]
    for number, weights in enumerate([*(block.parameters() for block in blocks), chain(*held)]):
        for weight in weights:
            owners.setdefault(id(weight), set()).add(number)
    if any(len(of) > 1 for of in owners.values()):
        raise ConfigError(
            "blocks of the language model share weights, and cannot be spread.",
            stage="models",
            hint="Drop --shard, or choose another language model.",
        )
    return blocks


def any_spread(tensors: Iterable[Tensor]) -> bool:
    """Whether one of the tensors lies spread over processes."""
    return any(_is_spread(tensor) for tensor in tensors)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: rows of one that is spread, all of another.

    It shares memory with the tensor, and has no gradient.
    """
    if not _is_spread(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def own_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with `own_part` of every tensor in it."""
    return {k: own_part(v) if isinstance(v, Tensor) else v for k, v in values.items()}


def whole_again(part: Tensor, like: Tensor) -> Tensor:
    """A spread tensor of which this process holds `part`, cut as `like` is.

    Args:
        part: Of the shape of `own_part(like)`.
        like: A spread tensor.
    """
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)  # noqa: S101 - `_is_spread` was asked
    made: Tensor = DTensor.from_local(
        part.to(like.device), like.device_mesh, like.placements, run_check=False,
        shape=like.shape, stride=like.stride(),
    )  # fmt: skip
    return made


def gathered(state: Mapping[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """Whole tensors on the CPU of the main process; nothing on the others.

    One tensor after the other is put together on the device, so that the device needs room for the
    largest only. Every process must call this, with the same names in the same order.

    Args:
        state: Tensors, spread or not.
        processes: All of them.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach()
        if _is_spread(value):
            value = value.full_tensor()  # type: ignore[attr-defined]
        if processes.main:
            found[name] = value.cpu().contiguous()
    return found


def _is_spread(tensor: Tensor) -> bool:
    # Nothing can be spread by a module that nobody imported; to import it takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _fsdp() -> tuple[Any, Any, Any]:
    """`fully_shard`, `MixedPrecisionPolicy` and `init_device_mesh` of torch."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    except ImportError as err:
        raise _too_old() from err
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise _too_old()
    return fully_shard, MixedPrecisionPolicy, init_device_mesh


def _too_old() -> PluginUnavailableError:
    return PluginUnavailableError(
        f"torch {torch.__version__} cannot spread a language model over processes.",
        hint=f"Install torch {NEEDS} or newer, or drop --shard.",
    )
