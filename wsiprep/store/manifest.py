"""The root attributes of a store: whose it is, and which parts of it are finished.

A part (`tissue`, `grids/<grid>`, `grids/<grid>/features/<encoder>`, and below that
`maps/<name>`) is finished when the root's
`zarr.json` lists it, with its key and the length and sha256 of each of its files. The entry is
written after the part's folder is in place, by replacing `zarr.json` whole: the marker is last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from wsiprep.core.errors import StoreCorruptError, StoreMismatchError
from wsiprep.core.types import SlideInfo
from wsiprep.store.disk import write_whole
from wsiprep.store.schema import (
    NAMESPACE,
    READABLE,
    check_paths,
    format_of,
    info_from_json,
    info_to_json,
)

__all__ = ["Manifest", "Unit"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A finished part of a store.

    Attributes:
        key: Hash of everything that decides its content.
        parent: Key of the part it was made from; empty for tissue.
        files: Relative path -> [bytes, sha256].
    """

    key: str
    parent: str
    files: dict[str, list[int | str]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Root attributes of a store, read once."""

    path: Path
    slide: SlideInfo
    versions: dict[str, str]
    units: dict[str, Unit]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read `<path>/zarr.json`.

        Raises:
            StoreCorruptError: there is none, or it is not a wsiprep store.
            StoreMismatchError: its format number is not known to this version.
        """
        root = path / "zarr.json"
        hint = "Restore it from a copy, or start this slide anew by `wsiprep run --overwrite`."
        try:
            values = dict(json.loads(root.read_bytes())["attributes"][NAMESPACE])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise StoreCorruptError(
                f"{path} is not a wsiprep store ({type(err).__name__} reading zarr.json).",
                slide=path.stem,
                stage="store",
                hint=hint,
            ) from err
        if values.get("format") not in READABLE:
            raise StoreMismatchError(
                f"{path} has store format {values.get('format')}; this version reads "
                f"{', '.join(map(str, sorted(READABLE)))}.",
                slide=path.stem,
                stage="store",
                hint="Use the version of wsiprep that wrote it, or write to another --output.",
            )
        try:
            for name, unit in values["units"].items():
                check_paths(name, unit["files"])
            return cls(
                path=path,
                slide=info_from_json(values["slide"]),
                versions=values["versions"],
                units={name: Unit(**unit) for name, unit in values["units"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise StoreCorruptError(
                f"the attributes of {path} are damaged: {err!r}.",
                slide=path.stem,
                stage="store",
                hint=hint,
            ) from err

    def write(self) -> None:
        """Replace the root's `zarr.json` whole.

        Raises:
            OutputError: it cannot be written.
        """
        values = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {
                NAMESPACE: {
                    "format": format_of(self.units),
                    "slide": info_to_json(self.slide),
                    "versions": self.versions,
                    "units": {
                        name: {"key": u.key, "parent": u.parent, "files": u.files}
                        for name, u in sorted(self.units.items())
                    },
                }
            },
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_whole(self.path / "zarr.json", text.encode("utf-8", "backslashreplace"))
