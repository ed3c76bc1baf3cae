"""Many pictures on one page: a grid of labelled cells, with a title and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["SheetCell", "draw_sheet", "fit_picture"]

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

MAX_SIDE_PX: Final = 8192
"""Longest side of a sheet; cells are made smaller to stay below it."""
MIN_CELL_PX: Final = 48
GAP_PX: Final = 10
LINE_PX: Final = 18
"""Height of a line of text."""
INK_RGB: Final = (30, 30, 30)
PAPER_RGB: Final = (255, 255, 255)
PLATE_RGB: Final = (236, 236, 236)
FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
TEXT_SIZE: Final = 0.42
ASCII: Final = str.maketrans({"µ": "u", "²": "2", "…": "..."})


@dataclass(frozen=True, slots=True)
class SheetCell:
    """One picture of a sheet.

    Attributes:
        picture: uint8 (h, w, 3) RGB of any size.
        caption: Lines of text below it; cut where they are too long.
    """

    picture: Picture
    caption: tuple[str, ...] = ()


def draw_sheet(
    cells: Sequence[SheetCell],
    *,
    columns: int,
    cell_px: int = 420,
    title: str = "",
    legend: Sequence[tuple[str, Colour]] = (),
) -> Picture:
    """Lay pictures out in rows, in reading order.

    Every picture is scaled to fit a square of `cell_px`, keeping its shape; small ones are enlarged
    by whole pixels. A row is as high as its highest picture.

    Args:
        cells: The pictures; none gives a sheet that says so.
        columns: Pictures side by side.
        cell_px: Side of a cell; less where the sheet would pass 8192 px.
        title: A line above.
        legend: Words and their colours, below the title.

    Returns:
        uint8 (H, W, 3) RGB, at most 8192 px a side.

    Raises:
        ValueError: too many pictures for one sheet, no column, or an array that is no picture.
    """
    if columns < 1:
        raise ValueError(f"a sheet has at least one column, not {columns}")
    for cell in cells:
        _check(cell.picture)
    columns = max(1, min(columns, len(cells)))
    while True:
        rows = [
            [_enlarged(cell.picture, cell_px) for cell in cells[start : start + columns]]
            for start in range(0, len(cells), columns)
        ]
        lines = [
            max(len(cell.caption) for cell in cells[start : start + columns])
            for start in range(0, len(cells), columns)
        ]
        width = GAP_PX + columns * (cell_px + GAP_PX)
        heights = [
            max(p.shape[0] for p in row) + LINE_PX * n + GAP_PX
            for row, n in zip(rows, lines, strict=True)
        ]
        head = _head(max(width, 320), title, legend, "" if cells else "no pictures")
        height = head.shape[0] + sum(heights)
        if max(width, height) <= MAX_SIDE_PX:
            break
        if cell_px <= MIN_CELL_PX:
            raise ValueError(f"{len(cells)} pictures in {columns} columns are too many for a sheet")
        cell_px = max(MIN_CELL_PX, cell_px * 9 // 10)
    sheet = np.full((height, head.shape[1], 3), PAPER_RGB, dtype=np.uint8)
    sheet[: head.shape[0]] = head
    top = head.shape[0]
    for number, (row, high) in enumerate(zip(rows, heights, strict=True)):
        tallest = max(p.shape[0] for p in row)
        for place, picture in enumerate(row):
            left = GAP_PX + place * (cell_px + GAP_PX)
            sheet[top : top + tallest, left : left + cell_px] = PLATE_RGB
            h, w = picture.shape[:2]
            y, x = top + (tallest - h) // 2, left + (cell_px - w) // 2
            sheet[y : y + h, x : x + w] = picture
            for n, text in enumerate(cells[number * columns + place].caption):
                _write(sheet, text, left, top + tallest + LINE_PX * n, cell_px)
        top += high
    return sheet


def _check(picture: Picture) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise ValueError(f"a picture is uint8 (h, w, 3), not {picture.dtype} {picture.shape}")


def fit_picture(picture: Picture, side_px: int) -> Picture:
    """The picture made smaller until its longer side is `side_px`; never larger, never itself.

    Args:
        picture: uint8 (h, w, 3) RGB.
        side_px: Longest side of the result.
    """
    h, w = picture.shape[:2]
    shrink = min(1.0, side_px / max(h, w))
    if shrink == 1.0:
        return picture.copy()
    size = (max(1, round(w * shrink)), max(1, round(h * shrink)))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def _enlarged(picture: Picture, side: int) -> Picture:
    """The picture with its longer side equal to `side`, or a whole multiple of its own below."""
    times = max(1, side // max(picture.shape[:2]))
    if times == 1:
        return fit_picture(picture, side)
    return np.asarray(picture.repeat(times, axis=0).repeat(times, axis=1))


def _head(width: int, title: str, legend: Sequence[tuple[str, Colour]], remark: str) -> Picture:
    """Title, legend and a remark, each where there is one, over a gap."""
    lines = [text for text in (title, remark) if text]
    rows = _legend_rows(width, legend)
    head = np.full((GAP_PX + LINE_PX * (len(lines) + len(rows)), width, 3), PAPER_RGB, np.uint8)
    top = GAP_PX // 2
    for text in lines:
        _write(head, text, GAP_PX, top, width - 2 * GAP_PX)
        top += LINE_PX
    for row in rows:
        for left, text, rgb in row:
            cv2.rectangle(head, (left, top + 4), (left + 12, top + 14), rgb, -1)
            _write(head, text, left + 18, top, width - left - 18)
        top += LINE_PX
    return head


def _legend_rows(
    width: int, legend: Sequence[tuple[str, Colour]]
) -> list[list[tuple[int, str, Colour]]]:
    """(left, words, colour) of the legend, broken into rows of the sheet's width."""
    rows: list[list[tuple[int, str, Colour]]] = []
    left = width
    for text, rgb in legend:
        need = 18 + _wide(_plain(text)) + 2 * GAP_PX
        if left + need > width or not rows:
            rows.append([])
            left = GAP_PX
        rows[-1].append((left, text, rgb))
        left += need
    return rows


def _plain(text: str) -> str:
    """Text in the letters that the font of OpenCV has."""
    return text.translate(ASCII).encode("ascii", "replace").decode()


def _wide(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, TEXT_SIZE, 1)[0][0])


def _write(page: Picture, text: str, left: int, top: int, room: int) -> None:
    text = _plain(text)
    if _wide(text) > room:
        while text and _wide(text + "...") > room:
            text = text[:-1]
        text += "..."
    cv2.putText(page, text, (left, top + 13), FONT, TEXT_SIZE, INK_RGB, 1, cv2.LINE_AA)
