"""Readers that decode the stored tiles themselves: a box is put together from whole tiles.

`TiledBase` adds to `BaseSlide` what `core.contracts.TiledSlide` promises. A subclass gives the
tables of its levels: where each tile lies in a file, and the codec that decodes it. Files are read
by position (`os.pread`), so a handle is nothing but file descriptors: it may be used after a fork,
and threads with handles of their own share no state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.cores import available_cores
from wsiprep.core.errors import (
    PluginUnavailableError,
    SlideOpenError,
    SlideReadError,
    WsiprepError,
)
from wsiprep.core.tile_memory import tile_memory
from wsiprep.core.types import Box, Size, SlideInfo, Tiling
from wsiprep.slide.readers._base import DAMAGED, WHITE, BaseSlide, one_line
from wsiprep.slide.readers._jpeg import JpegCodec
from wsiprep.slide.readers._jpeg_intervals import IntervalCodec
from wsiprep.slide.readers._thumbnail import area_average

__all__ = ["RefusedError", "TileCodec", "TileTable", "TiledBase", "opening", "tiling_of"]


SHRINK = 8
"""How many times smaller along a side tiles are decoded for small thumbnails."""
MAX_THREADS = 8
"""Threads that read a thumbnail: one slide should not take a whole node."""

Decode = Callable[[int, int, bytes, NDArray[np.uint8]], None]
"""`decode_tile`, or the like of it for shrunk tiles."""


class TileCodec(Protocol):
    """How the tiles of a level are decoded. Plain data: it travels with a pickled slide."""

    def decode(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h, w, 3) RGB; raises whatever it likes if it cannot."""
        ...


class RefusedError(Exception):
    """The file is not one that a reader reads right; the message says why, without full stop."""


@contextmanager
def opening(slide_id: str, reader: str) -> Iterator[None]:
    """Around finding out what a file is: what goes wrong becomes an error of `create`.

    Raises:
        SlideOpenError: it was refused, cannot be read, or its structure is damaged.
        PluginUnavailableError: a library does not import.
    """
    try:
        yield
    except WsiprepError:
        raise
    except ImportError as err:
        raise PluginUnavailableError(
            f"the reader {reader} lacks a library: {one_line(err)}."
        ) from err
    except (RefusedError, OSError) as err:
        raise SlideOpenError(f"{one_line(err)}.", slide=slide_id, stage="slide") from err
    except Exception as err:  # parsers raise whatever they like
        raise SlideOpenError(
            f"its structure is damaged ({one_line(err)}).", slide=slide_id, stage="slide"
        ) from err


@runtime_checkable
class ShrinkingCodec(Protocol):
    """A codec that decodes tiles at 1/2, 1/4 and 1/8 of their side, with less work."""

    def decode_shrunk(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h // k, w // k, 3); raises as `decode` does."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """A level as it is stored.

    Attributes:
        tiling: Tile size, rows and columns.
        offsets: int64 (tiles,), position of each tile in its file.
        counts: int64 (tiles,), its length in bytes; 0 where the file declares it absent.
        codec: How the tiles are decoded.
        file: int32 (tiles,), which of the slide's files; None where there is only one.
    """

    tiling: Tiling
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    codec: TileCodec
    file: NDArray[np.int32] | None = None


class TiledBase(BaseSlide):
    """A slide put together from stored tiles.

    Args:
        info: What is known of the slide.
        native_levels: For each level of `info`, the index into `tables`.
        files: Paths of the files that hold the tiles.
        tables: Levels as they are stored.
    """

    survives_fork: ClassVar[bool] = True

    def __init__(
        self,
        info: SlideInfo,
        native_levels: tuple[int, ...],
        files: Sequence[str],
        tables: Sequence[TileTable],
    ) -> None:
        super().__init__(info, native_levels)
        self._files = tuple(files)
        self._tables = tuple(tables[n] for n in native_levels)

    def tiling(self, level: int) -> Tiling:
        """How a level is stored; see `core.contracts.TiledSlide.tiling`."""
        return self._table(level).tiling

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """Compressed bytes of a tile; see `core.contracts.TiledSlide.fetch_tile`."""
        self._check_open()
        table = self._table(level)
        count = table.counts.item(tile)
        if count == 0:
            return b""
        number = 0 if table.file is None else table.file.item(tile)
        return self._bytes_at(level, tile, table.offsets.item(tile), count, number)

    def _bytes_at(self, level: int, tile: int, start: int, count: int, file: int = 0) -> bytes:
        """`count` bytes of a tile from byte `start` of one of the files."""
        try:
            data = os.pread(self._live_handle()[file], count, start)
        except OSError as err:
            raise self._tile_error(level, tile, f"cannot be read ({err.strerror})") from err
        if len(data) < count:
            raise self._tile_error(
                level, tile, f"lies beyond the end of the file ({len(data)} of {count} bytes)"
            )
        return data

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile; see `core.contracts.TiledSlide.decode_tile`."""
        self._decode(self._table(level).codec.decode, level, tile, data, out)

    def _average(self, level: int, size: Size, bad: set[str] | None) -> NDArray[np.uint8]:
        """The whole of a level, averaged down to `size`: in threads, and from tiles that shrink.

        Where `size` is sixteen times smaller or more and the codec can, tiles are decoded at an
        eighth of their side. At that scale libjpeg takes the mean of each 8 x 8 block straight
        from its coefficients: a third less work than decoding, and the same but for rounding.
        """
        self._live_handle()  # once, before threads ask for it
        threads = min(MAX_THREADS, available_cores())
        whole, tile = self._info.level_sizes[level], self._table(level).tiling.tile
        extent: tuple[float, float] | None = None
        if (
            self.shrinks(level)
            and min(whole.width // size.width, whole.height // size.height) >= 2 * SHRINK
            and not (tile.width % SHRINK or tile.height % SHRINK)
        ):
            extent = (whole.width / SHRINK, whole.height / SHRINK)
            whole = Size(-(-whole.width // SHRINK), -(-whole.height // SHRINK))
            tile = Size(tile.width // SHRINK, tile.height // SHRINK)
            decode: Decode = self.decode_shrunk
        else:
            decode = self.decode_tile
        tiling = Tiling(tile, self._table(level).tiling.shape)
        return area_average(
            lambda box: self._assemble(level, box, tiling, decode, bad),
            whole, size, tile=tile, threads=threads, extent=extent,
        )  # fmt: skip

    def shrinks(self, level: int) -> bool:
        """Whether tiles can be decoded smaller; see `core.contracts.ShrinkingSlide.shrinks`."""
        return isinstance(self._table(level).codec, ShrinkingCodec)

    def decode_shrunk(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile smaller; see `core.contracts.ShrinkingSlide.decode_shrunk`."""
        codec = self._table(level).codec
        if not isinstance(codec, ShrinkingCodec):
            raise self._tile_error(level, tile, "is of a kind that is not decoded smaller")
        self._decode(codec.decode_shrunk, level, tile, data, out)

    def _decode(
        self,
        decode: Callable[[bytes, NDArray[np.uint8]], None],
        level: int,
        tile: int,
        data: bytes,
        out: NDArray[np.uint8],
    ) -> None:
        if not data:
            out[...] = WHITE
            return
        try:
            decode(data, out)
        except Exception as err:  # decoders raise whatever they like
            raise self._tile_error(level, tile, f"cannot be decoded ({one_line(err)})") from err

    def stores_jpeg(self, level: int) -> bool:
        """Whether tiles are JPEGs by themselves; see `core.contracts.JpegSlide.stores_jpeg`."""
        codec = self._table(level).codec
        return isinstance(codec, JpegCodec) or (
            isinstance(codec, IntervalCodec) and codec.frame.stacks
        )

    def jpeg_tile(self, level: int, tile: int, data: bytes) -> bytes:
        """A tile as a JPEG file; see `core.contracts.JpegSlide.jpeg_tile`."""
        codec = self._table(level).codec
        if not isinstance(codec, JpegCodec):
            return data  # put together from intervals, with a header of its own
        try:
            return codec.whole(data)
        except ValueError as err:
            raise self._tile_error(level, tile, f"cannot be decoded ({one_line(err)})") from err

    def _read_box(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        return self._assemble(level, box, self._table(level).tiling, self.decode_tile)

    def _assemble(
        self, level: int, box: Box, tiling: Tiling, decode: Decode, bad: set[str] | None = None
    ) -> NDArray[np.uint8]:
        """A box put together from decoded tiles: those of the level, or the same shrunk."""

        def put(number: int, out: NDArray[np.uint8]) -> None:
            try:
                decode(level, number, self.fetch_tile(level, number), out)
            except SlideReadError as err:
                if bad is None:
                    raise
                bad.add(err.message)
                out[...] = WHITE

        tile = tiling.tile
        if (tile.width, tile.height) == (box.width, box.height) and not (
            box.x % tile.width or box.y % tile.height
        ):
            number = box.y // tile.height * tiling.shape[1] + box.x // tile.width
            put(number, whole := tile_memory(tile.height, tile.width, 3))
            return whole
        region = np.empty((box.height, box.width, 3), np.uint8)
        pixels = tile_memory(tile.height, tile.width, 3)
        for number, x, y in _touched(tiling, box):
            put(number, pixels)
            x0, x1 = max(x, box.x), min(x + tile.width, box.x + box.width)
            y0, y1 = max(y, box.y), min(y + tile.height, box.y + box.height)
            part = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
            region[y0 - box.y : y1 - box.y, x0 - box.x : x1 - box.x] = part
        return region

    def _open_handle(self) -> tuple[int, ...]:
        with ExitStack() as opened:
            handle = []
            for path in self._files:
                handle.append(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
                opened.callback(os.close, handle[-1])
            opened.pop_all()
        return tuple(handle)

    def _close_handle(self, handle: Sequence[int]) -> None:
        for file in handle:
            os.close(file)

    def _table(self, level: int) -> TileTable:
        self._check_level(level)
        return self._tables[level]

    def _tile_error(self, level: int, tile: int, what: str) -> SlideReadError:
        tiling, scale = self._table(level).tiling, self._info.downsamples[level]
        row, col = divmod(tile, tiling.shape[1])
        x, y = round(col * tiling.tile.width * scale), round(row * tiling.tile.height * scale)
        return self._error(
            f"tile {tile} of level {level}, at level-0 origin ({x}, {y}), {what}.",
            hint=DAMAGED,
        )


def _touched(tiling: Tiling, box: Box) -> Iterator[tuple[int, int, int]]:
    """(number, x, y) of the tiles that a box overlaps."""
    width, height = tiling.tile.width, tiling.tile.height
    for row in range(box.y // height, (box.y + box.height - 1) // height + 1):
        for col in range(box.x // width, (box.x + box.width - 1) // width + 1):
            yield row * tiling.shape[1] + col, col * width, row * height


def tiling_of(level: Size, tile: Size) -> Tiling:
    """Tiles that cover a level."""
    return Tiling(tile, (-(-level.height // tile.height), -(-level.width // tile.width)))
