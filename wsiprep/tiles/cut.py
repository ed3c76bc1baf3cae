"""Patches of a unit cut from stored tiles, as a schedule says."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.tile_memory import tile_memory
from wsiprep.core.types import Tiling
from wsiprep.tiles.blocks import Blocks
from wsiprep.tiles.gate import STOP_POLL_S
from wsiprep.tiles.job import WHITE, Handle, Job, no_tile, read_one
from wsiprep.tiles.patch import resample
from wsiprep.tiles.schedule import Piece, Schedule, Unit

__all__ = ["FromTiles", "Source", "buffered"]

BLOCK_BYTES = 8 << 20
"""Memory for decoded tiles is taken in blocks of about this: NumPy asks for large pages for blocks
of 4 MiB and more, and decoding into those takes some 5 % less time."""


class Source(Protocol):
    """The part of a tiled slide that patches are cut from."""

    def tiling(self, level: int) -> Tiling:
        """See `core.contracts.TiledSlide.tiling`."""
        ...

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """See `core.contracts.TiledSlide.fetch_tile`."""
        ...

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """See `core.contracts.TiledSlide.decode_tile`."""
        ...


def buffered(tiles: Schedule, read_px: int, patch_px: int) -> NDArray[np.int64]:
    """Units with patches that are put together at their reading size; see `_Canvas`."""
    factor, rest = divmod(read_px, patch_px)
    apart = (tiles.piece[:, 3:] % factor).any(axis=1) if factor and not rest else np.True_
    piece = np.flatnonzero(np.broadcast_to(apart & (read_px != patch_px), len(tiles.piece)))
    patch = np.searchsorted(tiles.first_piece, piece, "right") - 1
    return np.unique(np.searchsorted(tiles.bounds, patch, "right") - 1)


class _Canvas:
    """A patch that is being put together.

    Where each patch pixel lies on one tile, parts are shrunk where they are; else they are put
    together at their reading size first. What they leave free is white.
    """

    def __init__(
        self, pieces: list[Piece], patch: NDArray[np.uint8], read_px: int, *, whole: bool
    ) -> None:
        factor, rest = divmod(read_px, len(patch))
        if factor > 1 and not rest and any(n % factor for p in pieces for n in p[3:]):
            rest = 1
        self._patch, self._factor = patch, 1 if rest else factor
        self._out = np.empty((read_px, read_px, 3), np.uint8) if rest else patch
        if not whole:
            self._out[...] = WHITE

    def put(self, piece: Piece, tile: NDArray[np.uint8]) -> None:
        """Put a part of a tile in its place."""
        _, ty, tx, y, x, height, width = piece
        part = tile[ty : ty + height, tx : tx + width]
        if self._factor == 1:
            self._out[y : y + height, x : x + width] = part
        else:
            y, x, height, width = (n // self._factor for n in (y, x, height, width))
            resample(part, self._out[y : y + height, x : x + width])

    def finish(self) -> None:
        """All parts are there."""
        if self._out is not self._patch:
            resample(self._out, self._patch)


class _Later(NamedTuple):
    """A patch that waits for tiles: its place in the unit, what there is of it, what is not."""

    k: int
    canvas: _Canvas | None
    missing: list[Piece]


class FromTiles:
    """Cuts patches from tiles, as a schedule says; a `tiles.make.Maker`.

    A unit goes through its patches: it decodes the tiles it owns when the first patch needs them,
    and cuts the patch while they are in the processor's cache. A tile that no other patch needs is
    put in its place at once, and its memory is the next one's. Patches that need a tile which an
    earlier unit is still about to decode come last, when all of the unit's own are decoded: no two
    units wait for each other.

    Args:
        job: The stream.
        tiles: The schedule of a stretch of it.
        shape: Of a decoded tile, (height, width, 3).
        source: Gives the tiles of a slide.
        read_px: Side of a patch in pixels of the tiles.
        rows: int64 (patches,), rows of the grid.
        at_once: See `tiles.make.Maker`.
    """

    def __init__(
        self,
        job: Job,
        tiles: Schedule,
        shape: tuple[int, int, int],
        source: Callable[[Slide], Source],
        read_px: int,
        rows: NDArray[np.int64],
        at_once: list[int],
    ) -> None:
        self._job, self._schedule, self._shape, self._source = job, tiles, shape, source
        self._read_px, self._rows, self._blocks = read_px, rows, source is Blocks
        self.at_once, self._native = at_once, read_px == job.grid.plan.patch_px
        self._ready = [threading.Event() for _ in range(len(tiles))]
        self._left, self._once = tiles.users.tolist(), tiles.once.tolist()
        self._lent: dict[int, NDArray[np.uint8]] = {}
        self._damaged: dict[int, SlideReadError] = {}
        self._absent: set[int] = set()
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def make(
        self, handle: Handle, unit: int, pixels: NDArray[np.uint8], ok: NDArray[np.bool_]
    ) -> None:
        """See `Maker.make`."""
        try:
            work = self._schedule.unit(unit, native=self._native)
            later = self._decode_and_cut(self._source(handle()), work, pixels)
        finally:
            self._ready[unit].set()
        # Those units were begun before this one, and decoding they wait for nobody.
        for earlier in self._schedule.after(unit) if later else ():
            # When all is stopped, a unit may have been cancelled before one that needs it.
            while not self._ready[earlier].wait(STOP_POLL_S):
                if self._job.stopped.is_set():
                    return
        if self._job.stopped.is_set():
            return
        began = time.perf_counter()
        for k, canvas, missing in later:
            if not self._cut(work, k, pixels[k], canvas, missing):
                row = int(self._rows[self._schedule.bounds[unit] + k])
                self._mend(work.pieces[k], handle, row, pixels[k], ok[k : k + 1])
        self._give_back(work)
        self._job.times.add(cut_s=time.perf_counter() - began)

    def _decode_and_cut(
        self, source: Source, work: Unit, pixels: NDArray[np.uint8]
    ) -> list[_Later]:
        """Decode the tiles that a unit owns, and cut what can be cut.

        Returns:
            Patches of the unit that are still to be cut, or that cannot be.
        """
        level, own, later = self._job.grid.plan.level, dict(work.decode), list[_Later]()
        read_s = decode_s = 0.0
        bytes_ = 0
        start = time.perf_counter()
        for k, pieces in enumerate(work.pieces):
            canvas, shared = None, list[Piece]()
            for piece in pieces:
                loan = piece[0]
                if loan not in own:
                    shared.append(piece)
                    continue
                if self._job.stopped.is_set():
                    return later
                direct = loan in work.direct
                out = pixels[k] if direct else self._buffer()
                began = time.perf_counter()
                try:
                    tile = own.pop(loan)
                    data = source.fetch_tile(level, tile)
                    fetched = time.perf_counter()
                    source.decode_tile(level, tile, data, out)
                except SlideReadError as err:
                    self._damaged[loan] = err
                    shared.append(piece)
                    continue
                if not data and not self._blocks:
                    self._absent.add(loan)
                read_s += fetched - began
                decode_s += time.perf_counter() - fetched
                bytes_ += len(data)
                if direct:
                    continue
                if not self._once[loan]:
                    self._lent[loan] = out
                    shared.append(piece)
                    continue
                canvas = canvas or self._canvas(work, k, pixels[k])
                canvas.put(piece, out)
                self._spare.append(out)  # the next tile goes where this one is, still warm
            if not self._cut(work, k, pixels[k], canvas, shared):
                later.append(_Later(k, canvas, shared))
        cut_s = time.perf_counter() - start - read_s - decode_s
        spent = {"patch_s": decode_s} if self._blocks else {"read_s": read_s, "decode_s": decode_s}
        self._job.times.add(**spent, cut_s=cut_s, bytes=bytes_, tiles=len(work.decode))
        return later

    def _canvas(self, work: Unit, k: int, patch: NDArray[np.uint8]) -> _Canvas:
        return _Canvas(work.pieces[k], patch, self._read_px, whole=work.whole[k])

    def _cut(
        self,
        work: Unit,
        k: int,
        patch: NDArray[np.uint8],
        canvas: _Canvas | None,
        pieces: list[Piece],
    ) -> bool:
        """Complete a patch; False where a tile that it needs is missing, or all are absent."""
        try:
            tiles = [self._lent[piece[0]] for piece in pieces]
        except KeyError:
            return False
        # After the tiles are found: a tile is told to be absent before it is lent.
        if self._absent and self._is_absent(work.pieces[k]):
            return False
        if not pieces and canvas is None and work.pieces[k]:
            return True  # decoded into place
        canvas = canvas or self._canvas(work, k, patch)
        for piece, tile in zip(pieces, tiles, strict=True):
            canvas.put(piece, tile)
        canvas.finish()
        return True

    def _is_absent(self, pieces: list[Piece]) -> bool:
        """Whether a patch lies on the level, and there on nothing but absent tiles."""
        return bool(pieces) and all(piece[0] in self._absent for piece in pieces)

    def _mend(
        self,
        pieces: list[Piece],
        handle: Handle,
        row: int,
        patch: NDArray[np.uint8],
        ok: NDArray[np.bool_],
    ) -> None:
        """Do with a patch that cannot be cut what is to be done; `ok` is bool (1,)."""
        if self._blocks:  # the fault may lie beside the patch
            read_one(self._job, handle(), row, patch, ok)
        elif self._job.on_bad_tile == "fail":
            damaged = [self._damaged[p[0]] for p in pieces if p[0] in self._damaged]
            raise damaged[0] if damaged else no_tile(handle(), self._job.grid, row)
        else:
            patch[...], ok[...] = WHITE, False

    def _give_back(self, work: Unit) -> None:
        """Let go of the tiles that no later unit needs."""
        with self._lock:
            for loan in work.uses:
                self._left[loan] -= 1
                if not self._left[loan]:
                    tile = self._lent.pop(loan, None)
                    if tile is not None:
                        self._spare.append(tile)

    def _buffer(self) -> NDArray[np.uint8]:
        while True:
            try:
                return self._spare.pop()
            except IndexError:
                count = max(1, BLOCK_BYTES // math.prod(self._shape))
                self._spare.extend(tile_memory(count, *self._shape))
