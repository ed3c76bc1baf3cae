"""How sharp each patch is, measured on the slide at about 2 µm/px.

Tissue in focus has much detail of a few µm; what is out of focus has lost it, but still has the
coarser structure. The measure is the ratio of the two in optical density, so that neither the
strength of the stain nor the exposure enters: both scale fine and coarse contrast alike. (That the
share of fine detail in the spectrum tells focus is the ground of autofocus functions: Firestone et
al., Cytometry 12:195-206, 1991.)

    focus = rms(od - G2 od) / sqrt(rms(G2 od - G16 od)^2 + FLOOR^2)

over the pixels that are not glass, where G is a Gaussian blur with sigma in µm. On H&E, sharp
patches lie at 0.6 to 1.2; a further blur of 1, 2, 3 and 4 µm takes the median to about 0.58, 0.31,
0.19 and 0.13. `RECOMMENDED` parts patches with detail of single nuclei from those without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.types import PatchGrid, ReadPlan, SlideInfo
from wsiprep.grid.plan import make_plan
from wsiprep.tiles.stream import stream_tiles

__all__ = ["COARSEST_MPP", "RECOMMENDED", "focus_note", "focus_of", "measure_focus"]

RECOMMENDED = 0.35
"""A value for `--min-focus` that keeps sharp H&E and drops what is blurred by some 2 µm or more."""
COARSEST_MPP = 1.1
"""µm/px of a slide above which sharpness is not measured: pixels as large as the detail that is
asked for leave none to sharp tissue. Values were looked at up to 1 µm/px, that of a 10x scan."""
FOCUS_MPP = 2.0
FINE_UM, COARSE_UM = 2.0, 16.0
LEAST_SIDE_UM = 64.0
"""Smaller patches are judged with what surrounds them: coarse structure does not fit into them."""
GLASS_OD = 0.06
"""Mean optical density within some µm below which there is glass."""
LEAST_SHARE = 0.02
"""Share of a patch that must not be glass, for it to be measured."""
FLOOR_OD = 0.01
"""Contrast below which there is no structure, so that noise does not pass for detail."""
BATCH = 64


def focus_note(info: SlideInfo) -> str | None:
    """Why the sharpness of this slide's patches is not measured; None where it is."""
    if info.mpp <= COARSEST_MPP:
        return None
    return f"focus is not measured at {info.mpp:.3g} µm/px: no value, and no patch dropped by it"


def measure_focus(
    slide: Slide,
    grid: PatchGrid,
    *,
    workers: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Sharpness of every patch, by streaming the slide once at a coarse resolution.

    Args:
        slide: An open slide.
        grid: The patches.
        workers: Reading threads, as of `stream_tiles`.
        on_batch: Told the number of patches after each batch; may raise to stop.

    Returns:
        float32 (N,); NaN where a patch cannot be read or holds hardly any tissue, and everywhere
        on a slide coarser than `COARSEST_MPP`.
    """
    score = np.full(len(grid), np.nan, np.float32)
    if focus_note(slide.info) is not None:
        return score
    plan = _coarse_plan(slide.info, grid.plan.side0_px)
    shift = (grid.plan.side0_px - plan.side0_px) / 2
    origin0_px = np.rint(grid.origin0_px + shift).astype(np.int64)
    coarse = replace(grid, plan=plan, origin0_px=origin0_px)
    spans = [(start, min(start + BATCH, len(grid))) for start in range(0, len(grid), BATCH)]
    for batch in stream_tiles(slide.reopen, coarse, spans, workers=workers, on_bad_tile="mask"):
        for row in np.flatnonzero(batch.ok).tolist():
            score[batch.index[row]] = focus_of(batch.pixels[row], plan.mpp)
        on_batch(len(batch.index))
    return score


def focus_of(pixels: NDArray[np.uint8], mpp: float) -> float:
    """Sharpness of one picture; see the module.

    Args:
        pixels: uint8 (h, w, 3) RGB.
        mpp: Its µm/px, about 2 or finer.

    Returns:
        0 (no detail) to about 1.2; NaN where there is hardly anything but glass.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    density = -np.log((grey + 1.0) / 256.0)

    def blurred(um: float) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(density, (0, 0), um / mpp))

    smooth = blurred(FINE_UM)
    tissue = blurred(2 * FINE_UM) > GLASS_OD
    if tissue.mean() < LEAST_SHARE:
        return float("nan")
    fine = float(np.mean((density - smooth)[tissue] ** 2))
    coarse = float(np.mean((smooth - blurred(COARSE_UM))[tissue] ** 2))
    return float(np.sqrt(fine / (coarse + FLOOR_OD**2)))


def _coarse_plan(info: SlideInfo, side0_px: float) -> ReadPlan:
    """How about the same area as that of a patch is read at some 2 µm/px."""
    wanted = max(FOCUS_MPP, info.mpp)
    side_um = max(side0_px * info.mpp, LEAST_SIDE_UM)

    def plan(mpp: float) -> ReadPlan:
        return make_plan(info, wanted, max(8, round(side_um / mpp)), tolerance=0.25)

    # A whole-number factor may give another resolution than the one asked for.
    return plan(plan(wanted).mpp)
