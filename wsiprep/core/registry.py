"""Names of plug-ins to modules, without importing any of them before it is asked for."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from wsiprep.core.errors import PluginUnavailableError, UnknownPluginError

__all__ = ["Registry"]


class Registry:
    """Plug-ins of one kind: the modules of a folder, and an entry-point group.

    A module of `package` whose name does not start with `_` is a plug-in named as its file.
    A third-party package adds one under the entry-point group `group`; it must not reuse a
    built-in name. Listing names imports nothing.

    Args:
        kind: What one plug-in is called in messages, e.g. `reader`.
        package: Dotted name of the folder of built-in plug-ins.
        group: Entry-point group of outside plug-ins, e.g. `wsiprep.readers`.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group

    def builtin_names(self) -> list[str]:
        """Names of the plug-ins in the folder, sorted."""
        folder = importlib.import_module(self.package)
        return sorted(
            m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_")
        )

    def _outside(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        builtin = set(self.builtin_names())
        for point in entry_points(group=self.group):
            if point.name in builtin or point.name in found:
                raise UnknownPluginError(
                    f"two {self.kind}s are called '{point.name}'; one is {point.value}.",
                    hint="Uninstall one of the packages that define it.",
                )
            found[point.name] = point
        return found

    def names(self) -> list[str]:
        """Names of all plug-ins, built in and installed, sorted; imports none of them."""
        return sorted([*self.builtin_names(), *self._outside()])

    def load(self, name: str) -> Any:
        """Import the plug-in called `name` and return its module (or entry-point object).

        Raises:
            UnknownPluginError: no such name; the message offers the nearest one.
            PluginUnavailableError: a library it imports is missing.
        """
        if name in self.builtin_names():
            return self._import(name, f"{self.package}.{name}")
        outside = self._outside()
        if name in outside:
            try:
                return outside[name].load()
            except ImportError as err:
                raise PluginUnavailableError(
                    f"{self.kind} '{name}' ({outside[name].value}) does not import: {err}."
                ) from err
        known = self.names()
        near = difflib.get_close_matches(name, known, n=1)
        raise UnknownPluginError(
            f"there is no {self.kind} called '{name}'.",
            hint=(f"Did you mean '{near[0]}'? " if near else "") + f"Known: {', '.join(known)}.",
        )

    def _import(self, name: str, dotted: str) -> ModuleType:
        try:
            return importlib.import_module(dotted)
        except ImportError as err:
            raise PluginUnavailableError(
                f"{self.kind} '{name}' does not import: {err}.",
                hint="`wsiprep doctor` lists what is installed.",
            ) from err
