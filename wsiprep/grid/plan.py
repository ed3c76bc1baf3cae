"""From a resolution asked for to what is read: level, read size, resize factor, achieved mpp."""

from __future__ import annotations

from wsiprep.core.errors import UpsamplingError
from wsiprep.core.types import ReadPlan, SlideInfo
from wsiprep.grid.config import GridConfig

__all__ = ["make_plan", "plan_for"]


def plan_for(info: SlideInfo, cfg: GridConfig) -> ReadPlan:
    """How patches with these settings are read from a slide; see `make_plan`.

    Raises:
        UpsamplingError: the slide is coarser than asked and upsampling is not allowed.
    """
    return make_plan(
        info,
        cfg.mpp,
        cfg.patch_size,
        tolerance=cfg.mpp_tolerance,
        allow_upsampling=cfg.allow_upsampling,
    )


def make_plan(
    info: SlideInfo,
    mpp: float,
    patch_px: int,
    *,
    tolerance: float,
    allow_upsampling: bool = False,
) -> ReadPlan:
    """Choose how patches of `patch_px` pixels at `mpp` µm/px are read from a slide.

    1. Levels whose own mpp times a whole number k comes within `tolerance` of the request need
       no fractional resampling. The smallest k wins (k = 1 is a native read), then the smaller
       error. What is achieved is `k * level mpp`, not the request.
    2. Otherwise the coarsest level that is still finer than the request is read and resized by
       a fraction; the achieved mpp follows from whole read pixels.
    3. A request finer than level 0 is refused, unless upsampling is allowed by name.

    Args:
        info: The slide; `info.mpp` and `info.downsamples` are used.
        mpp: Resolution asked for, µm/px.
        patch_px: Side of the patch in pixels of that resolution.
        tolerance: Relative miss of the resolution that rule 1 may accept.
        allow_upsampling: Magnify level 0 where the slide is coarser than asked.

    Raises:
        UpsamplingError: the slide is coarser than asked and upsampling is not allowed.
    """
    whole: list[tuple[int, float, int]] = []
    for level, downsample in enumerate(info.downsamples):
        level_mpp = info.mpp * downsample
        factor = max(1, round(mpp / level_mpp))
        miss = abs(factor * level_mpp / mpp - 1)
        if miss <= tolerance + 1e-9:
            whole.append((factor, miss, level))
    if whole:
        factor, _, level = min(whole)
        downsample = info.downsamples[level]
        return ReadPlan(
            level=level,
            read_px=patch_px * factor,
            resize=float(factor),
            patch_px=patch_px,
            side0_px=patch_px * factor * downsample,
            mpp_requested=mpp,
            mpp=info.mpp * downsample * factor,
            rule="native" if factor == 1 else "whole",
        )

    finer = [i for i, d in enumerate(info.downsamples) if info.mpp * d <= mpp]
    if not finer and not allow_upsampling:
        raise UpsamplingError(
            f"{mpp:g} µm/px was asked, but the slide has nothing finer than {info.mpp:.4g} µm/px.",
            slide=info.id,
            stage="grid",
            hint=f"Ask for --mpp {info.mpp:.4g} or coarser, or pass --allow-upsampling.",
        )
    level = finer[-1] if finer else 0
    downsample = info.downsamples[level]
    read_px = max(1, round(patch_px * mpp / (info.mpp * downsample)))
    return ReadPlan(
        level=level,
        read_px=read_px,
        resize=read_px / patch_px,
        patch_px=patch_px,
        side0_px=read_px * downsample,
        mpp_requested=mpp,
        mpp=info.mpp * downsample * read_px / patch_px,
        rule="fractional",
    )
