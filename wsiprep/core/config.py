"""Settings: a field is declared once and is flag, YAML key, manifest column, default and help.

A stage's settings are one frozen model in `<stage>/config.py`. A command's settings are a model
that nests those sections (`tasks/config.py`). Leaf names are unique over all sections, so that
flags, YAML keys and manifest columns are flat: the field `min_tissue` is `--min-tissue`,
`min_tissue: 0.4` in YAML, and the column `min_tissue`.

What changes the answer lives in stage sections and is hashed whole, as `Settings.canonical`. What
changes only speed or reporting lives in `RunConfig`, which nothing hashes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, ClassVar, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wsiprep.core.errors import ConfigError

__all__ = ["Settings", "build", "digest", "flag", "leaves", "override", "sections"]

T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """Frozen, strict about names; the docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
    panel: ClassVar[str] = ""
    """Heading under which `--help` shows the section's flags."""
    alternatives: ClassVar[tuple[frozenset[str], ...]] = ()
    """Fields that say the same thing in several ways: a later layer's replaces an earlier one's."""

    @model_validator(mode="before")
    @classmethod
    def _one_is_several(cls, values: Any) -> Any:
        """Take `encoder: lite0` for a list of one, as YAML and manifest cells write it."""
        if not isinstance(values, dict):
            return values
        several = {n for n, f in cls.model_fields.items() if get_origin(f.annotation) is tuple}
        return {k: (v,) if k in several and isinstance(v, str) else v for k, v in values.items()}

    @classmethod
    def of(cls: type[T], **values: Any) -> T:
        """A command's settings from flat names, as flags give them: `of(output="out", mpp=1)`.

        Raises:
            ConfigError: an unknown name or a wrong value.
        """
        return build(cls, ("settings", values))

    def canonical(self) -> dict[str, Any]:
        """Values as plain JSON types: what is stored and hashed."""
        return self.model_dump(mode="json")


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flag(*names: str, argument: bool = False, metavar: str | None = None) -> dict[str, Any]:
    """Command-line traits of a field, for `Field(json_schema_extra=flag(...))`.

    Args:
        names: Extra option names, e.g. `-o` or an alias `--tile-px`.
        argument: The field is a positional argument, not an option.
        metavar: Placeholder shown in `--help`.
    """
    return {"names": list(names), "argument": argument, "metavar": metavar}


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[Settings]]]:
    """Name and class of every section of a command's settings, in declaration order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield name, kind


def leaves(model: type[BaseModel]) -> Iterator[tuple[str, str, type[Settings], FieldInfo]]:
    """(section, leaf name, section class, field) of every setting of a command."""
    for section, kind in sections(model):
        for name, field in kind.model_fields.items():
            yield section, name, kind, field


def build(model: type[T], *layers: tuple[str, Mapping[str, Any]]) -> T:
    """Make a command's settings from flat layers, later ones winning.

    Args:
        model: The command's settings class, made of sections.
        layers: (origin, values by leaf name); the origin is named in errors, e.g. a YAML path.

    Raises:
        ConfigError: an unknown name or a wrong value; names the flag and the origin.
    """
    home = {name: section for section, name, _, _ in leaves(model)}
    nested: dict[str, dict[str, Any]] = {section: {} for section, _ in sections(model)}
    partners = {
        name: group - {name}
        for _, kind in sections(model)
        for group in kind.alternatives
        for name in group
    }
    origin_of: dict[str, str] = {}
    for origin, values in layers:
        for raw, value in values.items():
            name = str(raw).replace("-", "_")
            if name not in home:
                raise ConfigError(f"{origin}: there is no setting '{raw}'.", hint=_near(name, home))
            for other in partners.get(name, frozenset()):
                if origin_of.get(other, origin) != origin:
                    del nested[home[other]][other], origin_of[other]
            nested[home[name]][name] = value
            origin_of[name] = origin
    try:
        return model.model_validate(nested)
    except ValidationError as err:
        raise _config_error(err, origin_of) from err


def override(
    config: T, values: Mapping[str, Any], origin: str, *, without: Set[str] = frozenset()
) -> T:
    """A copy of a command's settings with some leaves replaced and everything validated again.

    Args:
        config: The settings.
        values: By leaf name.
        origin: Named in errors.
        without: Leaves that are left open again, unless `values` has them.
    """
    current = {
        name: getattr(getattr(config, section), name)
        for section, name, _, _ in leaves(type(config))
        if name in getattr(config, section).model_fields_set and name not in without
    }
    return build(type(config), ("settings", current), (origin, values))


def _near(name: str, known: Mapping[str, Any]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{near[0]}'?" if near else None


def _config_error(err: ValidationError, origin_of: Mapping[str, str]) -> ConfigError:
    lines = []
    for item in err.errors():
        parts = [str(p) for p in item["loc"]]
        name = parts[1] if len(parts) > 1 else (parts[0] if parts else "")
        message = item["msg"].removeprefix("Value error, ")
        if len(parts) > 1:
            if item["type"] == "missing":
                lines.append(f"--{name.replace('_', '-')} is required")
                continue
            given = f" (given: {item['input']!r})"
            origin = origin_of.get(name)
            where = f" in {origin}" if origin and origin != "command line" else ""
            lines.append(f"--{name.replace('_', '-')}{where}: {message}{given}")
        else:
            lines.append(message)
    return ConfigError("; ".join(lines))
