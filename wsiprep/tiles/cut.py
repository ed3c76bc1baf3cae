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
from wsiprep.tiles.job import WHITE, Handle, Job, Pixels, no_tile, read_one
from wsiprep.tiles.patch import resample
from wsiprep.tiles.schedule import Piece, Schedule, Unit, Use

__all__ = ["FromTiles", "Source", "apart"]

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


def apart(tiles: Schedule, read_px: int, patch_px: int) -> NDArray[np.bool_]:
    """Which patches are put together at their reading size, and resized when they are whole.

    The others are put where they go at once: those that are not resized, and those of which each
    pixel lies on one tile, whose parts are shrunk where they are.

    Returns:
        bool (patches,).
    """
    factor, rest = divmod(read_px, patch_px)
    if rest or not factor:
        return np.ones(len(tiles.whole), np.bool_)
    buffered = np.zeros(len(tiles.whole), np.bool_)
    buffered[tiles.piece[(tiles.piece[:, 3:] % factor).any(axis=1), 0]] = True
    return buffered


class _Laid(NamedTuple):
    """A unit, and where the parts of its patches go."""

    work: Unit
    targets: list[NDArray[np.uint8]]


class FromTiles:
    """Cuts patches from tiles, as a schedule says; a `tiles.make.Maker`.

    A unit decodes the tiles it owns, one after the other, and puts each in all its patches at
    once, while it is in the processor's cache, and in those of the next unit, where that is handed
    out yet and its patches are not put together elsewhere first. One that is a patch is decoded
    into place, and put from there. Then the tile's memory is the next one's, but where a later
    unit needs it. Tiles that earlier units decode come last, when all of the unit's own are
    decoded: no two units wait for each other.

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
        self.at_once, patch_px = at_once, job.grid.plan.patch_px
        self._native, self._factor = read_px == patch_px, read_px // patch_px
        self._apart = apart(tiles, read_px, patch_px)
        self._ready = [threading.Event() for _ in range(len(tiles))]
        self._left = (tiles.users - 1).tolist()
        self._lent: dict[int, NDArray[np.uint8]] = {}
        self._put_ahead: set[int] = set()
        # An error holds on to what its frames do, batches among them: kept only to be raised.
        self._keeps_errors = job.on_bad_tile == "fail" and not self._blocks
        self._damaged: dict[int, SlideReadError | None] = {}
        self._absent: set[int] = set()
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self._laid: dict[int, _Laid | None] = {}
        self._laying = threading.Lock()

    def make(self, handle: Handle, unit: int, pixels: Pixels, ok: NDArray[np.bool_]) -> None:
        """See `Maker.make`."""
        began = time.perf_counter()
        try:
            laid = self._lay(unit, pixels)
            assert laid is not None  # noqa: S101 - it is the unit's turn
            laid_s = time.perf_counter() - began
            self._decode_own(self._source(handle()), unit, laid, pixels)
        finally:
            self._ready[unit].set()
        began = time.perf_counter() - laid_s
        if laid.work.borrowed:
            began += self._borrow(unit, laid)
        if self._job.stopped.is_set():
            return
        self._laid[unit] = None
        bad, patches = self._bad(laid.work), pixels(unit)
        assert patches is not None  # noqa: S101 - until it is done
        for k, (target, patch) in enumerate(zip(laid.targets, patches, strict=True)):
            if k in bad:
                row = int(self._rows[self._schedule.bounds[unit] + k])
                self._mend(bad[k], handle, row, patch, ok[k : k + 1])
            elif len(target) != len(patch):
                resample(target, patch)
        self._job.times.add(cut_s=time.perf_counter() - began)

    def _lay(self, unit: int, pixels: Pixels) -> _Laid | None:
        """A unit and where its parts go; None where it is not handed out yet, or done."""
        with self._laying:
            if unit not in self._laid:
                patches = pixels(unit)
                if patches is None:
                    return None
                work = self._schedule.unit(unit)
                self._laid[unit] = _Laid(work, self._targets(unit, work, patches))
            return self._laid[unit]

    def _targets(
        self, unit: int, work: Unit, patches: NDArray[np.uint8]
    ) -> list[NDArray[np.uint8]]:
        """Where the parts of each patch go: the patch, or memory of its reading size."""
        targets, first = list(patches), int(self._schedule.bounds[unit])
        for k in np.flatnonzero(self._apart[first : first + len(targets)]).tolist():
            targets[k] = np.empty((self._read_px, self._read_px, 3), np.uint8)
        for target, whole in zip(targets, work.whole, strict=True):
            if not whole:
                target[...] = WHITE
        return targets

    def _next(self, unit: int, pixels: Pixels) -> _Laid | None:
        """The unit after this one (there is one), if tiles can go there.

        Not where patches are put together elsewhere first: that takes memory.
        """
        first, stop = self._schedule.bounds[unit + 1 : unit + 3].tolist()
        return None if self._apart[first:stop].any() else self._lay(unit + 1, pixels)

    def _decode_own(self, source: Source, unit: int, laid: _Laid, pixels: Pixels) -> None:
        """Decode the tiles that a unit owns, and put each where it goes."""
        level, clock = self._job.grid.plan.level, time.perf_counter
        fetch, decode, stopped = source.fetch_tile, source.decode_tile, self._job.stopped.is_set
        read_s = decode_s = cut_s = 0.0
        bytes_, following = 0, None
        for use in laid.work.own:
            if stopped():
                return
            places = [(use, laid.targets)]
            if use.lent:
                following = following or self._next(unit, pixels)
                ahead = following and following.work.borrowed.get(use.loan)
                if following and ahead:
                    places.append((ahead, following.targets))
            out = self._patch(places)
            tile = self._buffer() if out is None else out
            began = clock()
            try:
                data = fetch(level, use.tile)
                fetched = clock()
                decode(level, use.tile, data, tile)
            except SlideReadError as err:
                self._damaged[use.loan] = err if self._keeps_errors else None
                if out is None:
                    self._spare.append(tile)
                continue
            decoded = clock()
            if not data and not self._blocks:
                self._absent.add(use.loan)
            for part, targets in places:
                self._put(tile, part.pieces, targets)
            if len(places) > 1:
                self._left[use.loan] -= 1  # nobody else knows of the tile yet
                self._put_ahead.add(use.loan)
            if use.lent and self._left[use.loan]:
                if out is not None:
                    tile = self._buffer()
                    tile[...] = out
                self._lent[use.loan] = tile
            elif out is None:
                self._spare.append(tile)  # the next tile goes where this one is, still warm
            read_s += fetched - began
            decode_s += decoded - fetched
            cut_s += clock() - decoded
            bytes_ += len(data)
        spent = {"patch_s": decode_s} if self._blocks else {"read_s": read_s, "decode_s": decode_s}
        self._job.times.add(**spent, cut_s=cut_s, bytes=bytes_, tiles=len(laid.work.own))

    def _patch(self, places: list[tuple[Use, list[NDArray[np.uint8]]]]) -> NDArray[np.uint8] | None:
        """The patch that a tile is, if there is one."""
        if self._native:
            for use, targets in places:
                if use.same >= 0:
                    return targets[use.same]
        return None

    def _put(
        self, tile: NDArray[np.uint8], pieces: list[Piece], targets: list[NDArray[np.uint8]]
    ) -> None:
        """Put a tile in its place in all patches of a unit."""
        factor = self._factor
        for k, ty, tx, y, x, height, width in pieces:
            target = targets[k]
            if target is tile:  # decoded into place
                continue
            part = tile[ty : ty + height, tx : tx + width]
            if len(target) == self._read_px:
                target[y : y + height, x : x + width] = part
            else:
                y, x, height, width = y // factor, x // factor, height // factor, width // factor
                resample(part, target[y : y + height, x : x + width])

    def _borrow(self, unit: int, laid: _Laid) -> float:
        """Put tiles that earlier units decode in their places; seconds it waited for them."""
        borrowed, targets = laid.work.borrowed.values(), laid.targets
        missing = [use for use in borrowed if not self._take(use, unit, targets)]
        began = time.perf_counter()
        # Those units were begun before this one, and decoding they wait for nobody.
        for earlier in {int(self._schedule.owner[use.loan]) for use in missing}:
            # When all is stopped, a unit may have been cancelled before one that needs it.
            while not self._ready[earlier].wait(STOP_POLL_S):
                if self._job.stopped.is_set():
                    return 0.0
        waited = time.perf_counter() - began
        for use in missing:
            # There is none where it is damaged, and where its owner failed: the stream ends there.
            self._take(use, unit, targets)
        return waited

    def _take(self, use: Use, unit: int, targets: list[NDArray[np.uint8]]) -> bool:
        """Put a tile that was lent in its place, and give it back; False if there is none."""
        tile = self._lent.get(use.loan)  # first: that it went ahead is told before it is lent
        if use.loan in self._put_ahead and self._schedule.owner[use.loan] == unit - 1:
            return True
        if tile is None:
            return False
        self._put(tile, use.pieces, targets)
        with self._lock:
            self._left[use.loan] -= 1
            if not self._left[use.loan]:
                self._spare.append(self._lent.pop(use.loan))
        return True

    def _bad(self, work: Unit) -> dict[int, SlideReadError | None]:
        """Patches of a unit that cannot be made, and why: None where the file has no tile."""
        bad: dict[int, SlideReadError | None] = {}
        if self._damaged or self._absent:
            uses = [*work.own, *work.borrowed.values()]
            there = {p[0] for use in uses if use.loan not in self._absent for p in use.pieces}
            bad = {p[0]: None for use in uses for p in use.pieces if p[0] not in there}
            bad |= {
                p[0]: self._damaged[use.loan]
                for use in uses
                if use.loan in self._damaged
                for p in use.pieces
            }
        return bad

    def _mend(
        self,
        error: SlideReadError | None,
        handle: Handle,
        row: int,
        patch: NDArray[np.uint8],
        ok: NDArray[np.bool_],
    ) -> None:
        """Do with a patch that cannot be cut what is to be done; `ok` is bool (1,)."""
        if self._blocks:  # the fault may lie beside the patch
            read_one(self._job, handle(), row, patch, ok)
        elif self._job.on_bad_tile == "fail":
            raise error or no_tile(handle(), self._job.grid, row)
        else:
            patch[...], ok[...] = WHITE, False

    def _buffer(self) -> NDArray[np.uint8]:
        while True:
            try:
                return self._spare.pop()
            except IndexError:
                count = max(1, BLOCK_BYTES // math.prod(self._shape))
                self._spare.extend(tile_memory(count, *self._shape))
