"""From settings to command-line flags: name, type, default and help come from the field."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from wsiprep.core.config import Settings, build, leaves
from wsiprep.core.errors import ConfigError

__all__ = ["settings_command"]

T = TypeVar("T", bound=Settings)

CONFIG_HELP = "YAML file with settings; a flag wins over it. Keys are the flags' names."


def settings_command(model: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Turn `def command(cfg: T)` into a function whose signature Typer reads as flags.

    Every flag is None unless given, so that defaults stay in the settings and a YAML file can
    be told from a flag.
    """

    def decorate(command: Callable[[T], None]) -> Callable[..., None]:
        def run(config: Path | None = None, **given: Any) -> None:
            flags = {name: _plain(value) for name, value in given.items() if _is_given(value)}
            layers = [("command line", flags)]
            if config is not None:
                layers.insert(0, (str(config), _read_yaml(config, model)))
            command(build(model, *layers))

        parameters = [_parameter(name, kind, field) for _, name, kind, field in leaves(model)]
        parameters.append(
            inspect.Parameter(
                "config",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option("--config", help=CONFIG_HELP, rich_help_panel="Run"),
                ],
            )
        )
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__name__ = command.__name__
        run.__doc__ = command.__doc__
        return run

    return decorate


def _is_given(value: Any) -> bool:
    return value is not None and value != [] and value != ()


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _parameter(name: str, kind: type[Settings], field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    help_text = " ".join((field.description or "").split())
    metavar: Any = extra.get("metavar") or _choices(field.annotation)
    if extra.get("argument"):
        option: Any = typer.Argument(metavar=metavar, help=help_text, show_default=False)
        annotation: Any = list[str] | None
    else:
        given: Any = extra.get("names") or []
        names = [f"--{name.rstrip('_').replace('_', '-')}", *[n for n in given if n != "--json"]]
        inner = _inner(field.annotation)
        if inner is bool:
            names[0] += f"/--no-{names[0][2:]}"
        default = field.get_default(call_default_factory=True)
        option = typer.Option(
            *names,
            metavar=metavar,
            help=help_text + _default_text(default, field.is_required()),
            rich_help_panel=kind.panel,
            show_default=False,
        )
        annotation = list[inner] | None if _is_tuple(field.annotation) else inner | None  # type: ignore[valid-type]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, option],
    )


def _default_text(default: Any, required: bool) -> str:
    if required:
        return " (required)"
    if default is None or default == () or default is False:
        return ""
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default: {'yes' if shown is True else shown})"


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _inner(annotation: Any) -> Any:
    """The type of one value: optional and tuple taken off."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _inner(next(a for a in get_args(annotation) if a is not type(None)))
    if origin is tuple:
        return _inner(get_args(annotation)[0])
    return annotation if annotation in (bool, int, float, Path) else str


def _choices(annotation: Any) -> str | None:
    """`a|b` for a choice; the settings check it, so that flags and YAML give one message."""
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return next(filter(None, (_choices(a) for a in get_args(annotation))), None)


def _read_yaml(path: Path, model: type[Settings]) -> dict[str, Any]:
    """Settings of a YAML file; those that belong to other commands only are left out."""
    import yaml

    from wsiprep.tasks.config import EmbedConfig, PrepareConfig

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"{path} cannot be read: {err}.") from err
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `setting: value` lines.")
    own = {name for _, name, _, _ in leaves(model)}
    every = (PrepareConfig, EmbedConfig)
    elsewhere = {name for command in every for _, name, _, _ in leaves(command)} - own
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    if "json" in named:
        named["json_"] = named.pop("json")
    return {
        k: tuple(v) if isinstance(v, list) else v for k, v in named.items() if k not in elsewhere
    }
