"""What a training leaves: folders that hold everything a model needs, whole or not at all.

```
RUN/
  checkpoints.json      which folder is the last, and which the best
  step-000400/
    model.json          kind, format, parts, and what features and texts it was trained on
    weights.safetensors whatever was learned, and buffers
    tokenizer.json      where the tokenizer was made of the captions
    adapter/            where a language model was tuned by an adapter
  state.pt              to go on from (`--resume`)
  state-1-000400.pt     what the second of several processes needs besides, and so on
  log.csv
```

A folder is written under another name and renamed; `checkpoints.json` is written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from wsiprep import __version__
from wsiprep.core.errors import StoreMismatchError, WeightsError
from wsiprep.encoders.load import resolve_device
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.hf import HFTextEncoder
from wsiprep.models.text.tokenizer import Tokenizer
from wsiprep.store.disk import output_errors, publish_folder, write_whole
from wsiprep.train.language.fingerprint import Fingerprint

__all__ = [
    "FORMAT",
    "AlignedCheckpoint",
    "Checkpoints",
    "load_aligned",
    "locate",
    "read_model_json",
    "read_weights",
    "save_aligned",
    "write_checkpoint",
]

FORMAT: Final = 1
"""Of `model.json`."""
MODEL, WEIGHTS, TOKENIZER, INDEX = (
    *("model.json", "weights.safetensors", "tokenizer.json", "checkpoints.json"),
)


@dataclass(frozen=True, slots=True, eq=False)
class AlignedCheckpoint:
    """An aligned model, ready to read slides.

    Attributes:
        model: In evaluation mode, on its device.
        features: What features it takes.
        sampling: Which patches it was trained on.
        recipe: Name and settings of its recipe.
        folder: Where it was read from.
    """

    model: Aligned
    features: Fingerprint
    sampling: Sampling
    recipe: dict[str, Any]
    folder: Path

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


class Checkpoints:
    """Folders of a run: the last one and the best are kept.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.run = run

    def add(self, step: int, write: Callable[[Path], None], *, best: bool) -> Path:
        """Write a checkpoint whole, point to it, and drop what nothing points to.

        Args:
            step: Of the training.
            write: Fills an empty folder.
            best: Whether none before was better.

        Raises:
            OutputError: it cannot be written.
        """
        name = f"step-{step:06d}"
        write_checkpoint(self.run / name, write)
        names = {**self.names(), "last": name}
        if best:
            names["best"] = name
        write_whole(self.run / INDEX, json.dumps(names, indent=1).encode())
        for rest in self.run.glob(".trash-*"):  # of a run that was killed
            shutil.rmtree(rest)
        for old in self.run.glob("step-*"):
            if old.is_dir() and old.name not in names.values():
                shutil.rmtree(old)
        return self.run / name

    def forget(self) -> None:
        """Point to nothing; what was pointed to is dropped with the next that is added.

        Raises:
            OutputError: it cannot be done.
        """
        with output_errors(self.run):
            (self.run / INDEX).unlink(missing_ok=True)

    def names(self) -> dict[str, str]:
        """`last` and `best` to names of folders; empty before the first."""
        path = self.run / INDEX
        if not path.is_file():
            return {}
        try:
            names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise WeightsError(f"{path} is damaged: {err}.") from err
        return names


def write_checkpoint(folder: Path, write: Callable[[Path], None]) -> None:
    """A folder that is there whole or not at all; one of that name is replaced."""
    ready = folder.with_name(f".{folder.name}.new")
    with output_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir()
        write(ready)
        publish_folder(ready, folder)


def locate(path: Path) -> Path:
    """The folder of a checkpoint: itself, or of a run its best, or its last where none is best.

    Raises:
        WeightsError: there is none.
    """
    if (path / MODEL).is_file():
        return path
    names = Checkpoints(path).names()
    name = names.get("best") or names.get("last")
    if name is None or not (path / name / MODEL).is_file():
        raise WeightsError(
            f"{path} holds no model.",
            hint="Give --model the output folder of wsiprep train, or one of its checkpoints.",
        )
    return path / name


def read_model_json(folder: Path, kind: str) -> dict[str, Any]:
    """`model.json` of a checkpoint.

    Args:
        folder: See `locate`.
        kind: aligned or assistant.

    Raises:
        WeightsError: it cannot be read, is of another kind, or of a newer format.
    """
    path = folder / MODEL
    try:
        words: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, form = str(words["kind"]), int(words["format"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise WeightsError(f"{path} cannot be read: {err}.") from err
    if form > FORMAT:
        raise WeightsError(
            f"{path} is of format {form}; this wsiprep reads up to {FORMAT}.",
            hint="Install a newer wsiprep.",
        )
    if found != kind:
        made_by = {"aligned": "train align", "assistant": "train caption or train instruct"}
        raise WeightsError(
            f"{folder} is {found}, and what is needed is {kind}.",
            hint=f"Make one by `wsiprep {made_by.get(kind, kind)}`.",
        )
    return words


def weights_to_keep(model: nn.Module, frozen: tuple[nn.Module, ...]) -> dict[str, Tensor]:
    """All of a model's state but what is frozen and can be had from elsewhere.

    Args:
        model: The whole.
        frozen: Parts of it that were loaded; of these only what learns is kept.
    """
    learned = {id(p) for part in frozen for p in part.parameters() if p.requires_grad}
    given = {
        id(tensor)
        for part in frozen
        for tensor in (*part.parameters(), *part.buffers())
        if id(tensor) not in learned
    }
    state = model.state_dict(keep_vars=True)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if id(tensor) not in given
    }


def save_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write `weights.safetensors`; tensors that share memory are written once each."""
    from safetensors.torch import save

    write_whole(folder / WEIGHTS, save({name: tensor.clone() for name, tensor in state.items()}))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name.

    Raises:
        WeightsError: they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as err:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {err}.") from err


def take_weights(model: nn.Module, state: Mapping[str, Tensor], expected: set[str]) -> None:
    """Put tensors into a model.

    Raises:
        WeightsError: one is missing, unknown, or of another shape.
    """
    missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or unknown:
        raise WeightsError(f"tensors are missing or unknown: {[*missing, *unknown][:4]}.")
    try:
        model.load_state_dict(dict(state), strict=False)
    except RuntimeError as err:
        raise WeightsError(f"tensors do not fit: {err}.") from err


def save_aligned(
    folder: Path, model: Aligned, *, features: Fingerprint, sampling: Sampling,
    recipe: Mapping[str, Any],
) -> None:  # fmt: skip
    """Fill the folder of a checkpoint.

    Args:
        folder: It is there, and empty.
        model: What was trained.
        features: What its features were made with.
        sampling: Which patches it saw.
        recipe: Name and settings, plain JSON.
    """
    words = {
        "format": FORMAT,
        "kind": "aligned",
        "wsiprep": __version__,
        "model": model.cfg.canonical(),
        "input_dim": model.input_dim,
        "features": features.canonical(),
        "sampling": sampling.canonical(),
        "text": model.texts.fingerprint,
        "recipe": dict(recipe),
    }
    if model.tokenizer is not None:
        write_whole(folder / TOKENIZER, model.tokenizer.to_json().encode())
    save_weights(folder, weights_to_keep(model, _loaded_parts(model)))
    write_whole(folder / MODEL, json.dumps(words, indent=1, sort_keys=True).encode())


def load_aligned(path: Path, device: str = "auto") -> AlignedCheckpoint:
    """Read a checkpoint of `wsiprep train align`.

    Args:
        path: Of a run, or of one checkpoint.
        device: cpu, cuda, mps; auto takes the first that is there.

    Raises:
        WeightsError: it cannot be read, or its tensors do not fit.
        StoreMismatchError: the text encoder is not the one it was trained with.
        DeviceError: there is no such device.
    """
    folder = locate(path)
    words = read_model_json(folder, "aligned")
    tokenizer = read_tokenizer(folder)
    random = torch.get_rng_state()  # whose numbers the first weights would use up
    try:
        model = Aligned(AlignedConfig(**words["model"]), int(words["input_dim"]), tokenizer)
    finally:
        torch.set_rng_state(random)
    if model.texts.fingerprint != words["text"]:
        raise StoreMismatchError(
            f"the text encoder is not the one that {folder} was trained with: it is "
            f"{model.texts.fingerprint}, and was {words['text']}.",
            stage="models",
            hint="Give it the same weights: the model's name with @revision, or its folder.",
        )
    take_weights(model, read_weights(folder), set(weights_to_keep(model, _loaded_parts(model))))
    model.to(resolve_device(device)).eval()
    return AlignedCheckpoint(
        model=model,
        features=Fingerprint.of_canonical(words["features"]),
        sampling=Sampling(**words["sampling"]),
        recipe=dict(words["recipe"]),
        folder=folder,
    )


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint, or None where it has none.

    Raises:
        WeightsError: it is damaged.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise WeightsError(f"{path} cannot be read: {err}.") from err


def _loaded_parts(model: Aligned) -> tuple[nn.Module, ...]:
    encoder = model.texts.encoder
    return (encoder,) if isinstance(encoder, HFTextEncoder) else ()
