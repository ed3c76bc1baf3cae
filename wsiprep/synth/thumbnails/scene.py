"""What a thumbnail is to show: numbers that span what laboratories send, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsiprep.synth.thumbnails.layouts import LAYOUTS
from wsiprep.synth.thumbnails.stains import STAINS, Stain

__all__ = ["MOST_INKS", "Scene", "sample_scene"]

MOST_INKS = 3
"""Groups of pen strokes on a thumbnail, at most."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A thumbnail to draw.

    Attributes:
        seed: Of everything that is not said here.
        mpp: µm per pixel.
        layout: Key of `layouts.LAYOUTS`.
        stain: Key of `stains.STAINS`, or a name of `own`.
        share: Of the picture that is tissue, about.
        softness_px: Width of the border from tissue to glass.
        strength: Of the stain: 1 is usual, 0.3 pale, 2 dark.
        patchiness: How different parts of the tissue are, 0 to 1.
        colourfulness: 0 is grey, 1 the dyes as they are.
        fat: Share of the tissue that is fat.
        holes: Share of the tissue that is torn or washed out.
        real: Share of the tissue's colours that comes from real pictures, where there are any.
        inks: Pen strokes of so many groups.
        edges: Coverslip edges.
        bubbles: Air bubbles.
        dust: Specks and fibres.
        folds: Folds of the tissue.
        border: Black or white frame of the scan.
        own: The stain, where it is none of `stains.STAINS`.
    """

    seed: int
    mpp: float
    layout: str
    stain: str
    share: float
    softness_px: float
    strength: float
    patchiness: float
    colourfulness: float
    fat: float
    holes: float
    real: float
    inks: int
    edges: int
    bubbles: int
    dust: int
    folds: int
    border: bool
    own: Stain | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or (self.stain in STAINS) == (self.own is not None):
            raise ValueError(
                f"there is no layout '{self.layout}', or '{self.stain}' is not one stain"
            )

    @property
    def dyes(self) -> Stain:
        """The stain itself."""
        return STAINS[self.stain] if self.own is None else self.own


def sample_scene(
    seed: int, stains: Sequence[str] = tuple(STAINS), own: Mapping[str, Stain] | None = None
) -> Scene:
    """The scene of a seed: each measure anywhere from low to high, artefacts now and then.

    Args:
        seed: The same seed gives the same scene.
        stains: Names to choose from.
        own: Stains by name that are none of `stains.STAINS`.
    """
    rng = np.random.default_rng([seed, 7])
    odds = np.array([layout.odds for layout in LAYOUTS.values()], float)
    layout = str(rng.choice(list(LAYOUTS), p=odds / odds.sum()))
    known = {**STAINS, **(own or {})}
    dyed = np.array([known[name].odds for name in stains])

    def often(chance: float, most: int) -> int:
        return int(rng.integers(1, most + 1)) if rng.random() < chance else 0

    mpp = float(np.exp(rng.uniform(np.log(6), np.log(32))))
    stain = str(rng.choice(list(stains), p=dyed / dyed.sum()))
    return Scene(
        seed=seed,
        mpp=mpp,
        layout=layout,
        stain=stain,
        share=float(rng.uniform(0.02, 0.12) if rng.random() < 0.3 else rng.uniform(0.1, 0.8)),
        softness_px=float(np.exp(rng.uniform(np.log(0.6), np.log(5)))),
        strength=float(np.clip(np.exp(rng.normal(-0.15, 0.6)), 0.13, 2.2)),
        patchiness=float(rng.uniform(0, 1)),
        colourfulness=float(np.clip(rng.normal(0.95, 0.2), 0.35, 1.2)),
        fat=float(rng.uniform(0.1, 1.0)) if rng.random() < 0.4 else 0.0,
        holes=float(rng.uniform(0, 0.3)) if rng.random() < 0.5 else 0.0,
        real=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.4 else 0.0,
        inks=often(0.4, MOST_INKS),
        edges=often(0.25, 2),
        bubbles=often(0.15, 3),
        dust=often(0.5, 40),
        folds=often(0.3, 4),
        border=bool(rng.random() < 0.12),
        own=(own or {}).get(stain),
    )
