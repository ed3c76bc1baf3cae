"""Recipes: what a published system is trained with, as YAML that people read and change.

A recipe has a section for each command that trains: `align`, `caption`, `instruct`. What of the
paper it does not follow is written in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import Field, ValidationError

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.aligned import AlignedConfig
from wsiprep.models.sampling import Sampling

__all__ = ["AlignRecipe", "Optimisation", "Recipe", "load_recipe", "recipe_names", "section"]

_FOLDER: Final = files(__package__) / "recipes"
T = TypeVar("T", bound=Settings)


class Optimisation(Settings):
    """AdamW, and how its learning rate goes."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Highest learning rate."""
    final_rate: float = Field(default=0.0, ge=0)
    """Where its cosine ends."""
    warmup: float = Field(default=0.05, ge=0)
    """Steps of linear warm-up; below 1, that share of all steps."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of matrices; never of biases, norms, scales, queries and embeddings."""
    slide_rate: float = Field(default=1.0, ge=0)
    """Times the learning rate for the slide encoder; 0 freezes it."""
    text_rate: float = Field(default=1.0, ge=0)
    """Times the learning rate for the text encoder, or for the language model; 0 freezes it."""
    clip: float = Field(default=1.0, gt=0)
    """Longest gradient, over all parameters."""
    epochs: float = Field(default=50.0, gt=0)
    """Passes over the samples."""
    steps: int | None = Field(default=None, ge=1)
    """Steps, instead of epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Samples of a step, over all processes."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Samples whose activations are in memory at once; all of a process's without it. The gradient
    does not depend on it."""


class AlignRecipe(Settings):
    """What `wsiprep train align` trains."""

    model: AlignedConfig = Field(default_factory=AlignedConfig)
    """Parts and objectives."""
    sampling: Sampling = Field(default_factory=Sampling)
    """Which patches a step sees."""
    optimisation: Optimisation = Field(default_factory=Optimisation)
    """How it learns."""


class Recipe(Settings):
    """A file of `recipes/`, or the user's own."""

    name: str
    about: str = ""
    source: str = ""
    deviations: tuple[str, ...] = ()
    align: dict[str, Any] | None = None
    caption: dict[str, Any] | None = None
    instruct: dict[str, Any] | None = None


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(
        item.name.removesuffix(".yaml") for item in _FOLDER.iterdir() if item.name.endswith(".yaml")
    )


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or by the path of a YAML file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    if name in recipe_names():
        text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"recipe {name} cannot be read: {err}.") from err
    else:
        raise ConfigError(
            f"there is no recipe '{name}'.",
            hint=f"There are {', '.join(recipe_names())}; or give the path of a YAML file.",
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"recipe {name} is not YAML: {err}.") from err
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {name} is not a YAML mapping.")
    return _made(Recipe, {"name": Path(name).stem, **values}, f"recipe {name}")


def section(recipe: Recipe, command: str, kind: type[T], changes: Sequence[str] = ()) -> T:
    """A recipe's settings of one command.

    Args:
        recipe: Which.
        command: align, caption or instruct.
        kind: The class of its settings.
        changes: Of single values, `optimisation.epochs=3`; the value is YAML.

    Raises:
        ConfigError: the recipe does not have that section, or a value is wrong.
    """
    values = getattr(recipe, command)
    if values is None:
        there = [n for n in ("align", "caption", "instruct") if getattr(recipe, n) is not None]
        raise ConfigError(
            f"the recipe '{recipe.name}' has nothing for `wsiprep train {command}`.",
            hint=f"It has {', '.join(there)}." if there else "Choose another recipe.",
        )
    for change in changes:
        values = _changed(values, change)
    return _made(kind, values, f"recipe {recipe.name}, {command}")


def _changed(values: Mapping[str, Any], change: str) -> dict[str, Any]:
    name, found, text = change.partition("=")
    if not found or not name:
        raise ConfigError(f"--set {change} is not name=value.", hint="--set optimisation.epochs=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {change}: the value is not YAML: {err}.") from err
    first, *rest = name.strip().split(".")
    if not rest:
        return {**values, first: value}
    inner = values.get(first) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"--set {change}: '{first}' has no names inside.")
    return {**values, first: _changed(inner, f"{'.'.join(rest)}={text}")}


def _made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return kind(**values)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{where}: {place or 'it'} cannot be used: {first['msg']}.",
            hint="docs/slide_language.md lists what recipes hold.",
        ) from err
