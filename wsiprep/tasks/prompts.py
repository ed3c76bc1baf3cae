"""Classes in words: several names of each, put into several sentences, averaged to one vector.

Source: prompt ensembles as in Radford et al., CLIP, ICML 2021 (3.1.4): vectors of unit length are
averaged, and the mean brought to unit length. The sentences are wsiprep's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from wsiprep.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from wsiprep.models.aligned import Aligned

__all__ = ["PATHOLOGY", "ClassPrompts", "class_set_names", "class_vectors", "read_classes"]

PATHOLOGY: Final = (
    "{}.",
    "{} is seen.",
    "{} is present.",
    "The section shows {}.",
    "The slide shows {}.",
    "The specimen contains {}.",
    "Histology of {}.",
    "Microscopy shows {}.",
    "There is evidence of {}.",
    "The findings are those of {}.",
    "The diagnosis is {}.",
    "Diagnosis: {}.",
    "Consistent with {}.",
    "The appearances are those of {}.",
    "Tissue section stained with haematoxylin and eosin: {}.",
    "A whole slide image of {}.",
    "A histopathology slide of {}.",
    "Areas of {}.",
)
"""The sentences that names are put into."""

_FOLDER: Final = files(__package__) / "class_sets"
_EXAMPLE: Final = "Write `class name: [prompt, prompt]` lines."
_KEYS: Final = frozenset({"classes", "templates", "ordinal"})


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """Classes and what is said for each.

    Attributes:
        names: C names of classes, in the order of the file.
        texts: For each class its sentences, templates filled in; each once.
        ordinal: The order of the classes means something (grades).
        source: Name or path of the set.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    ordinal: bool
    source: str

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types, for provenance."""
        return {
            "source": self.source,
            "ordinal": self.ordinal,
            "classes": dict(zip(self.names, map(list, self.texts), strict=True)),
        }


def class_set_names() -> list[str]:
    """Sets of classes that come with wsiprep."""
    names = (item.name for item in _FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_classes(source: str, templates: str | None = None) -> ClassPrompts:
    """Read a set of classes.

    The file is a mapping of class to its names or prompts (one text, or a list). It may instead
    have the keys `classes` (that mapping, or a list of names), `templates` (as below, or a list of
    sentences) and `ordinal`.

    Args:
        source: Path of a YAML file, or the name of a set that comes with wsiprep.
        templates: `pathology`, `none`, or the path of a YAML list of sentences with {}; wins over
            the file's own. `pathology` where neither says.

    Raises:
        ConfigError: there is no such set, or it cannot be used; says why.
    """
    value = _load(source)
    if not isinstance(value, dict):
        raise _wrong(source, "it holds no classes")
    plain = not (isinstance(value.get("classes"), dict | list) and set(value) <= _KEYS)
    extras: Mapping[str, Any] = {} if plain else value
    classes = value if plain else value["classes"]
    if isinstance(classes, list):
        classes = {name: name for name in classes}
    ordinal = extras.get("ordinal", False)
    if not isinstance(ordinal, bool):
        raise _wrong(source, "ordinal is true or false")
    sentences = _templates(templates if templates is not None else extras.get("templates"), source)
    names = tuple(_text(source, name, "a class") for name in classes)
    if len(names) < 2:
        raise _wrong(source, f"{len(names)} class is too few to choose from")
    texts = tuple(
        _sentences(source, name, prompts, sentences)
        for name, prompts in zip(names, classes.values(), strict=True)
    )
    return ClassPrompts(names, texts, ordinal, source)


def class_vectors(model: Aligned, classes: ClassPrompts) -> Tensor:
    """A vector of each class, float32 (C, d), of length 1.

    Args:
        model: Whose texts.
        classes: What is said for each.
    """
    import torch

    from wsiprep.models.objectives.scale import unit

    rows = [model.embed_texts(texts).mean(dim=0) for texts in classes.texts]
    return unit(torch.stack(rows))


def _load(source: str) -> Any:
    if source in class_set_names():
        return yaml.safe_load((_FOLDER / f"{source}.yaml").read_text(encoding="utf-8"))
    path = Path(source).expanduser()
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(
            f"there is no set of classes '{source}'.",
            hint=f"There are {', '.join(class_set_names())}; or give a YAML file.",
        )
    return _read_yaml(path)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"{path} cannot be read: {err}.") from err


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)


def _templates(given: Any, source: str) -> tuple[str, ...]:
    if given is None or given == "pathology":
        return PATHOLOGY
    if given == "none":
        return ("{}",)
    where = source
    if isinstance(given, str):
        path = Path(given).expanduser()
        if path.suffix not in (".yaml", ".yml", ".json"):
            raise ConfigError(
                f"there are no templates '{given}'.", hint="pathology, none, or a YAML file."
            )
        given, where = _read_yaml(path), str(path)
    if not isinstance(given, list) or not given:
        raise _wrong(where, "templates are a list of sentences")
    for sentence in given:
        if not isinstance(sentence, str) or sentence.count("{}") != 1:
            raise _wrong(where, f"the template {sentence!r} does not have {{}} once")
    return tuple(given)


def _sentences(source: str, name: str, prompts: Any, templates: tuple[str, ...]) -> tuple[str, ...]:
    several = prompts if isinstance(prompts, list) else [prompts]
    if not several:
        raise _wrong(source, f"class '{name}' has no prompt")
    texts = [_text(source, prompt, f"a prompt of '{name}'") for prompt in several]
    filled = (template.replace("{}", text) for text in texts for template in templates)
    return tuple(dict.fromkeys(_tidy(sentence) for sentence in filled))


def _tidy(sentence: str) -> str:
    """A capital first, and one full stop where the prompt has its own."""
    sentence = " ".join(sentence.split())
    if sentence.endswith(".."):
        sentence = sentence.rstrip(".") + "."
    return sentence[:1].upper() + sentence[1:]


def _text(source: str, value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        # `no` and `yes` are truth values in YAML.
        raise _wrong(source, f"{what} is {value!r} instead of text; put it in quotes")
    return value.strip()


def _wrong(source: str, why: str) -> ConfigError:
    return ConfigError(f"classes {source}: {why}.", hint=_EXAMPLE)
