"""Patches made unit by unit: read one by one, or cut from tiles that are decoded once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import PatchGrid, Point, ReadPlan, Tiling
from wsiprep.tiles.blocks import Blocks
from wsiprep.tiles.patch import read_patch, resample
from wsiprep.tiles.scaled import Scaled, level_corners
from wsiprep.tiles.schedule import Piece, Schedule, Unit, schedule
from wsiprep.tiles.times import ReadTimes

__all__ = ["Job", "Maker", "maker_of", "pieces_of"]

WHITE = 255
BLOCK_BYTES = 8 << 20
"""Memory for decoded tiles is taken in blocks of about this: NumPy asks for large pages for blocks
of 4 MiB and more, and decoding into those takes some 5 % less time."""
STOP_POLL_S = 0.1
"""How long a thread that waits for another's tiles may take to notice that all is stopped."""
OnBadTile = Literal["fail", "mask"]
Handle = Callable[[], Slide]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What makers of all stretches of a stream share.

    Attributes:
        grid: The patches.
        on_bad_tile: Raise where a patch cannot be read, or make it white and not ok.
        stopped: Set when nobody waits for the patches any more.
        times: Where time spent is added.
        scaled: Cut patches from tiles shrunk by the decoder; `why_not_scaled` was asked.
        at_once: Units that may be under way at a time.
        tile_bytes: Decoded tiles that may be held at a time.
    """

    grid: PatchGrid
    on_bad_tile: OnBadTile
    stopped: threading.Event
    times: ReadTimes
    scaled: bool
    at_once: int
    tile_bytes: int


def pieces_of(slide: Slide, plan: ReadPlan) -> int:
    """From how many stored tiles a patch is put together, about."""
    if not isinstance(slide, TiledSlide):
        return 1
    tile = slide.tiling(plan.level).tile
    return (plan.read_px // tile.width + 1) * (plan.read_px // tile.height + 1)


class Maker(Protocol):
    """Makes the patches of a stretch of the grid. One instance serves all threads."""

    def make(
        self, handle: Handle, unit: int, pixels: NDArray[np.uint8], ok: NDArray[np.bool_]
    ) -> None:
        """Fill the patches of a unit; units are begun in their order.

        Args:
            handle: Gives the slide that the thread may use.
            unit: Number of the unit.
            pixels: uint8 (patches, T, T, 3), filled in.
            ok: bool (patches,), True; set to False where a patch could not be read.

        Raises:
            SlideReadError: a patch cannot be read and `on_bad_tile` is `fail`.
        """
        ...


def maker_of(slide: Slide, job: Job, rows: NDArray[np.int64], bounds: NDArray[np.int64]) -> Maker:
    """The maker that suits a slide.

    Args:
        slide: A handle, to learn what it offers.
        job: The stream.
        rows: int64 (patches,), rows of the grid.
        bounds: int64 (units + 1,), first patch of each unit.
    """
    plan, info = job.grid.plan, slide.info
    corner = level_corners(job.grid, info.downsamples[plan.level], rows)
    size, read_px = info.level_sizes[plan.level], plan.read_px
    source: Callable[[Slide], _Source] = _itself
    if job.scaled:
        factor = plan.read_px // plan.patch_px
        source = partial(Scaled, factor=factor)
        corner, read_px = corner // factor, plan.patch_px
        size = Scaled(slide, factor).size(plan.level)
    elif not isinstance(slide, TiledSlide):
        if job.grid.stride_px >= plan.patch_px or plan.level != 0:
            return _OneByOne(job, rows, bounds)
        source = Blocks
    tiling = source(slide).tiling(plan.level)
    tiles = schedule(
        corner, bounds, read_px, size, tiling,
        at_once=job.at_once, budget=job.tile_bytes // (tiling.tile.area * 3),
    )  # fmt: skip
    shape = (tiling.tile.height, tiling.tile.width, 3)
    return _FromTiles(job, tiles, shape, source, read_px, rows)


def _read_one(
    job: Job, slide: Slide, row: int, patch: NDArray[np.uint8], ok: NDArray[np.bool_]
) -> None:
    """Read the patch of a row of the grid; `ok` is bool (1,)."""
    x, y = job.grid.origin0_px[row]
    try:
        patch[...] = read_patch(slide, Point(int(x), int(y)), job.grid.plan)
    except SlideReadError:
        if job.on_bad_tile == "fail":
            raise
        patch[...], ok[...] = WHITE, False


class _OneByOne:
    """Reads each patch by itself."""

    def __init__(self, job: Job, rows: NDArray[np.int64], bounds: NDArray[np.int64]) -> None:
        self._job, self._rows, self._bounds = job, rows, bounds

    def make(
        self, handle: Handle, unit: int, pixels: NDArray[np.uint8], ok: NDArray[np.bool_]
    ) -> None:
        """See `Maker.make`."""
        job, began, slide = self._job, time.perf_counter(), handle()
        for k, row in enumerate(self._rows[self._bounds[unit] : self._bounds[unit + 1]]):
            if job.stopped.is_set():
                return
            _read_one(job, slide, int(row), pixels[k], ok[k : k + 1])
        job.times.add(patch_s=time.perf_counter() - began, tiles=len(pixels))


class _Source(Protocol):
    """The part of a tiled slide that is used here."""

    def tiling(self, level: int) -> Tiling: ...

    def fetch_tile(self, level: int, tile: int) -> bytes: ...

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None: ...


class _FromTiles:
    """Cuts patches from tiles, as a schedule says.

    A unit goes through its patches: it decodes the tiles it owns when the first patch needs them,
    and cuts the patch while they are in the processor's cache. Patches that need a tile which an
    earlier unit is still about to decode come last, when all of the unit's own are decoded: no two
    units wait for each other.
    """

    def __init__(
        self,
        job: Job,
        tiles: Schedule,
        shape: tuple[int, int, int],
        source: Callable[[Slide], _Source],
        read_px: int,
        rows: NDArray[np.int64],
    ) -> None:
        self._job, self._schedule, self._shape, self._source = job, tiles, shape, source
        self._read_px, self._rows, self._blocks = read_px, rows, source is Blocks
        self._factor, rest = divmod(read_px, job.grid.plan.patch_px)
        self._native, self._whole_factor = read_px == job.grid.plan.patch_px, not rest
        self._ready = [threading.Event() for _ in range(len(tiles))]
        self._left, self._once = tiles.users.tolist(), tiles.once.tolist()
        self._lent: dict[int, NDArray[np.uint8]] = {}
        self._damaged: dict[int, SlideReadError] = {}
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
        for k in later:
            if not self._cut(work, k, pixels[k]):
                row = int(self._rows[self._schedule.bounds[unit] + k])
                self._mend(work.pieces[k], handle, row, pixels[k], ok[k : k + 1])
        self._give_back(work)
        self._job.times.add(cut_s=time.perf_counter() - began)

    def _decode_and_cut(self, source: _Source, work: Unit, pixels: NDArray[np.uint8]) -> list[int]:
        """Decode the tiles that a unit owns, and cut what can be cut.

        Returns:
            Patches of the unit that are still to be cut, or that lie on a damaged tile.
        """
        level, own, later = self._job.grid.plan.level, dict(work.decode), list[int]()
        read_s = decode_s = 0.0
        bytes_ = 0
        start = time.perf_counter()
        for k, pieces in enumerate(work.pieces):
            for loan in [piece[0] for piece in pieces if piece[0] in own]:
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
                    continue
                self._lent[loan] = out
                read_s += fetched - began
                decode_s += time.perf_counter() - fetched
                bytes_ += len(data)
            if not self._cut(work, k, pixels[k]):
                later.append(k)
        cut_s = time.perf_counter() - start - read_s - decode_s
        spent = {"patch_s": decode_s} if self._blocks else {"read_s": read_s, "decode_s": decode_s}
        self._job.times.add(**spent, cut_s=cut_s, bytes=bytes_, tiles=len(work.decode))
        return later

    def _cut(self, work: Unit, k: int, patch: NDArray[np.uint8]) -> bool:
        """Put a patch together; False where a tile that it needs is not there, or damaged."""
        pieces, whole = work.pieces[k], work.whole[k]
        try:
            tiles = [self._lent[piece[0]] for piece in pieces]
        except KeyError:
            return False
        if len(pieces) == 1 and pieces[0][0] in work.direct:
            return True  # decoded into place
        if self._native:
            _paste(pieces, tiles, patch, whole=whole)
        elif self._whole_factor and not any(
            n % self._factor for piece in pieces for n in piece[3:]
        ):
            # Each patch pixel lies on one tile: shrink the parts where they are.
            _paste(pieces, tiles, patch, whole=whole, factor=self._factor)
        else:
            read = np.empty((self._read_px, self._read_px, 3), np.uint8)
            _paste(pieces, tiles, read, whole=whole)
            resample(read, patch)
        for piece in pieces:
            if self._once[piece[0]]:  # the next patch's tiles go where this one's are, still warm
                self._spare.append(self._lent.pop(piece[0]))
        return True

    def _mend(
        self,
        pieces: list[Piece],
        handle: Handle,
        row: int,
        patch: NDArray[np.uint8],
        ok: NDArray[np.bool_],
    ) -> None:
        """Do with a patch that lies on a damaged tile what is to be done; `ok` is bool (1,)."""
        if self._blocks:  # the fault may lie beside the patch
            _read_one(self._job, handle(), row, patch, ok)
        elif self._job.on_bad_tile == "fail":
            raise next(self._damaged[p[0]] for p in pieces if p[0] in self._damaged)
        else:
            patch[...], ok[...] = WHITE, False

    def _give_back(self, work: Unit) -> None:
        """Let go of the tiles that no later unit needs."""
        with self._lock:
            for loan in work.uses:
                self._left[loan] -= 1
                if not self._left[loan]:
                    tile = self._lent.pop(loan, None)
                    if tile is not None and loan not in work.direct:
                        self._spare.append(tile)

    def _buffer(self) -> NDArray[np.uint8]:
        while True:
            try:
                return self._spare.pop()
            except IndexError:
                count = max(1, BLOCK_BYTES // math.prod(self._shape))
                self._spare.extend(np.empty((count, *self._shape), np.uint8))


def _paste(
    pieces: list[Piece],
    tiles: list[NDArray[np.uint8]],
    out: NDArray[np.uint8],
    *,
    whole: bool,
    factor: int = 1,
) -> None:
    """Put parts of tiles in their places, shrunk `factor` times; what they leave free is white."""
    if not whole:
        out[...] = WHITE
    for (_, ty, tx, y, x, height, width), tile in zip(pieces, tiles, strict=True):
        part = tile[ty : ty + height, tx : tx + width]
        if factor == 1:
            out[y : y + height, x : x + width] = part
        else:
            y, x, height, width = (n // factor for n in (y, x, height, width))
            resample(part, out[y : y + height, x : x + width])


def _itself(slide: Slide) -> _Source:
    assert isinstance(slide, TiledSlide)  # noqa: S101 - maker_of has looked
    return slide
