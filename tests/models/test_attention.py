"""Packed attention against plain attention, bag by bag."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.models import attend as kernels
from wsiprep.models import attention as module
from wsiprep.models.attend import attend, attend_lse, attention_share
from wsiprep.models.attention import Attention, Context, FeedForward
from wsiprep.models.ragged import (
    Plan,
    by_chunks,
    even_starts,
    segment_mean,
    segment_softmax,
    segment_sum,
)

torch.set_num_threads(1)
LENGTHS = st.lists(st.integers(0, 90), min_size=1, max_size=9)


def starts_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def rows(starts, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(starts[-1]), *shape, generator=generator)


def plain(q, k, v, q_starts, k_starts):
    """Output, log-sum-exp and share, with nothing but softmax."""
    out, lse, share = torch.zeros_like(q), torch.zeros(q.shape[:2]), torch.zeros(len(k))
    for b in range(len(q_starts) - 1):
        i, j = slice(*q_starts[b : b + 2]), slice(*k_starts[b : b + 2])
        scores = torch.einsum("qhe,khe->hqk", q[i], k[j]) / math.sqrt(q.shape[-1])
        lse[i] = scores.logsumexp(-1).T
        if k[j].shape[0]:
            weights = scores.softmax(-1)
            out[i] = torch.einsum("hqk,khe->qhe", weights, v[j])
            if q[i].shape[0]:
                share[j] = weights.mean((0, 1))
    return out, lse, share


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 90)), min_size=1, max_size=9),
    group_rows=st.sampled_from([1, 64, 65536]),
    scores=st.sampled_from([1, 100, 1 << 24]),
)
def test_attend_equals_plain(pairs, group_rows, scores):
    q_starts, k_starts = (starts_of(side) for side in zip(*pairs, strict=True))
    q, k, v = rows(q_starts, 2, 4), rows(k_starts, 2, 4, seed=1), rows(k_starts, 2, 4, seed=2)
    plan = Plan(q_starts, k_starts, group_rows=group_rows)
    wanted, wanted_lse, wanted_share = plain(q, k, v, q_starts, k_starts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SCORES", scores)
        out, lse = attend_lse(q, k, v, plan)
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(lse, wanted_lse)
        torch.testing.assert_close(attend(q, k, v, plan), wanted)
    torch.testing.assert_close(attention_share(q, k, plan), wanted_share)


def test_dropout_a_head_at_a_time_is_right_on_average(monkeypatch):
    monkeypatch.setattr(kernels, "SCORES", 1)
    starts = starts_of([6, 9])
    q, k, v = (rows(starts, 2, 4, seed=s).requires_grad_() for s in range(3))
    plan = Plan(starts, starts)
    torch.manual_seed(0)
    found = torch.stack([attend(q, k, v, plan, dropout=0.3) for _ in range(1500)])
    assert found.std(0).min() > 0.01
    torch.testing.assert_close(found.mean(0), attend(q, k, v, plan), atol=0.1, rtol=0)
    found.sum().backward()
    assert torch.isfinite(k.grad).all()


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("lengths", [[30], [30, 0, 7, 31, 1], [16, 16, 16], [0, 0]])
def test_folded_projections_equal_plain_ones(queries, lengths, monkeypatch):
    torch.manual_seed(0)
    layer = Attention(16, 2, context_dim=12).double()  # sums are in another order
    k_starts = starts_of(lengths)
    plan = Plan(even_starts(len(lengths), queries), k_starts)
    x = torch.randn(queries * len(lengths), 16).double()
    context = rows(k_starts, 12).double()
    assert layer._few(plan) == (queries == 2)
    found = []
    for few in (True, False):
        monkeypatch.setattr(Attention, "_few", lambda self, plan, few=few: few)
        layer.zero_grad()
        leaf = context.clone().requires_grad_()
        out = layer.read(x, Context(leaf, plan))
        share = layer.share(x, Context(leaf, plan))
        (out * torch.linspace(0, 1, 16)).sum().backward()
        grads = [p.grad for p in layer.parameters()]
        found.append([out, share, leaf.grad, *grads])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1.3e-6, atol=1e-5)


def test_recomputed_keys_give_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    layer = Attention(16, 2, dropout=0.2)
    starts = starts_of([50, 30])
    plan = Plan(even_starts(2, 40), starts)
    x, context = torch.randn(80, 16), rows(starts, 16)
    found = []
    for limit in (10, 1000):
        monkeypatch.setattr(module, "KEY_ROWS", limit)
        torch.manual_seed(1)
        leaf = context.clone().requires_grad_()
        layer.read(x, Context(leaf, plan)).square().sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS)
def test_padding_and_back(lengths):
    starts = starts_of(lengths)
    plan = Plan(starts, starts)
    x = rows(starts, 3)
    padded = plan.pad_keys(x)
    assert sum(len(part.flatten(0, 1)) for part in padded) <= 1.25 * len(x) + 64 * 9
    torch.testing.assert_close(plan.unpad_keys(padded, x), x)
    bag = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    for b, n in enumerate(lengths):
        mine = x[bag == b]
        torch.testing.assert_close(segment_sum(x, starts)[b], mine.sum(0))
        if n:
            torch.testing.assert_close(segment_mean(x, starts)[b], mine.mean(0))
            torch.testing.assert_close(segment_softmax(x, starts)[bag == b], mine.softmax(0))


def test_nan_of_a_neighbour_does_not_leak():
    lengths = [40, 33, 38]
    starts = starts_of(lengths)
    x = rows(starts, 2, 4)
    x[40:73] = torch.nan
    plan = Plan(starts, starts)
    assert len(plan.groups) == 1
    x = x.requires_grad_()
    out = attend(x, x, x, plan)
    assert torch.isfinite(out[:40]).all()
    assert torch.isnan(out[40:73]).all()
    out[:40].sum().backward()
    assert torch.isfinite(x.grad[:40]).all()


def test_chunks_of_rows():
    torch.manual_seed(0)
    layer = FeedForward(8, 16, inner_norm=True)
    x = torch.randn(100, 8)
    found = []
    for size in (7, 100):
        leaf = x.clone().requires_grad_()
        out = by_chunks(layer, leaf, size)
        out.square().sum().backward()
        found.append((out, leaf.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="3 heads"):
        Attention(16, 3)
    with pytest.raises(ValueError, match="as many"):
        Plan(starts_of([1]), starts_of([1, 2]))


@pytest.mark.gpu
@pytest.mark.parametrize("pairs", [[(8, 300), (8, 0), (8, 77)], [(64, 64), (1, 1), (130, 130)]])
def test_packed_kernel_on_a_gpu_equals_plain(pairs):
    q_starts, k_starts = (starts_of(side).cuda() for side in zip(*pairs, strict=True))
    q, k, v = (
        rows(s.cpu(), 4, 32, seed=n).cuda().to(torch.bfloat16)
        for n, s in enumerate((q_starts, k_starts, k_starts))
    )
    plan = Plan(q_starts, k_starts)
    assert kernels._packed_kernel(q, plan, 0.0)
    out, lse = attend_lse(q, k, v, plan)
    wanted, wanted_lse, _ = plain(*(t.float().cpu() for t in (q, k, v)), q_starts, k_starts)
    torch.testing.assert_close(out.float().cpu(), wanted, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(lse.cpu(), wanted_lse, atol=2e-2, rtol=2e-2)
