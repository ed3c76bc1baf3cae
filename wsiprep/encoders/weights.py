"""Weights files: read without running anything in them, and put into a network strictly."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsiprep.core.errors import WeightsError

__all__ = ["load_strictly", "read_weights", "seeded"]

_PICKLED = (".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 5


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file.

    `.safetensors` holds only tensors. `.pt`, `.pth` and `.bin` are pickles, and are read with
    torch's restricted unpickler (`weights_only=True`), which refuses anything but tensors and
    plain containers. A state dict under the key `state_dict`, `model` or `teacher` is taken out,
    and the prefixes `module.` and `_orig_mod.` that training wrappers leave are removed.

    Args:
        path: The file.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        WeightsError: the file is missing, broken, of an unknown kind, holds anything besides
            weights, or holds none.
    """
    kind = path.suffix.lower()
    if kind != ".safetensors" and kind not in _PICKLED:
        raise _unusable(path, f"is not one of .safetensors, {', '.join(_PICKLED)}")
    if not path.is_file():
        raise _unusable(path, "is not there", "Check the path given to --weights.")
    found: object
    try:
        if kind == ".safetensors":
            found = load_file(path, device="cpu")
        else:
            with warnings.catch_warnings():
                # Said before the restricted unpickler refuses a file or reads it all the same.
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise _unusable(
            path,
            "is no torch file, or holds Python objects that could run code; it was not read",
            "Ask its author for .safetensors, or save its state_dict alone.",
        ) from err
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as err:
        raise _unusable(
            path, f"cannot be read ({_first_line(err)})", "Download it again; it looks damaged."
        ) from err
    return _state(found, path)


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, ignore: Iterable[str] = ()
) -> None:
    """Put weights into a network; every name and shape must fit.

    Args:
        module: The network, changed in place.
        state: Name -> tensor.
        source: Where the weights come from, for messages.
        ignore: Sub-modules of the file that the network does not have: classifier heads.

    Raises:
        WeightsError: names are missing or left over, or shapes differ; the message lists them.
    """
    heads = tuple(f"{name}." for name in ignore)
    wanted = module.state_dict()
    given = {k: v for k, v in state.items() if k in wanted or not (heads and k.startswith(heads))}
    # Counts of training batches: old files lack them, and inference does not read them.
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f"{k} {tuple(given[k].shape)} for {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}" + (", ..." * (len(names) > _SHOWN))
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"the weights of {source} do not fit the network; {'; '.join(problems)}.",
            stage="encoder",
            hint="Name the architecture that the weights were trained with, in --encoder.",
        )
    module.load_state_dict(given, strict=False)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Within it, torch's CPU generator is seeded; afterwards it goes on as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _state(found: object, path: Path) -> dict[str, Tensor]:
    for _ in range(2):  # {"model": {"state_dict": ...}} occurs
        inner = next(
            (
                found[key]
                for key in _WRAPPERS
                if isinstance(found, dict) and isinstance(found.get(key), dict)
            ),
            None,
        )
        if inner is None:
            break
        found = inner
    if not isinstance(found, dict) or not found:
        raise _unusable(path, f"holds no state dict, but a {type(found).__name__}")
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _unusable(
                path,
                f"holds '{key}', a {type(value).__name__}, among its weights",
                "Save the network's state_dict alone.",
            )
        name = key
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        state[name] = value
    return state


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return lines[0][:200] if lines else type(err).__name__


def _unusable(path: Path, what: str, hint: str | None = None) -> WeightsError:
    return WeightsError(f"weights file {path} {what}.", stage="encoder", hint=hint)
