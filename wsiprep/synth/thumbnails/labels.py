"""What the pixels of a thumbnail are, as bits: a pixel may be several things, or unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "Thumbnail"]

CLASSES: Final = ("tissue", "pen", "edge", "fold")
"""Class k is bit k: 1 << k. `edge` is what is neither tissue nor clean glass."""


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """A picture and its labels.

    Attributes:
        pixels: uint8 (h, w, 3) RGB.
        label: uint8 (h, w), a bit for each of `CLASSES`.
        known: uint8 (h, w), the same bits: where it is known whether a pixel is of the class.
            Under opaque ink nobody can tell whether there is tissue.
        mpp: µm per pixel.
    """

    pixels: NDArray[np.uint8]
    label: NDArray[np.uint8]
    known: NDArray[np.uint8]
    mpp: float

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Where a class is, bool (h, w)."""
        return np.asarray(self.label & (1 << CLASSES.index(name)), dtype=np.bool_)

    def known_of(self, name: str) -> NDArray[np.bool_]:
        """Where it is known whether a class is there, bool (h, w)."""
        return np.asarray(self.known & (1 << CLASSES.index(name)), dtype=np.bool_)
