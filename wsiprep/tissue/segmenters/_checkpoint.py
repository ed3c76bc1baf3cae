"""Checkpoints of segmenters: found here or on the hub, known by content, read as data alone."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wsiprep.core.devices import device_name
from wsiprep.core.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "HUB",
    "NETWORKS_KEPT",
    "file_sha256",
    "find_checkpoint",
    "pick_device",
    "put_weights",
    "read_state",
]

HUB = "hf-hub:"
NETWORKS_KEPT = 4
"""Networks of a segmenter that stay loaded in a process. A comparison of several weights asks for
each again at every slide; more would hold memory that nobody asks for again."""
SHOWN = 4
REACH_S = 10


def find_checkpoint(reference: str, files: Sequence[str], remedy: str) -> Path:
    """The file that a checkpoint option means.

    Args:
        reference: A path, or `hf-hub:owner/name[@revision]`. A file in the hub's cache is taken
            without asking the hub.
        files: Names a hub repository may have for the file, best first.
        remedy: What to get and where to put it, for messages.

    Raises:
        WeightsError: there is no such file, or the hub does not give it.
    """
    if reference.startswith(HUB):
        return _from_hub(reference.removeprefix(HUB), files, remedy)
    path = Path(reference).expanduser()
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} is not there.", stage="tissue", hint=remedy)
    return path


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's content; read again only when the file has changed.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        facts = path.stat()
        return _file_sha256(str(path.resolve()), facts.st_size, facts.st_mtime_ns)
    except OSError as err:
        raise WeightsError(f"checkpoint {path} cannot be read ({err}).", stage="tissue") from err


@lru_cache(maxsize=8)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path, remedy: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU.

    `.safetensors` holds only tensors; everything else is read by torch's restricted unpickler,
    which runs nothing. A state dict under the key `model` or `state_dict` is taken out.

    Args:
        path: The file.
        remedy: What to get instead, for messages.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path, device="cpu")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise WeightsError(
            f"checkpoint {path} is no torch file, or holds Python objects that could run code;"
            " it was not read.",
            stage="tissue",
            hint=remedy,
        ) from err
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as err:
        first = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
        raise WeightsError(
            f"checkpoint {path} cannot be read ({first}).", stage="tissue", hint=remedy
        ) from err
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items())
    ):
        raise WeightsError(f"checkpoint {path} holds no state dict.", stage="tissue", hint=remedy)
    return found


def put_weights(network: nn.Module, state: Mapping[str, Tensor], source: str, remedy: str) -> None:
    """Put weights into a network; every name and shape must fit.

    Args:
        network: Changed in place.
        state: Name -> tensor.
        source: Where the weights come from, for messages.
        remedy: What to do when they do not fit.

    Raises:
        WeightsError: names are missing or left over, or shapes differ.
    """
    wanted = network.state_dict()
    problems = []
    for what, names in (
        ("missing", [k for k in wanted if k not in state]),
        ("unexpected", [k for k in state if k not in wanted]),
        (
            "of another shape",
            [k for k, v in wanted.items() if k in state and state[k].shape != v.shape],
        ),
    ):
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            problems.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
    if problems:
        raise WeightsError(
            f"the weights of {source} do not fit the network; {'; '.join(problems)}.",
            stage="tissue",
            hint=remedy,
        )
    network.load_state_dict(dict(state))


def pick_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the first of CUDA, MPS, CPU that is there.

    Raises:
        DeviceError: it is not there.
    """
    import torch

    found = device_name(
        name,
        cuda=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        mps=torch.backends.mps.is_available(),
        stage="tissue",
        remedy="Use --segmenter-option device=auto.",
    )
    return torch.device(found)


def _from_hub(repo: str, files: Sequence[str], remedy: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    repo_id, _, revision = repo.partition("@")
    try:
        for name in files:
            cached = huggingface_hub.try_to_load_from_cache(
                repo_id, name, revision=revision or None
            )
            if isinstance(cached, str):
                return Path(cached)
        _reach()
        for name in files:
            try:
                return Path(
                    huggingface_hub.hf_hub_download(repo_id, name, revision=revision or None)
                )
            except LocalEntryNotFoundError:
                raise  # a kind of EntryNotFoundError that means: out of reach
            except EntryNotFoundError:
                continue
    except HFValidationError as err:
        raise WeightsError(
            f"'{repo}' is no hub repository.", stage="tissue", hint="Write hf-hub:owner/name."
        ) from err
    except (
        LocalEntryNotFoundError,
        HfHubHTTPError,  # gated and unknown repositories are kinds of it
        OfflineModeIsEnabled,
        OSError,
    ) as err:
        raise WeightsError(
            f"hub repository '{repo}' is not in the hub cache and cannot be downloaded"
            f" ({type(err).__name__}).",
            stage="tissue",
            hint=remedy,
        ) from err
    raise WeightsError(
        f"hub repository '{repo}' has none of the files {', '.join(files)}.",
        stage="tissue",
        hint=remedy,
    )


def _reach() -> None:
    """Ask the hub for nothing, once: a download tries for half a minute where there is no network.

    Raises:
        ConnectionError: no answer.
    """
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=REACH_S)
    except Exception as err:  # its HTTP library, and so the kind of error, depends on its version
        raise ConnectionError(str(err)) from err
