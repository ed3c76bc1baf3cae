"""Polygons from GeoJSON (RFC 7946, and as QuPath exports it), in level-0 pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import TissueInputError
from wsiprep.core.types import Size, SlideInfo

__all__ = ["Outline", "Outlines", "read_outlines"]

MAX_BYTES = 512 * 1024**2
Kind = Literal["tissue", "pen", "edge", "fold", "ignore"]
KINDS: dict[str, Kind] = {"pen": "pen", "edge": "edge", "fold": "fold", "ignore*": "ignore"}
FLAT = ("Point", "MultiPoint", "LineString", "MultiLineString")
"""Geometries without an area, as points and lines that are drawn beside the tissue."""
MAX_SECTION = 1_000_000
HINT = (
    "Export annotations from QuPath as GeoJSON (Polygon or MultiPolygon, full-resolution pixels)."
)


@dataclass(frozen=True, slots=True)
class Outline:
    """One polygon.

    Attributes:
        rings0_px: float64 (n, 2) corners (x, y) of the exterior and of holes, level-0 pixels.
        kind: What it surrounds.
        section: Number of the tissue section that the feature gives, or None.
    """

    rings0_px: tuple[NDArray[np.float64], ...]
    kind: Kind = "tissue"
    section: int | None = None


class Outlines(NamedTuple):
    """What a file holds.

    Attributes:
        polygons: In the order of the file.
        notes: What was left out of it.
    """

    polygons: list[Outline]
    notes: tuple[str, ...]


def read_outlines(path: Path, info: SlideInfo, only: str | None = None) -> Outlines:
    """Read all polygons of a GeoJSON file, or those of one class.

    Takes a FeatureCollection, a list of features, a feature or a geometry. Features without a
    geometry are left out, and so are points and lines, which are counted in a note. Features
    classified `Pen`, `Edge`, `Fold` and `Ignore*` are these, all others are tissue. The number of
    a section is the measurement or the property `section`.

    Args:
        path: The file.
        info: The slide.
        only: Name of a class, in any case: features of other classes are left out, and those of
            this one are `tissue` whatever its name.

    Raises:
        TissueInputError: not GeoJSON, nothing but points and lines, coordinates that are not
            finite or lie farther outside the slide than its own size.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            _refuse(path, info, f"is larger than {MAX_BYTES // 1024**2} MiB")
        data = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
        data = data if only is None else _of_class(data, only.strip().casefold())
        flat: Counter[str] = Counter()
        found = list(_outlines(data, "tissue", None, info.size0, flat))
        if flat and not found:
            raise ValueError(
                f"a {' and a '.join(flat)} has no area; only Polygon and MultiPolygon can be tissue"
            )
    except OSError as err:
        raise _error(path, info, f"cannot be read: {err.strerror}") from err
    except RecursionError as err:
        raise _error(path, info, "is nested too deeply") from err
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise _error(path, info, f"is not JSON: {err}") from err
    except ValueError as err:
        raise _error(path, info, f"cannot be used: {err}") from err
    return Outlines(found, _flat_notes(path, flat))


def _flat_notes(path: Path, flat: Mapping[str, int]) -> tuple[str, ...]:
    if not flat:
        return ()
    each = ", ".join(f"{count} {form}" for form, count in flat.items())
    return (f"{path.name}: what has no area is left out ({each}).",)


def _of_class(node: Any, name: str) -> list[Any]:
    """Geometries of the features of one class."""
    if isinstance(node, list):
        return [shape for item in node for shape in _of_class(item, name)]
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise ValueError("it is not GeoJSON (an object with a 'type')")
    if node["type"] == "FeatureCollection":
        return _of_class(_list(node, "features"), name)
    if node["type"] != "Feature":
        raise ValueError(f"a {node['type']} by itself has no class")
    same = _class_name(node).strip().casefold() == name
    return [node["geometry"]] if same and node.get("geometry") is not None else []


def _outlines(
    node: Any, kind: Kind, section: int | None, size0: Size, flat: Counter[str]
) -> Iterator[Outline]:
    """Polygons below a node; geometries without an area are counted in `flat`."""
    if isinstance(node, list):
        for item in node:
            yield from _outlines(item, kind, section, size0, flat)
        return
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise ValueError("it is not GeoJSON (an object with a 'type')")
    form = node["type"]
    if form == "FeatureCollection":
        yield from _outlines(_list(node, "features"), kind, section, size0, flat)
    elif form == "Feature":
        name = _class_name(node).lower()
        if node.get("geometry") is not None:
            seen: Kind = KINDS.get(name, "tissue")
            own = _section(node) if seen == "tissue" else None
            yield from _outlines(node["geometry"], seen, own, size0, flat)
    elif form == "GeometryCollection":
        yield from _outlines(_list(node, "geometries"), kind, section, size0, flat)
    elif form == "Polygon":
        yield _polygon(_list(node, "coordinates"), kind, section, size0)
    elif form == "MultiPolygon":
        for polygon in _list(node, "coordinates"):
            yield _polygon(polygon, kind, section, size0)
    elif form in FLAT:
        flat[form] += 1
    else:
        raise ValueError(f"a {form} has no area; only Polygon and MultiPolygon can be tissue")


def _class_name(feature: dict[str, Any]) -> str:
    properties = feature.get("properties")
    classification = properties.get("classification") if isinstance(properties, dict) else None
    name = classification.get("name") if isinstance(classification, dict) else classification
    return name if isinstance(name, str) else ""


def _section(feature: dict[str, Any]) -> int | None:
    """The number of a section: QuPath writes measurements, in older versions as a list."""
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return None
    known = properties.get("measurements")
    if isinstance(known, list):
        known = {m.get("name"): m.get("value") for m in known if isinstance(m, dict)}
    value = known.get("section") if isinstance(known, dict) else None
    value = properties.get("section") if value is None else value
    if value is None:
        return None
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    if not whole or not 1 <= value <= MAX_SECTION:
        raise ValueError(f"a section is numbered {value!r} instead of 1, 2, 3 …")
    return int(value)


def _list(node: dict[str, Any], key: str) -> list[Any]:
    value = node.get(key)
    if not isinstance(value, list):
        raise ValueError(f"a {node['type']} has no list '{key}'")
    return value


def _polygon(rings: Any, kind: Kind, section: int | None, size0: Size) -> Outline:
    if not isinstance(rings, list) or not rings:
        raise ValueError("a polygon has no rings")
    return Outline(tuple(_ring(ring, size0) for ring in rings), kind, section)


def _ring(ring: Any, size0: Size) -> NDArray[np.float64]:
    try:
        points = np.array([(float(p[0]), float(p[1])) for p in ring], dtype=np.float64)
    except (TypeError, IndexError, KeyError, ValueError, OverflowError) as err:
        raise ValueError("a ring is not a list of [x, y] pairs of numbers") from err
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < 3:
        raise ValueError(f"a ring has {len(points)} corners instead of at least 3")
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not a finite number")
    size = np.array([size0.width, size0.height])
    far = (points < -size) | (points > 2 * size)
    if far.any():
        x, y = points[far.any(axis=1)][0]
        raise ValueError(
            f"the corner ({x:g}, {y:g}) lies far outside the slide"
            f" ({size0.width} x {size0.height}); coordinates are level-0 pixels"
        )
    return points


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"a coordinate is {name}")


def _error(path: Path, info: SlideInfo, why: str) -> TissueInputError:
    return TissueInputError(f"GeoJSON {path} {why}.", slide=info.id, stage="tissue", hint=HINT)


def _refuse(path: Path, info: SlideInfo, why: str) -> NoReturn:
    raise _error(path, info, why)
