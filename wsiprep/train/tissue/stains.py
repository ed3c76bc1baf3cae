"""Stains of a user's own, given as data: thumbnails to train on are drawn in them besides ours."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from wsiprep.core.errors import ConfigError
from wsiprep.synth.thumbnails.stains import STAINS, Stain

__all__ = ["read_stains"]

_STRICT = TypeAdapter(dict[str, Stain], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def read_stains(path: Path) -> dict[str, Stain]:
    """Stains by name, from YAML: each holds the fields of `synth.thumbnails.stains.Stain`.

    Raises:
        ConfigError: the file cannot be read, holds no stain, a field that there is not or a number
            out of range, or a stain has the name of one of ours.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"--stains: {path} cannot be read: {err}.") from err
    try:
        stains = _STRICT.validate_python(given or {})
    except ValidationError as err:
        wrong = "; ".join(
            f"{' '.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
            for item in err.errors()
        )
        raise ConfigError(
            f"--stains: {path} cannot be used: {wrong}.",
            hint="Each stain is `name: {nuclear: [R, G, B], counter: [R, G, B], amount: [A, B],"
            " odds: N}`; see docs/tissue.md.",
        ) from err
    if not stains:
        raise ConfigError(f"--stains: {path} holds no stain.")
    if taken := sorted(stains.keys() & STAINS):
        raise ConfigError(
            f"--stains: {path} names {', '.join(taken)}, which there is already.",
            hint="Give it another name; --leave-out takes out one of ours.",
        )
    return stains
