"""Names and numbers of the format on disk; docs/store.md is its description."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from wsiprep.core.types import Box, PatchGrid, ReadPlan, Size, SlideInfo

__all__ = [
    "FORMAT",
    "GRIDS",
    "LOCKS_FOLDER",
    "MAPS",
    "NAMESPACE",
    "READABLE",
    "SHARD_CELLS",
    "TISSUE",
    "WORK_FOLDER",
    "check_paths",
    "features_unit",
    "format_of",
    "grid_unit",
    "heat_map_unit",
    "info_from_json",
    "info_to_json",
    "plan_from_json",
    "plan_to_json",
    "safe_name",
]

FORMAT = 2
"""Number of the on-disk format that is written; a reader refuses numbers it does not know."""

FORMAT_WITH_MAPS = 3
"""Number of a store that holds heat maps, which readers of format 2 do not know. Without any it is
written as `FORMAT`, so that these still read it."""

READABLE = frozenset({1, 2, 3})
"""Formats that are read. 2 adds `edge`, `fold` and `section` of the tissue, and `section`, `pen`,
`edge`, `fold` and `focus` of a grid; a part written before has none of them, and reads as if it
had one section and nothing of the rest. 3 adds heat maps."""

NAMESPACE = "wsiprep"
"""Key of our attributes in every group."""

TISSUE = "tissue"
GRIDS = "grids"
MAPS = "maps"
LOCKS_FOLDER = ".locks"
"""Folder for locks inside the work folder."""

WORK_FOLDER = ".work"
"""Folder beside the stores for journals, locks and unfinished arrays."""

SHARD_CELLS = 128
"""Cells along each side of a shard (a file): 42 MB at 1280 float16 features, if all is tissue."""


_UNIT = re.compile(r"tissue|grids/[\w.\-]+(/features/[\w.\-]+(/maps/[\w.\-]+)?)?")


def check_paths(unit: str, files: Iterable[str]) -> None:
    """Refuse names in a manifest that could lead out of the store.

    Raises:
        ValueError: the part is none of ours, or a file of it does not lie inside.
    """
    parts = [unit, *files]
    inside = all(
        not PurePosixPath(p).is_absolute() and not {"", ".", ".."} & set(p.split("/"))
        for p in parts
    )
    if not inside or not _UNIT.fullmatch(unit):
        raise ValueError(f"'{unit}' lists a path that is not of this store")


def safe_name(name: str) -> str:
    """`name` as one path component: anything but letters, digits, `.`, `_`, `-` becomes `-`."""
    return re.sub(r"[^\w.\-]+", "-", name).strip(".-") or "-"


def grid_unit(grid: str) -> str:
    """Path of a grid inside a store."""
    return f"{GRIDS}/{grid}"


def features_unit(grid: str, encoder: str) -> str:
    """Path of an encoder's features inside a store."""
    return f"{GRIDS}/{grid}/features/{safe_name(encoder)}"


def heat_map_unit(grid: str, encoder: str, name: str) -> str:
    """Path of a heat map, which is made from an encoder's features, inside a store."""
    return f"{features_unit(grid, encoder)}/{MAPS}/{safe_name(name)}"


def format_of(units: Iterable[str]) -> int:
    """Number of the format of a store with these parts: the lowest that has them all."""
    return FORMAT_WITH_MAPS if any(f"/{MAPS}/" in unit for unit in units) else FORMAT


def info_to_json(info: SlideInfo) -> dict[str, Any]:
    """A slide's facts as stored in the root attributes; `notes` are of a run, not of a slide."""
    values = asdict(info)
    values.pop("notes")
    values.pop("reader_reason")
    values["downsamples"] = list(info.downsamples)
    values["level_sizes"] = [[s.width, s.height] for s in info.level_sizes]
    values["size0"] = [info.size0.width, info.size0.height]
    b = info.bounds0
    values["bounds0"] = [b.x, b.y, b.width, b.height]
    return values


def info_from_json(values: dict[str, Any]) -> SlideInfo:
    """The inverse of `info_to_json`."""
    return SlideInfo(
        **{
            **values,
            "reader_reason": "as stored",
            "size0": Size(*values["size0"]),
            "downsamples": tuple(values["downsamples"]),
            "level_sizes": tuple(Size(*s) for s in values["level_sizes"]),
            "bounds0": Box(*values["bounds0"]),
        }
    )


def plan_to_json(grid: PatchGrid) -> dict[str, Any]:
    """Reading plan and lattice of a grid as stored in its attributes."""
    return {
        "plan": asdict(grid.plan),
        "stride_px": grid.stride_px,
        "stride0_px": grid.stride0_px,
        "shape": list(grid.shape),
        "patches": len(grid),
    }


def plan_from_json(values: dict[str, Any]) -> ReadPlan:
    """The reading plan of a grid's attributes."""
    return ReadPlan(**values["plan"])
