"""Which stored tiles a run of patches needs, and who decodes each: once, kept while it is needed.

Patches are read in units, short runs of consecutive patches of a grid. Neighbours share stored
tiles: an offset grid touches four tiles a patch, and overlapping patches lie on the same ones. The
first unit that needs a tile owns it and decodes it; the tile is kept until the last unit that
needs it has it in its patches. Where keeping all of them would need more memory than is allowed,
tiles whose next use lies far ahead are let go and decoded again.

Everything here is arithmetic on integers: nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size, Tiling

__all__ = ["Piece", "Schedule", "Unit", "Use", "schedule"]

Piece = list[int]
"""Patch, then y, x in the tile; y, x in the patch; height, width of what is copied."""


class Use(NamedTuple):
    """What a unit does with a tile.

    Attributes:
        loan: Number of the loan.
        tile: Number of the tile.
        pieces: Parts of the unit's patches that lie on it.
        same: Patch of the unit that the tile is, pixel by pixel; -1 if there is none.
        lent: Whether a later unit needs it.
    """

    loan: int
    tile: int
    pieces: list[Piece]
    same: int
    lent: bool


class Unit(NamedTuple):
    """The work of one thread at a go; patches are numbered from the unit's first.

    Attributes:
        own: Tiles that it decodes.
        borrowed: Tiles that earlier units decode, by loan.
        whole: For each patch, whether tiles cover it; the rest of it is white.
    """

    own: list[Use]
    borrowed: dict[int, Use]
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
        resident: Most tiles held at a time for later units.
        use_loan: int64 (uses,), which loans units need, by unit, then by tile.
        first_use: int64 (units + 1,), where those of each unit begin.
        same: int64 (uses,), see `Use`.
        piece: int64 (pieces, 7), see `Piece`, by use.
        first_piece: int64 (uses + 1,), first piece of each use.
        whole: bool (patches,), whether the pieces of a patch cover it.
    """

    bounds: NDArray[np.int64]
    tile: NDArray[np.int64]
    owner: NDArray[np.int64]
    last: NDArray[np.int64]
    users: NDArray[np.int64]
    resident: int
    use_loan: NDArray[np.int64]
    first_use: NDArray[np.int64]
    same: NDArray[np.int64]
    piece: NDArray[np.int64]
    first_piece: NDArray[np.int64]
    whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def unit(self, number: int) -> Unit:
        """The work of one unit."""
        first, stop = self.bounds[number : number + 2].tolist()
        begin, end = self.first_use[number : number + 2].tolist()
        loan, cuts = self.use_loan[begin:end], self.first_piece[begin : end + 1].tolist()
        pieces = self.piece[cuts[0] : cuts[-1]] - (first, 0, 0, 0, 0, 0, 0)
        rows: list[Piece] = pieces.tolist()
        uses = map(
            Use,
            loan.tolist(),
            self.tile[loan].tolist(),
            [rows[i - cuts[0] : j - cuts[0]] for i, j in pairwise(cuts)],
            self.same[begin:end].tolist(),
            (self.last[loan] > number).tolist(),
        )
        unit = Unit([], {}, self.whole[first:stop].tolist())
        for use, own in zip(uses, (self.owner[loan] == number).tolist(), strict=True):
            if own:
                unit.own.append(use)
            else:
                unit.borrowed[use.loan] = use
        return unit


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
        budget: Tiles that may be held at a time for later units. It is exceeded only where the
            units under way lie on more than that by themselves.
    """
    patch, piece_tile, piece = _pieces(corner, read_px, level, tiling)
    count = len(bounds) - 1
    unit_of_patch = np.repeat(np.arange(count), np.diff(bounds))
    # By tile, then by unit: neighbours in this order that name the same tile share a loan.
    pairs, pair_of_piece, pieces_of_pair = np.unique(
        piece_tile * max(count, 1) + unit_of_patch[patch], return_inverse=True, return_counts=True
    )
    tile, unit = pairs // max(count, 1), pairs % max(count, 1)
    horizon = max(count, 1)
    while True:
        fresh = np.ones(len(pairs), np.bool_)
        fresh[1:] = (np.diff(tile) != 0) | (np.diff(unit) > horizon)
        begin = np.flatnonzero(fresh)
        end = np.append(begin[1:], len(pairs)) - 1 if len(pairs) else begin
        lent = end > begin
        resident = _resident(unit[begin[lent]], unit[end[lent]], count, at_once)
        # Nearer than the units under way, a tile is held anyway: letting go would double it.
        if resident <= budget or horizon <= at_once:
            break
        horizon = max(at_once, horizon // 2)
    loan = np.cumsum(fresh) - 1
    by_unit = np.lexsort((tile, unit))
    place = np.empty_like(by_unit)
    place[by_unit] = np.arange(len(pairs))
    use_of_piece, same = place[pair_of_piece], np.full(len(pairs), -1)
    if (tiling.tile.width, tiling.tile.height) == (read_px, read_px):
        filled = np.flatnonzero((piece[:, 5:] == read_px).all(axis=1))
        same[use_of_piece[filled]] = patch[filled] - bounds[unit_of_patch[patch[filled]]]
    area = np.bincount(patch, piece[:, 5] * piece[:, 6], len(corner))
    return Schedule(
        bounds=bounds,
        tile=tile[begin],
        owner=unit[begin],
        last=unit[end],
        users=end - begin + 1,
        resident=resident,
        use_loan=loan[by_unit],
        first_use=np.searchsorted(unit[by_unit], np.arange(count + 1)),
        same=same,
        piece=piece[np.argsort(use_of_piece, kind="stable")],
        first_piece=np.concatenate([[0], np.cumsum(pieces_of_pair[by_unit])]),
        whole=area == read_px * read_px,
    )


def _pieces(
    corner: NDArray[np.int64], read_px: int, level: Size, tiling: Tiling
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Patch and tile of every piece, and its `Schedule.piece`, by patch."""
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
    piece = np.empty((len(patch), 7), np.int64)
    piece[:, 0] = patch
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
