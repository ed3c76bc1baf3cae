"""Packed bags: nothing padded, nothing mixed up, regions are runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.models import Bag, pack


@st.composite
def bags(draw):
    """A few bags, each of up to three slides, cells anywhere, in the store's order."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        rows = []
        for slide in range(draw(st.integers(0, 3))):
            cells = draw(st.sets(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
            rows += sorted((slide, r // 16, c // 16, r, c) for r, c in cells)
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
        features = torch.arange(len(table) * 3, dtype=torch.float32).reshape(-1, 3)
        made.append(Bag(features, table[:, 3:], table[:, 0]))
    return made


@settings(deadline=None, max_examples=60)
@given(bags())
def test_bags_lie_one_after_another_and_regions_within_them(made):
    packed = pack(made)
    assert len(packed) == len(made)
    assert packed.lengths.tolist() == [len(bag) for bag in made]
    for k, bag in enumerate(made):
        rows = slice(int(packed.starts[k]), int(packed.starts[k + 1]))
        torch.testing.assert_close(packed.features[rows], bag.features)
        assert (packed.bag[rows] == k).all()
    regions = len(packed.region_bag)
    assert packed.region_starts.tolist() == sorted(set(packed.region_starts.tolist()))
    assert packed.region_starts[-1] == len(packed.features)
    keys = set()
    for r in range(regions):
        rows = slice(int(packed.region_starts[r]), int(packed.region_starts[r + 1]))
        own = packed.bag[rows].unique()
        chunk = torch.cat([packed.slide[rows, None], packed.cell[rows] // 16], 1).unique(dim=0)
        assert own.tolist() == [int(packed.region_bag[r])]
        assert len(chunk) == 1
        assert (packed.region[rows] == r).all()
        keys.add((int(own), *chunk[0].tolist()))
    assert len(keys) == regions  # no region is in two runs


def _bag(cells, slides=None, width=2):
    cell = torch.tensor(cells, dtype=torch.int64).reshape(-1, 2)
    slide = torch.tensor(slides or [0] * len(cell), dtype=torch.int64)
    return Bag(torch.zeros(len(cell), width), cell, slide)


@pytest.mark.parametrize(
    ("cells", "slides"),
    [
        ([(0, 1), (0, 0)], None),
        ([(0, 0), (0, 0)], None),
        ([(0, 16), (1, 0)], None),  # row-major over the slide, not chunk by chunk
        ([(0, 0), (0, 0)], [1, 0]),
    ],
)
def test_patches_out_of_order_or_twice_are_refused(cells, slides):
    with pytest.raises(ValueError, match="patch 1 of the batch"):
        pack([_bag(cells, slides)])


def test_bags_of_several_widths_and_none_are_refused():
    with pytest.raises(ValueError, match="one width"):
        pack([_bag([(0, 0)]), _bag([(0, 0)], width=3)])
    with pytest.raises(ValueError, match="needs a bag"):
        pack([])
    with pytest.raises(ValueError, match="features"):
        Bag(torch.zeros(2, 3), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(2))


def test_moving_keeps_what_is_counted():
    packed = pack([_bag([(0, 0), (0, 1)])]).to("cpu", torch.float16)
    assert packed.features.dtype == torch.float16
    assert packed.cell.dtype == packed.starts.dtype == torch.int64


def test_some_of_a_bag():
    bag = _bag([(0, 0), (0, 1), (0, 2)])
    assert bag.take(torch.tensor([0, 2])).cell.tolist() == [[0, 0], [0, 2]]
