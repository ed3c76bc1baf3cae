"""The picture a person looks at: tissue, ink, artefacts, patches, scale bar and caption."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import PatchGrid, Size, TissueMask

__all__ = ["caption_strip", "encode_jpeg", "fit_thumbnail", "tissue_overlay"]

Picture = NDArray[np.uint8]

MAX_SIDE_PX: Final = 2048
MIN_SIDE_PX: Final = 640
"""Smaller thumbnails are enlarged, so that lines and text stay thin against the tissue."""
TISSUE_RGB: Final = (0, 121, 92)
PEN_RGB: Final = (232, 119, 0)
EDGE_RGB: Final = (120, 120, 120)
FOLD_RGB: Final = (160, 40, 180)
PATCH_RGB: Final = (28, 78, 200)
INK_RGB: Final = (30, 30, 30)
PAPER_RGB: Final = (255, 255, 255)
PATCH_TINT: Final = 0.10
PATCH_LINE: Final = 0.45
FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


def tissue_overlay(
    thumbnail: Picture,
    mask: TissueMask,
    grid: PatchGrid | None = None,
    *,
    slide_id: str = "",
    slide_mpp: float | None = None,
) -> Picture:
    """Draw what was found and what will be encoded onto the thumbnail.

    Tissue is outlined in green, its holes with a thinner line, and where there are several
    sections each has its number; ink is outlined in orange, coverslip edges and dust in grey,
    folds in violet; kept patches are a thin blue lattice with a slight tint. Below stand a scale
    bar in mm (where `slide_mpp` is given), the colours in use, and one line of text: slide,
    patches, resolution.

    Args:
        thumbnail: uint8 (h, w, 3) RGB of the whole slide; not changed.
        mask: Tissue and ink; may be coarser or finer than the thumbnail.
        grid: Kept patches, or None before there are any.
        slide_id: Name in the caption.
        slide_mpp: µm per level-0 pixel.

    Returns:
        uint8 (H, W, 3) RGB, its picture part at most 2048 px on a side.
    """
    picture = fit_thumbnail(thumbnail)
    h, w = picture.shape[:2]
    if grid is not None and len(grid):
        _draw_patches(picture, grid, mask.size0)
    thick = max(2, round(max(h, w) / 700))
    _draw_outline(picture, mask.mask, TISSUE_RGB, thick)
    legend = [("tissue", TISSUE_RGB)]
    for word, seen, rgb in (
        ("ink", mask.pen, PEN_RGB),
        ("edge", mask.edge, EDGE_RGB),
        ("fold", mask.fold, FOLD_RGB),
    ):
        if seen.any():
            _draw_outline(picture, seen, rgb, thick)
            legend.append((word, rgb))
    sections = mask.sections
    if len(sections) > 1:
        _number_sections(picture, mask, sections)
    parts = [slide_id] if slide_id else []
    if mask.empty:
        parts.append("no tissue")
        _write_middle(picture, "no tissue")
    if grid is not None:
        parts.append(
            f"{len(grid):,} patches of {grid.plan.patch_px} px at {grid.plan.mpp:.4g} um/px"
        )
    if len(sections) > 1:
        parts.append(f"{len(sections)} sections")
    parts.append(f"tissue: {mask.method}")
    um_per_px = None if slide_mpp is None else mask.size0.width / w * slide_mpp
    return np.concatenate([picture, caption_strip(w, " | ".join(parts), um_per_px, legend)])


def encode_jpeg(image: Picture, quality: int = 90) -> bytes:
    """Encode a picture as JPEG.

    Args:
        image: uint8 (h, w, 3) RGB.
        quality: 1 to 100.

    Raises:
        ValueError: the image cannot be encoded (empty, or a side above 65,535 px).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"a picture is uint8 (h, w, 3), not {image.dtype} {image.shape}")
    if max(image.shape[:2]) > 65_535:
        raise ValueError(f"JPEG ends at 65,535 px a side, the picture has {image.shape[:2]}")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("the picture could not be encoded as JPEG")
    return data.tobytes()


def fit_thumbnail(thumbnail: Picture) -> Picture:
    """A copy whose longer side lies between MIN_SIDE_PX and MAX_SIDE_PX.

    Args:
        thumbnail: uint8 (h, w, 3) RGB.
    """
    h, w = thumbnail.shape[:2]
    longest = max(h, w)
    wanted = min(max(longest, MIN_SIDE_PX), MAX_SIDE_PX)
    if wanted == longest:
        return np.array(thumbnail, dtype=np.uint8, order="C")
    size = (max(1, round(w * wanted / longest)), max(1, round(h * wanted / longest)))
    how = cv2.INTER_AREA if wanted < longest else cv2.INTER_CUBIC
    source = np.ascontiguousarray(thumbnail)
    return np.asarray(cv2.resize(source, size, interpolation=how), dtype=np.uint8)


def _draw_patches(picture: Picture, grid: PatchGrid, size0: Size) -> None:
    """Tint every kept patch and draw its border as a translucent line."""
    h, w = picture.shape[:2]
    scale = np.array([w / size0.width, h / size0.height])
    first = np.rint(grid.origin0_px * scale).astype(np.int64)
    last = np.rint((grid.origin0_px + grid.plan.side0_px) * scale).astype(np.int64)
    x0, y0 = np.clip(first, 0, [w - 1, h - 1]).T
    x1, y1 = np.clip(last, 0, [w, h]).T
    tint = _cover((h, w), x0, y0, x1, y1)
    _blend(picture, tint, PATCH_RGB, PATCH_TINT)
    # A lattice finer than a few pixels would hide the tissue under lines.
    if len(grid) and float(np.median(x1 - x0)) >= 5:
        right, low = np.minimum(x1, w - 1), np.minimum(y1, h - 1)
        lines = (
            _cover((h, w), x0, y0, right + 1, y0 + 1)
            | _cover((h, w), x0, low, right + 1, low + 1)
            | _cover((h, w), x0, y0, x0 + 1, low + 1)
            | _cover((h, w), right, y0, right + 1, low + 1)
        )
        _blend(picture, lines, PATCH_RGB, PATCH_LINE)


def _cover(
    shape: tuple[int, int],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    x1: NDArray[np.int64],
    y1: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Union of half-open rectangles, by a two-dimensional prefix sum."""
    change = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.int32)
    np.add.at(change, (y0, x0), 1)
    np.add.at(change, (y1, x1), 1)
    np.add.at(change, (y0, x1), -1)
    np.add.at(change, (y1, x0), -1)
    return np.asarray(change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)


def _blend(
    picture: Picture, where: NDArray[np.bool_], rgb: tuple[int, int, int], alpha: float
) -> None:
    mixed = picture[where] * (1 - alpha) + np.asarray(rgb) * alpha
    picture[where] = np.rint(mixed).astype(np.uint8)


def _draw_outline(
    picture: Picture, mask: NDArray[np.bool_], rgb: tuple[int, int, int], thick: int
) -> None:
    """Outline the pieces of a mask; holes get a line of half the width."""
    if not mask.any():
        return
    h, w = picture.shape[:2]
    # Enlarged as grey levels and cut at one half, edges come out smooth instead of as stairs.
    how = cv2.INTER_AREA if mask.shape[1] > w else cv2.INTER_LINEAR
    grey = cv2.resize(mask.astype(np.uint8) * 255, (w, h), interpolation=how)
    area = (np.asarray(grey) >= 128).astype(np.uint8)
    contours, tree = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return
    parents = np.asarray(tree).reshape(-1, 4)[:, 3]
    for holes, width in ((True, max(1, thick // 2)), (False, thick)):
        chosen = [c for c, parent in zip(contours, parents, strict=True) if (parent >= 0) == holes]
        cv2.drawContours(picture, chosen, -1, rgb, width, cv2.LINE_AA)


def _number_sections(picture: Picture, mask: TissueMask, sections: list[int]) -> None:
    """Write each section's number where the section is widest."""
    h, w = picture.shape[:2]
    size = max(0.6, max(h, w) / 1200)
    small = cv2.resize(mask.section, (w, h), interpolation=cv2.INTER_NEAREST)
    labels = np.asarray(small, np.int32)
    for number, x0, y0, part in _crops(labels, sections):
        far = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, 3)
        _, room, _, (x, y) = cv2.minMaxLoc(far)
        text = str(number)
        # The number of a small section is small too, down to what can be read.
        fit = float(np.clip(room / 12, 0.35, size))
        (wide, high), _ = cv2.getTextSize(text, FONT, fit, 1)
        left, low = x0 + x - 1 - wide // 2, y0 + y - 1 + high // 2
        rim = max(2, round(6 * fit))
        corner, end = (left - rim, low - high - rim), (left + wide + rim, low + rim)
        cv2.rectangle(picture, corner, end, PAPER_RGB, -1)
        cv2.putText(
            picture, text, (left, low), FONT, fit, INK_RGB, max(1, round(1.6 * fit)), cv2.LINE_AA
        )


def _crops(
    labels: NDArray[np.int32], sections: list[int]
) -> Iterator[tuple[int, int, int, NDArray[np.uint8]]]:
    """Number, left, top and area of each section, in a rectangle of its own."""
    rows, cols = np.nonzero(labels)
    order = np.argsort(labels[rows, cols], kind="stable")
    rows, cols = rows[order], cols[order]
    ends = np.searchsorted(labels[rows, cols], [*sections, sections[-1] + 1])
    for number, first, stop in zip(sections, ends[:-1], ends[1:], strict=True):
        if first == stop:
            continue  # thinner than a pixel of the picture
        r, c = rows[first:stop], cols[first:stop]
        part = np.zeros((int(np.ptp(r)) + 1, int(np.ptp(c)) + 1), np.uint8)
        part[r - r.min(), c - c.min()] = 1
        yield number, int(c.min()), int(r.min()), part


def _write_middle(picture: Picture, text: str) -> None:
    """Large words across an empty slide."""
    h, w = picture.shape[:2]
    (wide, high), _ = cv2.getTextSize(text, FONT, 1.0, 2)
    size = min(0.5 * w / wide, 0.3 * h / high)
    thick = max(1, round(2 * size))
    (wide, high), _ = cv2.getTextSize(text, FONT, size, thick)
    at = ((w - wide) // 2, (h + high) // 2)
    cv2.putText(picture, text, at, FONT, size, PAPER_RGB, thick * 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, FONT, size, INK_RGB, thick, cv2.LINE_AA)


def caption_strip(
    width: int,
    text: str,
    um_per_px: float | None,
    legend: Sequence[tuple[str, tuple[int, int, int]]],
    *,
    height: int | None = None,
) -> Picture:
    """A white strip of a picture's width: scale bar, words in their colours, text.

    Args:
        width: In pixels.
        text: Written small enough to fit, and cut where that would not be read.
        um_per_px: Of the picture; no scale bar without it.
        legend: Words and their colours.
        height: In pixels; a thirty-second of the width, within 28 to 56, without it.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    # The font of OpenCV has ASCII only.
    text = text.encode("ascii", "replace").decode()
    height = int(np.clip(width / 32, 28, 56)) if height is None else height
    strip = np.full((height, width, 3), PAPER_RGB, dtype=np.uint8)
    size = height / 62
    thick = 2 if height >= 50 else 1
    left = height // 3
    if um_per_px is not None:
        left = _scale_bar(strip, um_per_px, left, size, thick) + height // 2
    for word, rgb in legend:
        (wide, high), _ = cv2.getTextSize(word, FONT, size, thick)
        at = (left, (height + high) // 2)
        cv2.putText(strip, word, at, FONT, size, rgb, thick, cv2.LINE_AA)
        left += wide + height // 4
    left += height // 4
    room = max(1, width - left - height // 3)
    (wide, high), _ = cv2.getTextSize(text, FONT, size, thick)
    while wide > room and len(text) > 4:
        # Rather a smaller letter than a cut name, down to what can be read.
        if size > 0.38:
            size, thick = size * 0.94, 1
        else:
            text = text[:-4] + "..."
        (wide, high), _ = cv2.getTextSize(text, FONT, size, thick)
    cv2.putText(strip, text, (left, (height + high) // 2), FONT, size, INK_RGB, thick, cv2.LINE_AA)
    return strip


def _scale_bar(strip: Picture, um_per_px: float, left: int, size: float, thick: int) -> int:
    """Draw a bar of a round length, about a seventh of the width; returns where it ends."""
    height, width = strip.shape[:2]
    most_um = um_per_px * width / 7
    power = 10.0 ** math.floor(math.log10(most_um))
    length_um = power * max(step for step in (1, 2, 5) if step * power <= most_um)
    long = max(1, round(length_um / um_per_px))
    label = f"{length_um / 1000:g} mm"
    middle = height // 2
    cv2.rectangle(
        strip, (left, middle - height // 12), (left + long, middle + height // 12), INK_RGB, -1
    )
    (wide, high), _ = cv2.getTextSize(label, FONT, size, thick)
    at = (left + long + height // 4, (height + high) // 2)
    cv2.putText(strip, label, at, FONT, size, INK_RGB, thick, cv2.LINE_AA)
    return int(at[0] + wide)
