"""Files of a language model: where they are, and a digest that tells weights apart."""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiprep.core.errors import ConfigError, WeightsError

__all__ = ["Source", "locate", "weights_digest"]

SAMPLE_BYTES = 1 << 20
KINDS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class Source:
    """What to load.

    Attributes:
        model: A folder, or a name on the hub.
        gguf: Name of a GGUF file in it, or None.
        name: For people: the hub's name, or that of the folder or file.
    """

    model: str
    gguf: str | None
    name: str


def locate(llm: str, gguf_file: str | None) -> Source:
    """Take a name on the hub, a folder or a GGUF file apart.

    Raises:
        WeightsError: a path that is not there.
        ConfigError: a GGUF file within a GGUF file.
    """
    path = Path(llm).expanduser()
    if path.suffix.lower() == ".gguf":
        if gguf_file is not None:
            raise ConfigError(
                f"{llm} is a GGUF file already; gguf_file names one in a folder.", stage="models"
            )
        if not path.is_file():
            raise WeightsError(f"the language model {path} is not there.", stage="models")
        return Source(str(path.resolve().parent), path.resolve().name, path.stem)
    if path.is_dir():
        if gguf_file is not None and not (path / gguf_file).is_file():
            raise WeightsError(f"{path} has no file {gguf_file}.", stage="models")
        return Source(str(path), gguf_file, gguf_file or path.resolve().name)
    # On the hub a name is `owner/name`; anything else that looks like a path was meant as one.
    if llm.startswith((".", "~", os.sep)) or llm.count("/") > 1 or "\\" in llm:
        raise WeightsError(
            f"the language model {llm} is not there.",
            stage="models",
            hint="Give a name on the Hugging Face hub, a folder with config.json, or a .gguf file.",
        )
    return Source(llm, gguf_file, llm)


def weights_digest(source: Source, revision: str | None = None) -> str:
    """sha256 (hex) over name, size, first and last MiB of each weight file.

    Files of many GB are not read whole; training changes all of a file, so its ends tell it from
    others.

    Args:
        source: Already loaded once, so that files from the hub are in its cache.
        revision: Of the hub.

    Raises:
        WeightsError: the files cannot be found or read.
    """
    try:
        files = _weight_files(source, revision)
        state = hashlib.sha256()
        for path in files:
            size = path.stat().st_size
            state.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                state.update(file.read(SAMPLE_BYTES))
                file.seek(max(0, size - SAMPLE_BYTES))
                state.update(file.read(SAMPLE_BYTES))
    except OSError as err:
        raise WeightsError(
            f"weights of {source.name} cannot be read ({err}).", stage="models"
        ) from err
    return state.hexdigest()


def _weight_files(source: Source, revision: str | None) -> list[Path]:
    folder = Path(source.model)
    if not folder.is_dir():
        hub: Any = importlib.import_module("transformers.utils")
        known = source.gguf or "config.json"
        folder = Path(str(hub.cached_file(source.model, known, revision=revision))).parent
    if source.gguf is not None:
        return [folder / source.gguf]
    for kind in KINDS:
        found = sorted(path for path in folder.glob(kind) if path.is_file())
        if found:
            return found
    raise FileNotFoundError(f"no {' or '.join(KINDS)} in {folder}")
