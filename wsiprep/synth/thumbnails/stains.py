"""Stains as pairs of dyes: optical density in red, green and blue of a unit of each.

Values are about those of published stain vectors (see `synth.stain` for haematoxylin and eosin) or
of the dyes' absorption; `draw` varies them by slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

__all__ = ["HELD_OUT", "STAINS", "Stain"]

# Bounds are for stains that users write; see `train.tissue.stains`.
Depth = Annotated[float, Field(ge=0, le=2)]
Amount = Annotated[float, Field(gt=0, le=1)]
RGB = tuple[Depth, Depth, Depth]


@dataclass(frozen=True, slots=True)
class Stain:
    """Two dyes and how much of them tissue takes up.

    Attributes:
        nuclear: Optical density of a unit of the dye of nuclei (or of the chromogen).
        counter: The same of the dye of the rest.
        amount: Usual amounts of the two, as areas seen from far.
        odds: How often it is drawn, against the others.
        any_colour: Each slide has two dyes of its own; those said here only bound their depth.
    """

    nuclear: RGB
    counter: RGB
    amount: tuple[Amount, Amount]
    odds: Annotated[float, Field(gt=0, le=1000)] = 1.0
    any_colour: bool = False


_HAEM: Final = (0.62, 0.71, 0.33)
_EOSIN: Final = (0.12, 0.86, 0.46)

STAINS: Final[dict[str, Stain]] = {
    "he": Stain(_HAEM, _EOSIN, (0.30, 0.35), 4),
    "he-pink": Stain((0.55, 0.73, 0.40), (0.07, 0.90, 0.40), (0.14, 0.42), 3),
    "he-purple": Stain((0.66, 0.70, 0.24), (0.25, 0.85, 0.40), (0.42, 0.22), 2),
    "he-blue": Stain((0.75, 0.58, 0.18), (0.20, 0.80, 0.52), (0.36, 0.18), 2),
    "he-brownish": Stain((0.50, 0.68, 0.52), (0.14, 0.74, 0.62), (0.28, 0.34)),
    "he-faint": Stain(_HAEM, _EOSIN, (0.07, 0.10), 2),
    "ihc-dab": Stain((0.27, 0.57, 0.78), (0.60, 0.55, 0.30), (0.26, 0.13), 2),
    "ihc-dab-weak": Stain((0.30, 0.55, 0.75), (0.62, 0.52, 0.26), (0.05, 0.10), 2),
    "ihc-red": Stain((0.10, 0.85, 0.62), (0.62, 0.54, 0.28), (0.20, 0.12)),
    "ihc-negative": Stain((0.64, 0.55, 0.24), (0.45, 0.40, 0.25), (0.10, 0.06), 2),
    "pas": Stain((0.62, 0.66, 0.30), (0.20, 0.92, 0.34), (0.18, 0.34)),
    "masson-blue": Stain((0.80, 0.50, 0.15), (0.22, 0.82, 0.48), (0.26, 0.30)),
    "masson-green": Stain((0.82, 0.30, 0.50), (0.20, 0.78, 0.55), (0.26, 0.24)),
    "alcian": Stain((0.88, 0.36, 0.16), (0.24, 0.76, 0.36), (0.18, 0.16)),
    "giemsa": Stain((0.80, 0.62, 0.14), (0.38, 0.72, 0.30), (0.34, 0.20)),
    "toluidine": Stain((0.86, 0.62, 0.12), (0.70, 0.58, 0.16), (0.30, 0.14)),
    "van-gieson": Stain((0.46, 0.56, 0.60), (0.08, 0.66, 0.72), (0.16, 0.36)),
    "congo": Stain((0.60, 0.62, 0.30), (0.10, 0.70, 0.74), (0.10, 0.22)),
    "silver": Stain((0.62, 0.66, 0.72), (0.18, 0.36, 0.62), (0.30, 0.20)),
    "prussian": Stain((0.84, 0.46, 0.18), (0.10, 0.62, 0.40), (0.07, 0.20)),
    "movat": Stain((0.58, 0.44, 0.52), (0.14, 0.52, 0.80), (0.28, 0.24)),
    "fuchsin": Stain((0.74, 0.50, 0.16), (0.12, 0.90, 0.30), (0.12, 0.24)),
    "any": Stain((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), (0.26, 0.20), 8, any_colour=True),
}
"""Every stain by name. `any` is of no laboratory: it teaches that colour alone decides nothing."""

HELD_OUT: Final = ("he-brownish", "ihc-red", "masson-green", "toluidine", "silver", "prussian")
"""Stains that the shipped network has not seen; `benchmarks/tissue.py` reports on them."""
