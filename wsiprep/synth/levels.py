"""Levels of a pyramid while it is written: a band of pixels each, and reduction by averaging."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.synth.encode import Codec

__all__ = ["Level", "auto_downsamples", "check_downsamples", "reduce_by"]


def auto_downsamples(size: Size, longest_px: int) -> tuple[int, ...]:
    """1, 4, 16 ... until the longest side of the level is at most `longest_px`."""
    found = [1]
    while (
        max(size.width, size.height) // found[-1] > longest_px
        and min(size.width, size.height) >= found[-1] * 4
    ):
        found.append(found[-1] * 4)
    return tuple(found)


def check_downsamples(downsamples: tuple[int, ...], size: Size) -> None:
    """Refuse what is no pyramid.

    Raises:
        ValueError: the first is not 1, one is no multiple of the one before, or a level would
            be empty.
    """
    if not downsamples or downsamples[0] != 1:
        raise ValueError(f"the first downsample must be 1: {downsamples}")
    for finer, coarser in pairwise(downsamples):
        if coarser <= finer or coarser % finer:
            raise ValueError(f"each downsample must be a multiple of the one before: {downsamples}")
    if downsamples[-1] > min(size.width, size.height):
        raise ValueError(f"a level of downsample {downsamples[-1]} of {size} would be empty")


def reduce_by(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Area average over squares of `factor` pixels, rounded; an incomplete border is dropped."""
    if factor == 1:
        return pixels
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    if h == 0 or w == 0:
        return np.zeros((h, w, 3), np.uint8)
    whole = np.ascontiguousarray(pixels[: h * factor, : w * factor])
    return np.asarray(cv2.resize(whole, (w, h), interpolation=cv2.INTER_AREA), np.uint8)


class Level:
    """One level: the band of rows that is being filled, and where its finished tiles are.

    Args:
        size0: Level-0 size.
        downsample: Level-0 pixels per pixel, along a side.
        tile_px: Side of a tile.
        band_px: Rows held at a time.
    """

    def __init__(self, size0: Size, downsample: int, tile_px: int, band_px: int) -> None:
        self.downsample, self._tile_px, self._band_px = downsample, tile_px, band_px
        self.size = Size(size0.width // downsample, size0.height // downsample)
        self.pixels = np.zeros((min(band_px, self.size.height), self.size.width, 3), np.uint8)
        self._top = 0
        self._bottom = 0
        self._spooled: list[tuple[int, int]] = []

    def put(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Place pixels at (x, y) of the level; rows before the current band are gone."""
        if y >= self._top + self._band_px:
            self._top = y
        h, w = pixels.shape[:2]
        row = y - self._top
        self.pixels[row : row + h, x : x + w] = pixels
        self._bottom = max(self._bottom, y + h)

    def tiles(self, codec: Codec) -> Iterator[bytes]:
        """Compressed tiles of the band, row by row; an incomplete tile goes on with its edge."""
        t = self._tile_px
        rows = self._bottom - self._top
        for y in range(0, rows, t):
            for x in range(0, self.size.width, t):
                tile = self.pixels[y : min(y + t, rows), x : x + t]
                fill = ((0, t - tile.shape[0]), (0, t - tile.shape[1]), (0, 0))
                yield bytes(codec.encode(np.ascontiguousarray(np.pad(tile, fill, mode="edge"))))

    def flush(self, codec: Codec, spool: IO[bytes], *, last: bool) -> None:
        """Send the band to the spool if it is full, or if there will be no more."""
        if self._bottom - self._top < self._band_px and not last:
            return
        for data in self.tiles(codec):
            self._spooled.append((spool.tell(), len(data)))
            spool.write(data)
        self._top = self._bottom

    def encoded(self, spool: IO[bytes]) -> Iterator[bytes]:
        """The spooled tiles in order."""
        for start, length in self._spooled:
            spool.seek(start)
            yield spool.read(length)
