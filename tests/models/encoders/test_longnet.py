"""Dilated attention against dense masks; positions against the table; order.

`dense` is written from the paper's definition and shares no code with what it judges: full L x L
masks, one head and one pair at a time, merged by the logarithms of the sums, in both modes of
padding. Numbers of the published code are in `published_dilated`. Neither shows that published
weights load and give the published vectors.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.models.encoders import published_dilated
from wsiprep.models import Bag, pack
from wsiprep.models.encoders import longnet
from wsiprep.models.encoders._dilated import ABSENT, Dilation, dilated_attention
from wsiprep.models.encoders._parts import raster_order
from wsiprep.testing.slide_encoder import store_order

torch.set_num_threads(1)


def dense(q, k, v, pairs, pad_mode):
    """The definition with masks of L x L, one head and one pair at a time."""
    length, heads, width = q.shape
    outs, lses = [], []
    for w, r in pairs:
        segment = min(w, length)
        block = math.ceil(heads / r)
        place = torch.arange(length)
        part, inside = place // segment, place % segment
        out, lse = torch.zeros_like(q), torch.full((length, heads), ABSENT)
        for h in range(heads):
            phase = h // block
            on = inside % r == phase
            allowed = (part[:, None] == part) & on[:, None] & on
            scores = (q[:, h] @ k[:, h].T / math.sqrt(width)).masked_fill(~allowed, -math.inf)
            value = v[:, h]
            if pad_mode == "reference":
                slots = math.ceil(segment / r)
                zeros = slots - allowed.sum(1)
                pad = torch.arange(slots) < zeros[:, None]
                scores = torch.cat(
                    [scores, torch.zeros(length, slots).masked_fill(~pad, -math.inf)], 1
                )
                value = torch.cat([value, torch.zeros(slots, width)])
            out[on, h] = (scores[on].softmax(-1)) @ value
            lse[on, h] = scores[on].logsumexp(-1)
        outs.append(out)
        lses.append(lse)
    weights = torch.stack(lses).softmax(0).detach()
    return (torch.stack(outs) * weights[..., None]).sum(0)


@pytest.mark.parametrize("pad_mode", ["masked", "reference"])
@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("length", [1, 7, 16, 33, 100])
@pytest.mark.parametrize(
    "pairs", [[(8, 1), (16, 2), (40, 4)], [(5, 1), (10**6, 16)], [(12, 3)], [(32, 8), (7, 1)]]
)
def test_equals_dense_masks(length, heads, pairs, pad_mode):
    torch.manual_seed(length)
    q, k, v = (torch.randn(length, heads, 5, requires_grad=True) for _ in range(3))
    starts = torch.tensor([0, length])
    wanted = dense(q, k, v, pairs, pad_mode)
    found = dilated_attention(q, k, v, [Dilation(starts, w, r, heads, pad_mode) for w, r in pairs])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(found)
    for one, two in zip(
        torch.autograd.grad((found * weight).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "case", published_dilated.CASES, ids=lambda case: published_dilated.key(*case)
)
def test_reference_mode_equals_the_published_code(case):
    name, heads, length = case
    starts = torch.tensor([0, length])
    pairs = published_dilated.PAIRS[name]
    found = dilated_attention(
        *published_dilated.inputs(*case),
        [Dilation(starts, w, r, heads, "reference") for w, r in pairs],
    )
    with np.load(published_dilated.FILE) as file:
        wanted = torch.from_numpy(file[published_dilated.key(*case)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_modes_differ_where_segments_are_filled_up():
    torch.manual_seed(0)
    q, k, v = (torch.randn(11, 4, 5) for _ in range(3))
    found = [
        dilated_attention(q, k, v, [Dilation(torch.tensor([0, 11]), 8, 1, 4, mode)])
        for mode in ("masked", "reference")
    ]
    torch.testing.assert_close(found[0][:8], found[1][:8])
    assert not torch.allclose(found[0][8:], found[1][8:], atol=1e-2)


@pytest.mark.parametrize("pad_mode", ["masked", "reference"])
def test_one_segment_is_full_attention(pad_mode):
    torch.manual_seed(0)
    q, k, v = (torch.randn(33, 4, 5) for _ in range(3))
    found = dilated_attention(q, k, v, [Dilation(torch.tensor([0, 33]), 64, 1, 4, pad_mode)])
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (q, k, v))
    ).transpose(0, 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("pad_mode", ["masked", "reference"])
def test_packed_equals_alone(pad_mode):
    torch.manual_seed(0)
    lengths = [33, 1, 100, 8]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    q, k, v = (torch.randn(int(starts[-1]), 6, 5) for _ in range(3))
    pairs = [(8, 1), (16, 2), (64, 4)]
    found = dilated_attention(q, k, v, [Dilation(starts, w, r, 6, pad_mode) for w, r in pairs])
    for a, b in pairwise(starts.tolist()):
        wanted = dense(q[a:b], k[a:b], v[a:b], pairs, pad_mode)
        torch.testing.assert_close(found[a:b], wanted, atol=1e-5, rtol=1e-5)


def table(side, dim):
    """The table of MAE: a mesh with the column first; half of the channels for each."""
    column, row = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    halves = []
    for place in (column.ravel(), row.ravel()):
        rate = 1.0 / 10000 ** (np.arange(dim // 4, dtype=float) / (dim / 4))
        angle = np.outer(place, rate)
        halves.append(np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    return np.concatenate(halves, axis=1)


def test_positions_equal_the_table():
    side, dim = 50, 64
    x, y = np.divmod(np.arange(side * side), side)
    cell = torch.from_numpy(np.stack([y, x], axis=1))
    found = longnet.sine_cosine(cell, dim)
    wanted = torch.from_numpy(table(side, dim)[x * side + y]).float()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_order_is_that_of_reading():
    cell = torch.cartesian_prod(torch.arange(40), torch.arange(20))
    cell = cell[store_order(cell)]
    one = Bag(torch.randn(800, 3), cell, torch.zeros(800, dtype=torch.int64))
    two = Bag(torch.randn(1600, 3), cell.repeat(2, 1), torch.arange(2).repeat_interleave(800))
    bags = pack([one, two])
    order = raster_order(bags)
    wanted = torch.cartesian_prod(torch.arange(40), torch.arange(20)).repeat(3, 1)
    assert torch.equal(bags.cell[order], wanted)
    assert torch.equal(bags.bag[order], bags.bag)
    assert torch.equal(bags.slide[order], bags.slide)


def test_tokens_are_means_of_runs_in_order_of_reading():
    cfg = {"dim": 16, "layers": 1, "heads": 4, "hidden": 8, "segments": (9,), "ratios": (1,)}
    cell = torch.cartesian_prod(torch.arange(6), torch.arange(20))
    bag = Bag(torch.randn(120, 3), cell[store_order(cell)], torch.zeros(120, dtype=torch.int64))
    found = []
    for tokens in (None, 12, 240):
        torch.manual_seed(0)
        encoder = longnet.create(longnet.Config(**cfg, tokens=tokens), 3).eval()
        found.append(encoder(pack([bag])).tokens)
    torch.testing.assert_close(found[1], found[0].unflatten(0, (12, 10)).mean(1))
    torch.testing.assert_close(found[2], found[0].repeat_interleave(2, 0))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="pairs"):
        longnet.Config(segments=(8,), ratios=(1, 2))
    with pytest.raises(ValueError, match="1 or more"):
        longnet.Config(segments=(8,), ratios=(0,))
