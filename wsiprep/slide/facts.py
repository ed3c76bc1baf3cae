"""From what a reader found in a file to the `SlideInfo` that the rest of wsiprep sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wsiprep.core.errors import SlideOpenError
from wsiprep.core.types import Box, Size, SlideInfo
from wsiprep.slide.resolution import RawResolution, Resolution

__all__ = ["Facts", "Source", "keep_levels", "slide_info"]

SQUARE_LEVEL_TOLERANCE = 0.02
_NOTEWORTHY_LEVEL_PX = 256


@dataclass(frozen=True, slots=True)
class Source:
    """Which slide, and who opens it why.

    Attributes:
        slide_id: Name of the slide in outputs.
        uri: Path of the file or folder, as the user gave it.
        reader: Name of the reader.
        reason: Why this reader.
        fingerprint: See `slide/fingerprint.py`.
    """

    slide_id: str
    uri: str
    reader: str
    reason: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reader found, not yet checked.

    Attributes:
        sizes: (width, height) of every level in the reader's order, level 0 first.
        raw: What the file says about its scale.
        downsamples: Level-0 pixels per pixel of each level; the mean over both axes of the ratio
            of sizes where the reader does not know better.
        vendor: Scanner family, or None.
        bounds: Scanned part of level 0, or None where the format does not say.
        notes: Warnings for the user.
    """

    sizes: Sequence[tuple[int, int]]
    raw: RawResolution
    downsamples: Sequence[float] | None = None
    vendor: str | None = None
    bounds: Box | None = None
    notes: tuple[str, ...] = field(default=())


def keep_levels(
    sizes: Sequence[tuple[int, int]], downsamples: Sequence[float] | None = None
) -> tuple[list[int], list[float], list[str]]:
    """Levels that can be used: each coarser than the one before, and with square pixels.

    A level that repeats or reverses the order is left out, and so is one whose x and y scale
    differ by more than 2 %: "so many µm per pixel" would not be true of it. The last levels of a
    pyramid that goes down to one pixel are such, because of rounding.

    Returns:
        Indices of the kept levels, their downsamples, and notes on those left out (none for
        levels below 256 px).
    """
    w0, h0 = sizes[0]
    kept, scales, notes = [0], [1.0], []
    for level, (w, h) in enumerate(sizes[1:], start=1):
        if w <= 0 or h <= 0:
            continue
        sx, sy = w0 / w, h0 / h
        scale = (sx + sy) / 2 if downsamples is None else float(downsamples[level])
        if scale <= scales[-1] * (1 + 1e-6):
            continue
        if max(sx, sy) / min(sx, sy) > 1 + SQUARE_LEVEL_TOLERANCE:
            if max(w, h) > _NOTEWORTHY_LEVEL_PX:
                notes.append(
                    f"Pyramid level {level} ({w} x {h} px) is not used: it is reduced "
                    f"{sx:.4g}-fold in x and {sy:.4g}-fold in y."
                )
            continue
        kept.append(level)
        scales.append(_whole(scale, (w0, h0), (w, h)))
    return kept, scales, notes


def _whole(scale: float, size0: tuple[int, int], size: tuple[int, int]) -> float:
    """The whole number that a level was reduced by, where its size leaves no doubt.

    Scanners reduce by 2, 4 or 16 and drop or fill up the last row and column, so the ratio of
    sizes is 4.0001 where 4 is meant. Over 100,000 px that would shift patches by pixels against
    the level, and grids of different resolutions against each other.
    """
    fits = [
        k
        for k in range(max(1, int(scale) - 1), int(scale) + 3)
        if all(abs(n0 / k - n) < 1 for n0, n in zip(size0, size, strict=True))
    ]
    powers = [k for k in fits if k & (k - 1) == 0]
    chosen = fits if len(fits) == 1 else powers
    return float(chosen[0]) if len(chosen) == 1 else scale


def slide_info(
    source: Source, facts: Facts, resolution: Resolution
) -> tuple[SlideInfo, tuple[int, ...]]:
    """Put together what is known of a slide.

    Returns:
        The info, and for each of its levels the index that the reader knows it by.

    Raises:
        SlideOpenError: level 0 has no pixels.
    """
    if not facts.sizes or min(facts.sizes[0]) <= 0:
        raise SlideOpenError("level 0 has no pixels.", slide=source.slide_id, stage="slide")
    kept, scales, level_notes = keep_levels(facts.sizes, facts.downsamples)
    size0 = Size(*facts.sizes[0])
    info = SlideInfo(
        id=source.slide_id,
        uri=source.uri,
        reader=source.reader,
        reader_reason=source.reason,
        vendor=facts.vendor,
        size0=size0,
        mpp=resolution.mpp,
        mpp_source=resolution.source,
        objective=resolution.objective,
        downsamples=tuple(scales),
        level_sizes=tuple(Size(*facts.sizes[level]) for level in kept),
        bounds0=_inside(facts.bounds, size0),
        fingerprint=source.fingerprint,
        notes=(*facts.notes, *level_notes, *resolution.notes),
    )
    return info, tuple(kept)


def _inside(bounds: Box | None, size0: Size) -> Box:
    """Bounds clipped to level 0; the whole of it where they say nothing useful."""
    whole = Box(0, 0, size0.width, size0.height)
    if bounds is None:
        return whole
    x0, y0 = max(0, bounds.x), max(0, bounds.y)
    x1 = min(size0.width, bounds.x + bounds.width)
    y1 = min(size0.height, bounds.y + bounds.height)
    return Box(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else whole
