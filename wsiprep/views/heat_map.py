"""A heat map over the slide: how well each patch fits a text."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size, TissueMask
from wsiprep.views.overlay import caption_strip, fit_thumbnail

__all__ = ["draw_heat_map", "shown_share", "tissue_silhouette"]

Picture = NDArray[np.uint8]

LOW_QUANTILE: Final = 0.02
HIGH_QUANTILE: Final = 0.99
"""Scores at and beyond these quantiles have the first and the last colour."""
GREY: Final = 0.85
"""How far the picture is faded to grey, so that the heat is what has colour."""
LEAST_TINT: Final = 0.15
MOST_TINT: Final = 0.75
"""Opacity of the lowest and the highest patches: tissue is seen where nothing is claimed."""
GLASS_RGB: Final = (255, 255, 255)
TISSUE_RGB: Final = (214, 205, 214)
OUTLINE_RGB: Final = (0, 0, 0)
BAR_STEPS: Final = 64


def shown_share(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores between their quantiles, for display alone: float64 (N,), 0 to 1.

    Args:
        scores: float32 (N,), finite; equal ones all give 0.
    """
    low, high = _ends(scores)
    if high <= low:
        return np.zeros(len(scores))
    return np.clip((scores.astype(np.float64) - low) / (high - low), 0, 1)


def draw_heat_map(
    thumbnail: Picture,
    boxes0_px: NDArray[np.float64],
    scores: NDArray[np.float32],
    size0: Size,
    *,
    text: str,
    slide_id: str = "",
    method: str = "",
    slide_mpp: float | None = None,
    marked: NDArray[np.bool_] | None = None,
) -> Picture:
    """Tint patches by their scores, from dark violet to bright yellow.

    Colours span the 2nd to the 99th percentile; the strip below names the raw scores of both ends.

    Args:
        thumbnail: uint8 (h, w, 3) RGB of the whole slide; not changed.
        boxes0_px: float64 (N, 4), left, top, right, bottom of what each patch stands for, in
            level-0 pixels.
        scores: float32 (N,), finite.
        size0: Level-0 size of the slide.
        text: What was looked for.
        slide_id: Name in the caption.
        method: How, for the caption.
        slide_mpp: µm per level-0 pixel.
        marked: bool (N,), patches that are outlined.

    Returns:
        uint8 (H, W, 3) RGB, its picture part at most 2048 px on a side.

    Raises:
        ValueError: as many boxes as scores are needed, and finite scores.
    """
    if boxes0_px.shape != (len(scores), 4) or not np.isfinite(scores).all():
        raise ValueError(f"{boxes0_px.shape} boxes for {len(scores)} scores, which must be finite")
    picture = fit_thumbnail(thumbnail)
    h, w = picture.shape[:2]
    scale = np.array([w / size0.width, h / size0.height] * 2)
    corners = np.clip(np.rint(boxes0_px * scale).astype(np.int64), 0, [w, h, w, h])
    # A patch smaller than a pixel of the picture still has that pixel.
    corners[:, 2:] = np.minimum(np.maximum(corners[:, 2:], corners[:, :2] + 1), [w, h])
    total, count = (np.zeros((h + 1, w + 1)) for _ in range(2))
    share = shown_share(scores)
    for field, value in ((total, share), (count, np.ones(len(share)))):
        x0, y0, x1, y1 = corners.T
        np.add.at(field, (y0, x0), value)
        np.add.at(field, (y1, x1), value)
        np.add.at(field, (y0, x1), -value)
        np.add.at(field, (y1, x0), -value)
        np.cumsum(np.cumsum(field, axis=0, out=field), axis=1, out=field)
    covered = np.rint(count[:h, :w]) > 0
    heat = np.zeros((h, w))
    np.divide(total[:h, :w], count[:h, :w], out=heat, where=covered)
    heat = np.clip(heat, 0, 1)
    _tint(picture, heat, covered)
    if marked is not None and marked.any():
        _outline(picture, corners[marked])
    low, high = _ends(scores) if len(scores) else (0.0, 0.0)
    said = [slide_id] if slide_id else []
    said += [f'"{text}"', *([method] if method else [])]
    if not len(scores):
        said.append("no patches")
    um_per_px = None if slide_mpp is None else size0.width / w * slide_mpp
    strip = caption_strip(w, " | ".join(said), um_per_px, [])
    return np.concatenate([picture, _bar(w, strip.shape[0] * 3 // 4, low, high), strip])


def tissue_silhouette(mask: TissueMask, longest_px: int = 1600) -> Picture:
    """Tissue as a flat shape: what a heat map is drawn on where the slide itself is not there.

    Args:
        mask: The tissue.
        longest_px: Longer side of the picture.

    Returns:
        uint8 (h, w, 3) RGB.
    """
    width, height = mask.size0.width, mask.size0.height
    shrink = longest_px / max(width, height)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    how = cv2.INTER_AREA if mask.mask.shape[1] > size[0] else cv2.INTER_LINEAR
    share = np.asarray(cv2.resize(mask.mask.astype(np.float32), size, interpolation=how))
    mixed = np.array(GLASS_RGB) + share[..., None] * (np.array(TISSUE_RGB) - np.array(GLASS_RGB))
    return np.asarray(np.rint(mixed), np.uint8)


def _ends(scores: NDArray[np.float32]) -> tuple[float, float]:
    if not len(scores):
        return 0.0, 0.0
    low, high = np.quantile(scores.astype(np.float64), [LOW_QUANTILE, HIGH_QUANTILE])
    if high <= low:  # one patch in hundreds that stands out
        low, high = float(scores.min()), float(scores.max())
    return float(low), float(high)


def _colours(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours of shares from 0 to 1, RGB: dark violet, magenta, orange, yellow."""
    levels = np.rint(share * 255).astype(np.uint8)
    flat = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_INFERNO)
    return np.asarray(flat, np.float64).reshape(*share.shape, 3)[..., ::-1]


def _tint(picture: Picture, heat: NDArray[np.float64], covered: NDArray[np.bool_]) -> None:
    faded = picture.astype(np.float64)
    faded += (faded.mean(axis=2, keepdims=True) - faded) * GREY
    alpha = (LEAST_TINT + heat * (MOST_TINT - LEAST_TINT)) * covered
    faded += (_colours(heat) - faded) * alpha[..., None]
    picture[...] = np.rint(faded).astype(np.uint8)


def _outline(picture: Picture, corners: NDArray[np.int64]) -> None:
    area = np.zeros(picture.shape[:2], np.uint8)
    for x0, y0, x1, y1 in corners.tolist():
        area[y0:y1, x0:x1] = 1
    contours, _ = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thick = max(1, round(max(picture.shape[:2]) / 1000))
    cv2.drawContours(picture, contours, -1, OUTLINE_RGB, thick, cv2.LINE_AA)


def _bar(width: int, height: int, low: float, high: float) -> Picture:
    """Colours from the lowest to the highest score, with both."""
    strip = caption_strip(width, "", None, [(f"{low:.3g}", (30, 30, 30))], height=height)
    end = caption_strip(width, "", None, [(f"{high:.3g}", (30, 30, 30))], height=height)
    left = int(np.flatnonzero((strip != 255).any(axis=(0, 2))).max(initial=0)) + height // 2
    long = min(max(BAR_STEPS, width // 4), max(1, width - left - 1))
    share = np.linspace(0, 1, long)[None].repeat(max(1, height // 2), axis=0)
    top = height // 4
    strip[top : top + share.shape[0], left : left + long] = np.rint(_colours(share))
    words = np.flatnonzero((end != 255).any(axis=(0, 2)))
    if len(words):
        first, wide = int(words.min()), int(np.ptp(words)) + 1
        at = left + long + height // 2
        wide = max(0, min(wide, width - at))
        strip[:, at : at + wide] = end[:, first : first + wide]
    return strip
