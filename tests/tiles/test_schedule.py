"""Every tile once, kept while it is needed, never more than allowed: over any plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.types import Size, Tiling
from wsiprep.tiles.schedule import schedule


@st.composite
def plans(draw):
    """A level, its tiles, patches anywhere (also outside), units of any length."""
    level = Size(draw(st.integers(1, 400)), draw(st.integers(1, 400)))
    tile = Size(draw(st.integers(1, 120)), draw(st.integers(1, 120)))
    tiling = Tiling(tile, (-(-level.height // tile.height), -(-level.width // tile.width)))
    read_px = draw(st.integers(1, 150))
    corner = draw(st.lists(st.tuples(st.integers(-200, 450), st.integers(-200, 450)), max_size=40))
    cuts = draw(st.sets(st.integers(1, max(1, len(corner) - 1)), max_size=10))
    bounds = sorted({0, len(corner), *(c for c in cuts if c < len(corner))})
    return level, tiling, read_px, np.array(corner, np.int64).reshape(-1, 2), np.array(bounds)


def units_of(made):
    return [made.unit(i) for i in range(len(made))]


@settings(deadline=None, max_examples=200)
@given(plans(), st.integers(1, 12), st.integers(0, 60))
def test_pieces_put_every_patch_together_and_loans_are_there_when_used(plan, at_once, budget):
    level, tiling, read_px, corner, bounds = plan
    picture = np.arange(level.area, dtype=np.int64).reshape(level.height, level.width)
    rows, cols = tiling.shape
    padded = np.full((rows * tiling.tile.height, cols * tiling.tile.width), -7)
    padded[: level.height, : level.width] = picture
    made = schedule(corner, bounds, read_px, level, tiling, at_once=at_once, budget=budget)
    out, left, k = {}, (made.users - 1).tolist(), 0
    for number, unit in enumerate(units_of(made)):
        patches = np.full((len(unit.whole), read_px, read_px), -1)

        def put(tile, pieces, patches=patches):
            assert pieces
            for k, ty, tx, y, x, h, w in pieces:
                assert (patches[k, y : y + h, x : x + w] == -1).all()
                patches[k, y : y + h, x : x + w] = tile[ty : ty + h, tx : tx + w]

        def check_same(tile, pieces, same):
            whole = tile.shape == (read_px, read_px)
            those = {k for k, *_, h, w in pieces if whole and h == w == read_px}
            assert same in (those or {-1})

        for loan, tile, pieces, same, lent in unit.own:
            row, col = divmod(tile, cols)
            y, x = row * tiling.tile.height, col * tiling.tile.width
            pixels = padded[y : y + tiling.tile.height, x : x + tiling.tile.width]
            put(pixels, pieces)
            assert lent == (left[loan] > 0)
            check_same(pixels, pieces, same)
            if lent:
                assert loan not in out
                out[loan] = pixels
        owners = {made.owner[use.loan] for use in unit.borrowed.values()}
        assert all(earlier < number for earlier in owners)
        for loan, tile, pieces, same, lent in unit.borrowed.values():
            assert tile == made.tile[loan]
            put(out[loan], pieces)
            check_same(out[loan], pieces, same)
            left[loan] -= 1
            assert lent == (left[loan] > 0)
            if not left[loan]:
                del out[loan]
        for patch, whole in zip(patches, unit.whole, strict=True):
            wanted = np.full((read_px, read_px), -1)
            x0, y0 = corner[k]
            xa, ya = max(x0, 0), max(y0, 0)
            xb, yb = min(x0 + read_px, level.width), min(y0 + read_px, level.height)
            if xa < xb and ya < yb:
                wanted[ya - y0 : yb - y0, xa - x0 : xb - x0] = picture[ya:yb, xa:xb]
            np.testing.assert_array_equal(patch, wanted)
            assert whole == bool((wanted >= 0).all())
            k += 1
    assert k == len(corner)
    assert not out
    assert not any(left)


@settings(deadline=None, max_examples=200)
@given(plans(), st.integers(1, 12), st.integers(0, 60))
def test_no_more_tiles_are_out_than_said_and_than_allowed(plan, at_once, budget):
    """Whatever the order in which units of a window begin and end."""
    level, tiling, read_px, corner, bounds = plan
    made = schedule(corner, bounds, read_px, level, tiling, at_once=at_once, budget=budget)
    most = max(
        (
            int(
                (
                    (made.owner < first + at_once) & (made.last >= first) & (made.last > made.owner)
                ).sum()
            )
            for first in range(len(made))
        ),
        default=0,
    )
    assert most == made.resident
    use_unit = np.repeat(np.arange(len(made)), np.diff(made.first_use))
    if made.resident > budget:  # then nothing is kept for longer than units are under way
        for loan in range(len(made.tile)):
            uses = np.sort(use_unit[made.use_loan == loan])
            assert (np.diff(uses) <= at_once).all()


@settings(deadline=None, max_examples=100)
@given(plans())
def test_with_memory_enough_every_tile_is_decoded_once(plan):
    level, tiling, read_px, corner, bounds = plan
    made = schedule(corner, bounds, read_px, level, tiling, at_once=4, budget=10**6)
    assert len(set(made.tile.tolist())) == len(made.tile)


def test_a_patch_that_is_a_tile_is_known():
    tiling, level = Tiling(Size(32, 32), (4, 4)), Size(128, 120)
    corner = np.array([[0, 0], [32, 0], [64, 0], [70, 0], [96, 96]])
    made = schedule(corner, np.array([0, 5]), 32, level, tiling, at_once=1, budget=99)
    (unit,) = units_of(made)
    # (70, 0) lies on the tile of (64, 0) and beside it; (96, 96) crosses the lower edge.
    assert {use.tile: use.same for use in unit.own} == {0: 0, 1: 1, 2: 2, 3: -1, 15: -1}


def test_a_small_budget_decodes_again_what_lies_far_ahead():
    tiling, level = Tiling(Size(32, 32), (8, 8)), Size(256, 256)
    y, x = np.divmod(np.arange(49), 7)
    corner = np.stack([x, y], axis=1) * 32 + 16
    bounds = np.array(sorted({*range(0, 50, 7), *range(2, 49, 7), *range(5, 49, 7)}))
    plenty = schedule(corner, bounds, 32, level, tiling, at_once=1, budget=64)
    scarce = schedule(corner, bounds, 32, level, tiling, at_once=1, budget=10)
    assert len(plenty.tile) == 64
    assert plenty.resident <= 24
    assert len(scarce.tile) > 64
    assert scarce.resident < plenty.resident


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_read(count):
    tiling, level = Tiling(Size(32, 32), (2, 2)), Size(64, 64)
    corner = np.full((count, 2), 1000)
    bounds = np.unique([0, count])
    made = schedule(corner, bounds, 32, level, tiling, at_once=3, budget=10)
    assert len(made) == count
    assert not len(made.tile)
    assert not made.resident


def test_large_tiles_are_not_held_twice_for_a_budget_that_cannot_be_kept():
    """Sixteen units under way on one tile: to let it go between them is to hold it as often."""
    tiling, level = Tiling(Size(1024, 1024), (4, 4)), Size(4096, 4096)
    y, x = np.divmod(np.arange(256), 16)
    corner = np.stack([x, y], axis=1) * 256
    made = schedule(corner, np.arange(0, 257, 16), 256, level, tiling, at_once=16, budget=1)
    assert len(made.tile) == 16
    assert made.resident <= 16
