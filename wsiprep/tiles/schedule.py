"""Which stored tiles a run of patches needs, and who decodes each: once, kept while it is needed.

Patches are read in units, short runs of consecutive patches of a grid. Neighbours share stored
tiles: an offset grid touches four tiles a patch, and overlapping patches lie on the same ones. The
first unit that needs a tile owns it and decodes it; the tile is kept until the last unit that
needs it has cut its patches. Where keeping all of them would need more memory than is allowed,
tiles whose next use lies far ahead are let go and decoded again.

Everything here is arithmetic on integers: nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size, Tiling

__all__ = ["Piece", "Schedule", "Unit", "schedule"]

Piece = list[int]
"""loan, then y, x in the tile; y, x in the patch; height, width of what is copied."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The work of one thread at a go.

    Attributes:
        decode: (loan, tile) of the tiles it owns.
        direct: Patch of the unit by loan, of owned tiles that are that patch and nothing else.
        uses: Loans to give back when its patches are cut.
        pieces: For each patch of the unit, the parts it is put together from.
        whole: For each patch, whether the parts cover it; the rest of it is white.
    """

    decode: list[tuple[int, int]]
    direct: dict[int, int]
    uses: list[int]
    pieces: list[list[Piece]]
    whole: list[bool]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Loans of tiles to units; a tile that is let go and decoded again has two loans.

    Attributes:
        bounds: int64 (units + 1,), first patch of each unit.
        tile: int64 (loans,), number of the tile.
        owner: int64 (loans,), unit that decodes it.
        last: int64 (loans,), last unit that needs it.
        users: int64 (loans,), how many units need it.
        resident: Most tiles held at a time for more than one patch.
        use_loan: int64 (uses,), which loans units need, by unit.
        first_use: int64 (units + 1,), where those of each unit begin.
        piece: int64 (pieces, 7), see `Piece`, by patch.
        first_piece: int64 (patches + 1,), first piece of each patch.
        whole: bool (patches,), whether the pieces of a patch cover it.
        once: bool (loans,), whether a single patch needs the tile.
        alone: bool (loans,), whether the tile is that patch and nothing else.
    """

    bounds: NDArray[np.int64]
    tile: NDArray[np.int64]
    owner: NDArray[np.int64]
    last: NDArray[np.int64]
    users: NDArray[np.int64]
    resident: int
    use_loan: NDArray[np.int64]
    first_use: NDArray[np.int64]
    piece: NDArray[np.int64]
    first_piece: NDArray[np.int64]
    whole: NDArray[np.bool_]
    once: NDArray[np.bool_]
    alone: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def unit(self, number: int, *, native: bool) -> Unit:
        """The work of one unit; `native` where patches are pixels of the level as they are."""
        first, stop = int(self.bounds[number]), int(self.bounds[number + 1])
        uses = self._uses(number)
        owned = uses[self.owner[uses] == number]
        cuts = self.first_piece[first : stop + 1].tolist()
        rows: list[Piece] = self.piece[cuts[0] : cuts[-1]].tolist()
        pieces = [rows[i - cuts[0] : j - cuts[0]] for i, j in pairwise(cuts)]
        direct = {
            parts[0][0]: k
            for k, parts in enumerate(pieces)
            if native and len(parts) == 1 and self.alone[parts[0][0]]
        }
        return Unit(
            decode=list(zip(owned.tolist(), self.tile[owned].tolist(), strict=True)),
            direct=direct,
            uses=uses.tolist(),
            pieces=pieces,
            whole=self.whole[first:stop].tolist(),
        )

    def after(self, number: int) -> list[int]:
        """Earlier units whose tiles a unit needs."""
        owner = self.owner[self._uses(number)]
        earlier: list[int] = np.unique(owner[owner != number]).tolist()
        return earlier

    def _uses(self, number: int) -> NDArray[np.int64]:
        return self.use_loan[self.first_use[number] : self.first_use[number + 1]]


def schedule(
    corner: NDArray[np.int64],
    bounds: NDArray[np.int64],
    read_px: int,
    level: Size,
    tiling: Tiling,
    *,
    at_once: int,
    budget: int,
) -> Schedule:
    """Lend the tiles of a level to units of patches.

    Args:
        corner: int64 (patches, 2), x and y of each patch, pixels of the level; may lie outside.
        bounds: int64 (units + 1,), first patch of each unit, increasing, from 0 to the number of
            patches.
        read_px: Side of a patch in pixels of the level.
        level: Size of the level.
        tiling: How it is stored.
        at_once: Units that may be under way at a time.
        budget: Tiles that may be held at a time for more than one patch. It is exceeded only
            where the units under way lie on more than that by themselves.
    """
    patch, piece_tile, piece = _pieces(corner, read_px, level, tiling)
    count = len(bounds) - 1
    unit_of_patch = np.repeat(np.arange(count), np.diff(bounds))
    # By tile, then by unit: neighbours in this order that name the same tile share a loan.
    pairs, pair_of_piece = np.unique(
        piece_tile * max(count, 1) + unit_of_patch[patch], return_inverse=True
    )
    tile, unit = pairs // max(count, 1), pairs % max(count, 1)
    horizon = max(count, 1)
    while True:
        fresh = np.ones(len(pairs), np.bool_)
        fresh[1:] = (np.diff(tile) != 0) | (np.diff(unit) > horizon)
        begin = np.flatnonzero(fresh)
        end = np.append(begin[1:], len(pairs)) - 1 if len(pairs) else begin
        loan = np.cumsum(fresh) - 1
        once = np.bincount(loan[pair_of_piece], minlength=len(begin)) == 1
        resident = _resident(unit[begin[~once]], unit[end[~once]], count, at_once)
        # Nearer than the units under way, a tile is held anyway: letting go would double it.
        if resident <= budget or horizon <= at_once:
            break
        horizon = max(at_once, horizon // 2)
    piece[:, 0] = loan[pair_of_piece]
    by_unit = np.lexsort((loan, unit))
    area = np.bincount(patch, piece[:, 5] * piece[:, 6], len(corner))
    fills = (piece[:, 5] == read_px) & (piece[:, 6] == read_px)
    fits = (tiling.tile.width, tiling.tile.height) == (read_px, read_px)
    alone = once.copy() if fits else np.zeros_like(once)
    alone[piece[~fills, 0]] = False
    return Schedule(
        bounds=bounds,
        tile=tile[begin],
        owner=unit[begin],
        last=unit[end],
        users=end - begin + 1,
        resident=resident,
        use_loan=loan[by_unit],
        first_use=np.searchsorted(unit[by_unit], np.arange(count + 1)),
        piece=piece,
        first_piece=np.searchsorted(patch, np.arange(len(corner) + 1)),
        whole=area == read_px * read_px,
        once=once,
        alone=alone,
    )


def _pieces(
    corner: NDArray[np.int64], read_px: int, level: Size, tiling: Tiling
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Patch and tile of every piece, by patch, and its `Schedule.piece` but for the loan."""
    size = np.array([level.width, level.height])
    side = np.array([tiling.tile.width, tiling.tile.height])
    low, high = np.clip(corner, 0, size), np.clip(corner + read_px, 0, size)
    inside = (high[:, 0] > low[:, 0]) & (high[:, 1] > low[:, 1])
    first = low // side
    across = np.where(inside[:, None], (high - 1) // side - first + 1, 0)
    count = across[:, 0] * across[:, 1]
    patch = np.repeat(np.arange(len(corner)), count)
    k = np.arange(len(patch)) - np.repeat(np.cumsum(count) - count, count)
    place = first[patch] + np.stack([k % across[patch, 0], k // across[patch, 0]], axis=1)
    origin = place * side
    start, stop = np.maximum(low[patch], origin), np.minimum(high[patch], origin + side)
    piece = np.zeros((len(patch), 7), np.int64)
    piece[:, 1:3] = (start - origin)[:, ::-1]
    piece[:, 3:5] = (start - corner[patch])[:, ::-1]
    piece[:, 5:7] = (stop - start)[:, ::-1]
    return patch, place[:, 1] * tiling.shape[1] + place[:, 0], piece


def _resident(owner: NDArray[np.int64], last: NDArray[np.int64], units: int, at_once: int) -> int:
    """Most loans out at a time, while any `at_once` consecutive units are under way.

    With unit `a` the first that is not done, loans with owner < a + at_once and last >= a may be
    out.
    """
    steps = np.zeros(units + 1, np.int64)
    np.add.at(steps, np.clip(owner - at_once + 1, 0, units), 1)
    np.add.at(steps, last + 1, -1)
    return int(np.cumsum(steps).max(initial=0))
