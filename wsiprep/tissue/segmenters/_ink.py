"""Pen marks: ink has hues and densities that tissue stains do not reach.

Hues are angles on the opponent axes of `_colour` (measured on thumbnails of the field): eosin 120
to 160, haematoxylin 50 to 105, DAB 195 to 220; green and teal pens -75 to 25, blue pens 25 to 58,
red pens 148 to 195. Blue and red pens overlap with haematoxylin and eosin in hue and exceed them
in density. Black pens are dark and without hue.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.tissue.regions import area_at_least, dilate, erode, pieces_with
from wsiprep.tissue.segmenters._colour import Density

__all__ = ["find_ink"]

Mask = NDArray[np.bool_]

WORK_UM = 16.0
"""Resolution at which ink is looked for, where the thumbnail is finer."""
SEED_AREA_UM2 = 15000.0
"""Smaller spots of ink colour are pigment, haemosiderin or dust."""
STROKE_AREA_UM2 = 60000.0
"""Smaller red spots near a red pen, but not joined to it, are blood."""
GREEN_SEED, GREEN_EDGE = 0.06, 0.03
BLUE_SEED, BLUE_EDGE, BLUE_OVER_TISSUE = 0.25, 0.15, 0.3
RED_SEED, RED_EDGE = 0.38, 0.12
RED_EXCESS = 1.6
"""Red ink is so much denser than the upper quartile of the slide's own stain."""
BLACK_SEED, BLACK_EDGE = 0.6, 0.4
REACH_UM = 3000.0
"""How far from sure ink its paler parts (dry strokes) are looked for."""
RIM_UM = 20.0
"""Rim of a stroke that is mixed with what lies beside it."""


def find_ink(density: Density, usable: Mask, mpp: float) -> Mask:
    """Find red, green, blue and black pen.

    Args:
        density: Optical densities of the thumbnail.
        usable: bool (h, w), False on black borders.
        mpp: µm per pixel.

    Returns:
        bool (h, w), True on ink, its rim included.
    """
    # Strokes are wide: 16 µm pixels show them as well, at a quarter of the cost.
    factor = max(1, int(WORK_UM / mpp))
    if factor == 1:
        return _find(density, usable, mpp)
    coarse = density.coarser(factor)
    size = coarse.grey.shape[::-1]
    usable_coarse = cv2.resize(usable.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    ink = _find(coarse, usable_coarse, mpp * factor).astype(np.uint8)
    fine = cv2.resize(ink, usable.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return np.asarray(fine & usable)


def _find(density: Density, usable: Mask, mpp: float) -> Mask:
    """`find_ink` at the resolution of the density."""
    chroma, hue = density.chroma, density.hue_deg
    speck_px = SEED_AREA_UM2 / mpp**2
    green = (hue >= 285) | (hue < 25)
    blue = (hue >= 25) & (hue < 58)
    red = (hue >= 148) & (hue < 195)
    black = chroma < 0.22 * density.grey

    ink = np.zeros(usable.shape, dtype=np.bool_)
    seed = area_at_least(green & (chroma > GREEN_SEED) & usable, speck_px)
    if seed.any():
        ink |= _grow(seed, green & (chroma > GREEN_EDGE), mpp)
    seed = area_at_least(blue & (chroma > BLUE_SEED) & usable, speck_px)
    if seed.any():
        # Along a blue stroke over tissue the hue turns towards green or haematoxylin.
        mixed = (hue < 75) & (chroma > BLUE_OVER_TISSUE)
        ink |= _grow(seed, ((green | blue) & (chroma > BLUE_EDGE)) | mixed, mpp)
    seed = area_at_least(red & (chroma > RED_SEED) & usable, speck_px)
    if seed.any():
        edge = _red_edge(chroma, red, seed, usable, mpp)
        ink |= _grow(seed, red & (chroma > edge), mpp)
    # A stroke is wide; a fold, a scratch or a grain of pigment is not.
    dark = black & (density.grey > BLACK_SEED) & usable
    if dark.any():
        seed = erode(dark, 32.0 / mpp)
        ink |= pieces_with((density.grey > BLACK_EDGE) & black & usable, seed)
    if not ink.any():
        return ink
    return dilate(ink & usable, max(1.0, RIM_UM / mpp)) & usable


def _grow(seed: Mask, edge: Mask, mpp: float) -> Mask:
    """Add the paler ink near sure ink: what hangs on to it, and strokes broken off from it."""
    pale = seed | (edge & dilate(seed, REACH_UM / mpp))
    return pieces_with(pale, seed) | area_at_least(pale, STROKE_AREA_UM2 / mpp**2)


def _red_edge(
    chroma: NDArray[np.float32], red: Mask, seed: Mask, usable: Mask, mpp: float
) -> float:
    """Density above which red near a red pen is ink: more than this slide's own eosin has."""
    far = usable & ~dilate(seed | (red & (chroma > RED_SEED)), 40.0 / mpp)
    stained = chroma[far & (chroma > 0.04) & (chroma < RED_SEED)][::5]
    if stained.size < 100:
        return RED_EDGE
    return float(np.clip(RED_EXCESS * np.percentile(stained, 75), RED_EDGE, RED_SEED))
