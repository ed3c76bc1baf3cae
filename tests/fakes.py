"""A slide that lives in memory, and facts for tests that need no slide."""

from __future__ import annotations

import cv2
import numpy as np

from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Box, Point, Size, SlideInfo, Tiling


def make_info(
    *,
    mpp: float = 0.5,
    downsamples: tuple[float, ...] = (1.0,),
    size0: tuple[int, int] = (4096, 3072),
    slide_id: str = "slide",
    uri: str = "slides/slide.svs",
    fingerprint: str = "0" * 64,
    reader: str = "fake",
) -> SlideInfo:
    width, height = size0
    return SlideInfo(
        id=slide_id,
        uri=uri,
        reader=reader,
        reader_reason="a fake",
        vendor=None,
        size0=Size(width, height),
        mpp=mpp,
        mpp_source="metadata",
        objective=None,
        downsamples=downsamples,
        level_sizes=tuple(
            Size(max(1, round(width / d)), max(1, round(height / d))) for d in downsamples
        ),
        bounds0=Box(0, 0, width, height),
        fingerprint=fingerprint,
    )


class ArraySlide:
    """A one-level slide made of an array, white outside; some level-0 boxes may be unreadable."""

    def __init__(self, pixels: np.ndarray, info: SlideInfo, broken: tuple[Box, ...] = ()) -> None:
        self.pixels = pixels
        self.info = info
        self.broken = broken
        self.closed = False
        self.opened: list[ArraySlide] = []

    def read(self, origin0: Point, level: int, size: Size) -> np.ndarray:
        if level != 0:
            raise SlideReadError("no such level", slide=self.info.id)
        x, y, w, h = origin0.x, origin0.y, size.width, size.height
        for box in self.broken:
            if x < box.x + box.width and box.x < x + w and y < box.y + box.height and box.y < y + h:
                raise SlideReadError("this tile is broken", slide=self.info.id, stage="tiles")
        out = np.full((h, w, 3), 255, np.uint8)
        height, width = self.pixels.shape[:2]
        x0, x1 = max(x, 0), min(x + w, width)
        y0, y1 = max(y, 0), min(y + h, height)
        if x0 < x1 and y0 < y1:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = self.pixels[y0:y1, x0:x1]
        return out

    def thumbnail(self, mpp: float, bad: set[str] | None = None) -> np.ndarray:
        scale = min(1.0, self.info.mpp / mpp)
        size = (
            max(1, round(self.info.size0.width * scale)),
            max(1, round(self.info.size0.height * scale)),
        )
        return np.asarray(cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA))

    def reopen(self) -> ArraySlide:
        slide = ArraySlide(self.pixels, self.info, self.broken)
        self.opened.append(slide)
        return slide

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> ArraySlide:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TiledArraySlide(ArraySlide):
    """The same slide, giving access to its "stored" tiles; counts what is decoded.

    `read` goes through the tiles that are broken, too: a region fails where a single tile does.
    """

    tile = Size(64, 48)
    absent: tuple[int, ...] = ()

    def __init__(
        self, pixels: np.ndarray, info: SlideInfo, *, tile: Size, broken: tuple[int, ...] = ()
    ) -> None:
        super().__init__(pixels, info)
        self.tile, self.broken_tiles = tile, broken
        self.decoded: list[int] = []

    def tiling(self, level: int) -> Tiling:
        height, width = self.pixels.shape[:2]
        return Tiling(self.tile, (-(-height // self.tile.height), -(-width // self.tile.width)))

    def fetch_tile(self, level: int, tile: int) -> bytes:
        return b"" if tile in self.absent else str(tile).encode()

    def decode_tile(self, level: int, tile: int, data: bytes, out: np.ndarray) -> None:
        self.decoded.append(tile)
        if not data:
            out[...] = 255
            return
        assert data == str(tile).encode()
        if tile in self.broken_tiles:
            out[...] = 0
            raise SlideReadError(f"tile {tile} is broken", slide=self.info.id, stage="tiles")
        row, col = divmod(tile, self.tiling(level).shape[1])
        x, y = col * self.tile.width, row * self.tile.height
        out[...] = 77  # what lies beyond the level is no picture
        part = self.pixels[y : y + self.tile.height, x : x + self.tile.width]
        out[: part.shape[0], : part.shape[1]] = part

    def reopen(self) -> TiledArraySlide:
        slide = TiledArraySlide(self.pixels, self.info, tile=self.tile, broken=self.broken_tiles)
        slide.decoded, slide.absent = self.decoded, self.absent  # list.append is atomic
        self.opened.append(slide)
        return slide
