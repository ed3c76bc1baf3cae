"""Samples are subsets in order, of the size asked for, the same for the same three seeds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.models import Bag, pack
from wsiprep.models.sampling import Sampling, generator_for, sample, sample_rows
from wsiprep.testing.slide_encoder import store_order

torch.set_num_threads(1)


def cells(count, seed=0, side=50):
    picked = torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))[:count]
    cell = torch.stack([picked // side, picked % side], dim=1)
    return cell[store_order(cell)]


def bag_of(counts, seed=0):
    parts = [cells(n, seed + k) for k, n in enumerate(counts)]
    slide = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    cell = torch.cat(parts)
    return Bag(torch.arange(len(cell)).float()[:, None], cell, slide)


METHODS = st.sampled_from(["all", "uniform", "stratified", "regions"])


@settings(deadline=None, max_examples=80)
@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    method=METHODS,
    patches=st.integers(1, 500),
    regions=st.integers(1, 12),
    each=st.integers(1, 60),
    least=st.integers(1, 40),
    cap=st.none() | st.integers(1, 300),
    seed=st.integers(0, 2**40),
)
def test_a_sample_is_an_increasing_subset(counts, method, patches, regions, each, least, cap, seed):
    bag = bag_of(counts)
    cfg = Sampling(
        method=method, patches=patches, regions=regions, region_patches=each,
        min_region_patches=least, max_patches=cap,
    )  # fmt: skip
    rows = sample_rows(bag.cell, bag.slide, cfg, generator_for(seed, 0, "a"))
    assert rows.dtype == torch.int64
    assert ((rows[1:] - rows[:-1]) > 0).all()
    assert len(rows) == 0 or (rows[0] >= 0 and rows[-1] < len(bag))
    total = len(bag)
    limit = total if cap is None else cap
    if method in ("uniform", "stratified"):
        assert len(rows) == min(total, patches, limit)
    elif method == "all":
        assert len(rows) == min(total, limit)
    else:
        assert len(rows) <= limit
        assert (len(rows) > 0) == (total > 0)
    pack([bag.take(rows)])  # refuses what is out of order or there twice


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 1500), regions=st.integers(1, 20), each=st.integers(1, 256))
def test_regions(count, regions, each):
    bag = bag_of([count])
    cfg = Sampling(method="regions", regions=regions, region_patches=each)
    whole = pack([bag])
    sizes = whole.region_starts.diff()
    drawn = sample(bag, cfg, seed=1, epoch=2, slide_id="x")
    found = whole.region[drawn.features[:, 0].long()]
    numbers, many = found.unique(return_counts=True)
    large = sizes >= 16 if bool((sizes >= 16).any()) else sizes >= 1
    assert len(numbers) == min(regions, int(large.sum()))
    assert large[numbers].all()
    assert torch.equal(many, sizes[numbers].clamp(max=each))


def test_small_regions_are_taken_where_there_is_nothing_else():
    bag = bag_of([20])
    assert len(sample(bag, Sampling(method="regions"), seed=0, epoch=0, slide_id="s")) == 20


def test_all_takes_the_bag_itself():
    bag = bag_of([30])
    assert sample(bag, Sampling(), seed=0, epoch=0, slide_id="s") is bag


@pytest.mark.parametrize("method", ["uniform", "stratified", "regions"])
def test_seed_epoch_and_slide_all_count(method):
    bag = bag_of([900])
    cfg = Sampling(method=method, patches=100, regions=3, region_patches=40)
    drawn = {
        tuple(sample(bag, cfg, seed=s, epoch=e, slide_id=i).features[:, 0].tolist())
        for s, e, i in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "a")]
    }
    assert len(drawn) == 4


def test_another_process_draws_the_same():
    code = (
        "from wsiprep.models.sampling import generator_for; import torch;"
        "print(torch.randperm(50, generator=generator_for(7, 3, 'slide é')).tolist())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed}).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    here = torch.randperm(50, generator=generator_for(7, 3, "slide é")).tolist()
    assert found == {str(here)}


def test_names_do_not_run_together():
    first = torch.rand(3, generator=generator_for(1, 11, "a"))
    assert not torch.equal(first, torch.rand(3, generator=generator_for(11, 1, "a")))


@pytest.mark.parametrize("method", ["uniform", "stratified"])
def test_every_patch_is_drawn_as_often(method):
    cell, slide = cells(40), torch.zeros(40, dtype=torch.int64)
    cfg = Sampling(method=method, patches=10)
    hits = torch.zeros(40)
    for epoch in range(2000):
        hits[sample_rows(cell, slide, cfg, generator_for(0, epoch, "a"))] += 1
    assert ((hits - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()


def test_stratified_leaves_no_part_out():
    square = torch.cartesian_prod(torch.arange(64), torch.arange(64))
    cell = square[store_order(square)]
    slide = torch.zeros(len(cell), dtype=torch.int64)
    cfg = Sampling(method="stratified", patches=256)
    rows = sample_rows(cell, slide, cfg, generator_for(0, 0, "a"))
    block = cell[rows] // 4
    assert len((block[:, 0] * 16 + block[:, 1]).unique()) == 256
    uniform = sample_rows(
        cell, slide, Sampling(method="uniform", patches=256), generator_for(0, 0, "a")
    )
    other = cell[uniform] // 4
    assert len((other[:, 0] * 16 + other[:, 1]).unique()) < 200
