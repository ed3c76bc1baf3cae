"""Classical segmenter: Otsu's threshold on the amount of dye, with guards.

1. Black borders and white padding are set aside; a dark image without glass is reported.
2. The colour of the glass is estimated, and pixels become optical densities relative to it, split
   into grey density and dye (`_colour`). What is grey (coverslip edges, shading, dust, scratches)
   has no dye. A slowly varying cast of the background is levelled.
3. Pen ink is recognised by hue and density (`_ink`) and set aside.
4. Otsu's method (IEEE Trans. SMC 1979) splits dye densities. The threshold is held between a
   floor, above the noise measured on the glass and above an absolute contrast, and a ceiling, so
   that noise on an empty slide is not split in two and dark tissue does not hide pale tissue.
5. Lacunae narrower than `close_um` on either side are closed (fat becomes one area), and what is
   thinner than `thin_um` is dropped.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsiprep.core.config import Settings
from wsiprep.core.contracts import Segmenter
from wsiprep.core.types import Segmentation
from wsiprep.tissue.regions import area_at_least, close, erode, pieces_with
from wsiprep.tissue.segmenters._colour import (
    DARK_NOTE,
    Density,
    Glass,
    black_frame,
    brightest,
    dark_background,
    densities,
    find_glass,
    level_background,
    with_blur,
)
from wsiprep.tissue.segmenters._ink import find_ink

__all__ = ["VERSION", "Config", "OtsuSegmenter", "create"]

VERSION = 2
"""Raised whenever the same thumbnail would give another mask."""

Mask = NDArray[np.bool_]

CEILING = 0.025
"""Highest threshold: pale eosin and the septa of fat lie about here."""
HYSTERESIS = 0.6
"""Paler pixels count down to this share of the threshold, where they hang on to tissue."""
UNLIT = 8
"""Brightest channel of what no light came through, wherever it lies."""
SMOOTH_UM = 8.0
SPECK_UM2 = 400.0
"""Smaller spots are noise even beside others; less where `thin_um` allows for lone cells."""
HISTOGRAM_TOP = 0.15
"""Densities above count as this, so that very dark tissue does not pull the threshold up."""
DRIFT_CELL_UM = 256.0
DRIFT_SIGMA_CELLS = 8.0


class Config(Settings):
    """Options of the segmenter `otsu`."""

    min_contrast: float = Field(default=0.016, gt=0, le=0.5)
    """Least dye (optical density) that is tissue; lower finds paler tissue and more dirt."""
    close_um: float = Field(default=80.0, ge=0, le=1000)
    """Radius in µm of gaps that are closed: lacunae of fat up to twice this become tissue."""
    thin_um: float = Field(default=20.0, ge=0, le=500)
    """Half the width in µm below which a lone streak is not tissue."""
    pen: bool = True
    """Look for pen ink. Switch off for stains as green or blue as ink (Masson, Alcian blue)."""


def create(cfg: Config) -> Segmenter:
    """Make the segmenter."""
    return OtsuSegmenter(cfg)


class OtsuSegmenter:
    """Otsu's threshold on dye density; see the module."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def segment(self, thumbnail: NDArray[np.uint8], mpp: float) -> Segmentation:
        """Find tissue and pen.

        Args:
            thumbnail: uint8 (h, w, 3) RGB of the whole slide.
            mpp: Its µm/px.
        """
        thumbnail = np.ascontiguousarray(thumbnail)
        nothing = np.zeros(thumbnail.shape[:2], dtype=np.bool_)
        unlit = area_at_least(brightest(thumbnail) <= UNLIT, 4000.0 / mpp**2)
        black = black_frame(thumbnail, mpp) | with_blur(unlit, mpp)
        if dark_background(thumbnail):
            return Segmentation(nothing, nothing.copy(), notes=(DARK_NOTE,))
        glass = find_glass(thumbnail, ~black)
        usable = ~(black | glass.padding)
        density = densities(thumbnail, glass, SMOOTH_UM / mpp)
        ink = find_ink(density, usable, mpp) if self.cfg.pen else nothing.copy()
        free = usable & ~ink
        if glass.seen.size:
            rough = density.chroma > self._threshold(density, glass, free)
            density = level_background(
                density,
                free & ~rough,
                max(1, round(DRIFT_CELL_UM / mpp)),
                DRIFT_SIGMA_CELLS,
                self.cfg.min_contrast,
            )
        tissue = self._shape(density.chroma, self._threshold(density, glass, free), free, mpp)
        return Segmentation(tissue, ink, notes=_notes(tissue, ink, mpp))

    def _threshold(self, density: Density, glass: Glass, free: Mask) -> float:
        """Dye density that parts glass from tissue."""
        floor = self.cfg.min_contrast
        dye = density.chroma
        on_glass = dye.ravel()[glass.seen][free.ravel()[glass.seen]]
        if on_glass.size:
            # On pure noise the length on two axes is Rayleigh distributed: median 1.18 sigma.
            noise = float(np.median(on_glass)) / 1.177
            floor = max(floor, min(5.0 * noise, CEILING))
        step = max(1, round((dye.size / 500_000) ** 0.5))
        values = dye[::step, ::step][free[::step, ::step]]
        if values.size == 0:
            return floor
        scaled = np.minimum(values * (255.0 / HISTOGRAM_TOP), 255.0).astype(np.uint8)
        level, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        return float(np.clip(level * HISTOGRAM_TOP / 255.0, floor, max(floor, CEILING)))

    def _shape(self, dye: NDArray[np.float32], threshold: float, free: Mask, mpp: float) -> Mask:
        """Threshold with hysteresis, then close lacunae and drop specks and streaks."""
        low = (dye > HYSTERESIS * threshold) & free
        tissue = pieces_with(low, (dye > threshold) & free)
        speck_um2 = min(SPECK_UM2, np.pi * self.cfg.thin_um**2)
        tissue = area_at_least(tissue, speck_um2 / mpp**2)
        tissue = close(tissue, self.cfg.close_um / mpp)
        tissue = pieces_with(tissue, erode(tissue, self.cfg.thin_um / mpp))
        return tissue & free


def _notes(tissue: Mask, ink: Mask, mpp: float) -> tuple[str, ...]:
    """Say what a user should know of this slide."""
    found = int(tissue.sum())
    inked = int(ink.sum())
    notes: list[str] = []
    if inked > 0.5 * found and inked * mpp**2 > 25e6:
        notes.append(
            f"{inked * mpp**2 / 1e6:.0f} mm² have the colour of pen ink against"
            f" {found * mpp**2 / 1e6:.0f} mm² of tissue; if that is the stain, use"
            " --segmenter-option pen=false."
        )
    return tuple(notes)
