"""Few queries that read many rows: the same as plain softmax, gradients too, in little memory."""

from __future__ import annotations

import pytest
import torch

from wsiprep.models import folded as module
from wsiprep.models.attention import Attention, Context
from wsiprep.models.folded import read_rows, row_share
from wsiprep.models.ragged import Plan, even_starts

torch.set_num_threads(1)
LENGTHS = [[30], [30, 0, 27, 31, 1], [16, 16, 16]]


def made(lengths, queries=2, heads=3, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    plan = Plan(even_starts(len(lengths), queries), starts)
    shape = (queries * len(lengths), heads, width)
    asked = torch.randn(shape, generator=generator, dtype=dtype)
    rows = torch.randn(int(starts[-1]), width, generator=generator, dtype=dtype)
    return asked, rows, plan


def plain(asked, rows, plan):
    read, share = torch.zeros_like(asked), torch.zeros(len(rows), dtype=asked.dtype)
    for b in range(len(plan.query_starts) - 1):
        i, j = slice(*plan.query_starts[b : b + 2]), slice(*plan.key_starts[b : b + 2])
        if len(rows[j]):
            weights = torch.einsum("qhc,kc->qhk", asked[i], rows[j]).softmax(-1)
            read[i] = weights @ rows[j]
            share[j] = weights.mean((0, 1))
    return read, share


@pytest.mark.parametrize("scores", [1, 60, 300, 1 << 20])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_equals_plain(lengths, scores, monkeypatch):
    monkeypatch.setattr(module, "PIECE_SCORES", scores)
    asked, rows, plan = made(lengths)
    wanted, share = plain(asked, rows, plan)
    read, total = read_rows(asked, rows, plan)
    torch.testing.assert_close(read, wanted)
    there = torch.repeat_interleave(torch.tensor(lengths) > 0, 2).double()
    torch.testing.assert_close(total, there[:, None].expand(-1, 3))
    torch.testing.assert_close(row_share(asked, rows, plan), share.float())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("scores", [60, 1 << 20])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_gradients_are_exact(lengths, scores, dropout, monkeypatch):
    monkeypatch.setattr(module, "PIECE_SCORES", scores)
    asked, rows, plan = made(lengths, heads=2, width=3)

    def same_numbers(asked, rows):
        torch.manual_seed(1)
        return read_rows(asked, rows, plan, dropout=dropout)

    leaves = (asked.requires_grad_(), rows.requires_grad_())
    assert torch.autograd.gradcheck(same_numbers, leaves, fast_mode=True)


def test_scores_of_any_size_do_no_harm():
    asked, rows, plan = made([40, 3], dtype=torch.float32)
    rows = (1000 * rows).requires_grad_()
    read, _ = read_rows(asked, rows, plan)
    read.sum().backward()
    torch.testing.assert_close(read, plain(asked, rows, plan)[0])
    assert torch.isfinite(rows.grad).all()


def test_dropout_is_right_on_average():
    asked, rows, plan = made([30, 8])
    torch.manual_seed(0)
    found = [read_rows(asked, rows, plan, dropout=0.3) for _ in range(3000)]
    read, total = (torch.stack(part) for part in zip(*found, strict=True))
    torch.testing.assert_close(read.mean(0), plain(asked, rows, plan)[0], atol=0.05, rtol=0)
    torch.testing.assert_close(total.mean(0), torch.ones_like(total[0]), atol=0.03, rtol=0)
    assert total.std(0).min() > 0.01


def test_rows_of_half_precision_are_read_as_they_are():
    asked, rows, plan = made([30, 27], dtype=torch.float32)
    half = rows.half()
    read, _ = read_rows(asked, half, plan)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, plain(asked, half.float(), plan)[0])


def test_autocast_is_felt_forward_and_backward():
    asked, rows, plan = made([30, 27], dtype=torch.float32)
    leaves = asked.requires_grad_(), rows.requires_grad_()
    exact = torch.autograd.grad(read_rows(*leaves, plan)[0].square().sum(), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        read, _ = read_rows(*leaves, plan)
    rough = torch.autograd.grad(read.square().sum(), leaves)
    for one, two in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0.1, rtol=0.05)
        assert not torch.equal(one, two)


def kept_bytes(lengths):
    asked, rows, plan = made(lengths, dtype=torch.float32)
    kept = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr():
            kept.append(tensor.nbytes)
        return tensor

    rows.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        read_rows(asked.requires_grad_(), rows, plan)
    return sum(kept)


def test_nothing_is_kept_of_rows():
    assert kept_bytes([5000, 4000]) == kept_bytes([50, 40]) > 0


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_an_adapter_is_read_through(lengths, queries):
    torch.manual_seed(0)
    layer = Attention(16, 2, context_dim=6).double()
    adapter = torch.nn.Linear(10, 6).double()
    _, rows, plan = made(lengths, queries, width=10)
    x = torch.randn(queries * len(lengths), 16).double()
    found = []
    for context in (Context(rows, plan, adapter), Context(adapter(rows), plan)):
        adapter.zero_grad()
        out = layer.read(x, context)
        out.square().sum().backward()
        grads = [p.grad.clone() for p in adapter.parameters()]
        found.append([out, layer.share(x, context), *grads])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
