"""What a pixel of a synthetic slide is."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CLASS_NAMES", "TISSUE_CLASSES", "TissueClass"]


class TissueClass(IntEnum):
    """Labels of `SyntheticSlide.truth`."""

    GLASS = 0
    STROMA = 1
    GLAND = 2
    LYMPHOCYTES = 3
    ADIPOSE = 4
    PEN = 5


CLASS_NAMES: tuple[str, ...] = tuple(label.name.lower() for label in TissueClass)
"""Name of each label, at the index of its value."""

TISSUE_CLASSES: tuple[TissueClass, ...] = (
    TissueClass.STROMA,
    TissueClass.GLAND,
    TissueClass.LYMPHOCYTES,
    TissueClass.ADIPOSE,
)
"""The labels that are tissue: neither glass nor ink."""
