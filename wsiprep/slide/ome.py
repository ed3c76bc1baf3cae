"""The scale in the XML of an OME-TIFF.

Source: OME schema 2016-06, attributes PhysicalSizeX/Y and their units of `Pixels`; the unit is µm
where none is given. The attributes are picked out by pattern: an XML parser would meet entities.
"""

from __future__ import annotations

import re

__all__ = ["ome_mpp"]

_SEARCHED = 1 << 20
_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)>")


def ome_mpp(description: object) -> tuple[float | None, float | None]:
    """µm per pixel along x and y of the first image of an OME description; None where unsaid.

    Args:
        description: TIFF ImageDescription, or None.
    """
    if not isinstance(description, str) or "<OME" not in description[:_SEARCHED]:
        return None, None
    pixels = _PIXELS.search(description[:_SEARCHED])
    if pixels is None:
        return None, None
    x, y = (_size(pixels[1], axis) for axis in "XY")
    return x, y


def _size(attributes: str, axis: str) -> float | None:
    size = re.search(rf'\bPhysicalSize{axis}\s*=\s*"([^"]*)"', attributes)
    unit = re.search(rf'\bPhysicalSize{axis}Unit\s*=\s*"([^"]*)"', attributes)
    factor = _UM.get(unit[1].strip() if unit else "µm")
    if size is None or factor is None:
        return None
    try:
        return float(size[1]) * factor
    except ValueError:
        return None
