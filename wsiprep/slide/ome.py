"""What the XML of an OME-TIFF says: its scale, and whether its channels are apart.

Source: OME schema 2016-06, attributes PhysicalSizeX/Y and their units of `Pixels`; the unit is µm
where none is given; SizeC. The attributes are picked out by pattern: an XML parser would meet
entities.
"""

from __future__ import annotations

import re

__all__ = ["channels_apart", "ome_mpp"]

_SEARCHED = 1 << 20
_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)>")


def ome_mpp(description: object) -> tuple[float | None, float | None]:
    """µm per pixel along x and y of the first image of an OME description; None where unsaid.

    Args:
        description: TIFF ImageDescription, or None.
    """
    attributes = _pixels(description)
    x, y = (_size(attributes, axis) for axis in "XY")
    return x, y


def channels_apart(description: object, samples_per_pixel: int) -> str | None:
    """What an OME-TIFF is whose channels are pages of their own; None where they are not.

    The first page of such a file is one of its channels, not the picture in grey.

    Args:
        description: TIFF ImageDescription of the first page, or None.
        samples_per_pixel: Channels of that page.
    """
    channels = re.search(r'\bSizeC\s*=\s*"(\d{1,9})"', _pixels(description))
    if channels is None or int(channels[1]) <= samples_per_pixel:
        return None
    return f"an OME-TIFF of {channels[1]} channels that are pages of their own"


def _pixels(description: object) -> str:
    """Attributes of the first `Pixels` of an OME description; empty where it is none."""
    if not isinstance(description, str) or "<OME" not in description[:_SEARCHED]:
        return ""
    pixels = _PIXELS.search(description[:_SEARCHED])
    return pixels[1] if pixels else ""


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
