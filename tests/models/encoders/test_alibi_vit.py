"""ALiBi in two dimensions against the dense formula; places."""

from __future__ import annotations

import math

import pytest
import torch

from wsiprep.models import Bag, pack
from wsiprep.models.encoders import alibi_vit as module
from wsiprep.models.encoders._parts import side_by_side
from wsiprep.models.ragged import Plan
from wsiprep.testing.slide_encoder import store_order

torch.set_num_threads(1)
SMALL = {"dim": 24, "layers": 2, "heads": 6, "hidden": 32}


def cells(count, seed):
    picked = torch.randperm(900, generator=torch.Generator().manual_seed(seed))[:count]
    cell = torch.stack([picked // 30, picked % 30], dim=1)
    return cell[store_order(cell)]


@pytest.mark.parametrize("scores", [1, 500, 1 << 24])
def test_equals_the_dense_formula(scores, monkeypatch):
    monkeypatch.setattr(module, "SCORES", scores)
    torch.manual_seed(0)
    layer = module.AlibiAttention(24, 6)
    starts = torch.tensor([0, 31, 31, 60, 61])
    x = torch.randn(61, 24, requires_grad=True)
    place = torch.cat([torch.randint(0, 30, (61, 2)).float(), torch.ones(61, 1)], 1)
    place[[0, 1, 31, 60], 2] = 0
    found = layer(x, Plan(starts, starts), place)
    q, k, v = (p(x).unflatten(1, (6, 4)) for p in (layer.query, layer.key, layer.value))
    wanted = torch.zeros_like(q)
    for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        for h in range(6):
            for i in range(a, b):
                score = q[i, h] @ k[a:b, h].T / math.sqrt(4)
                for j in range(a, b):
                    if place[i, 2] and place[j, 2]:
                        far = math.dist(place[i, :2].tolist(), place[j, :2].tolist())
                        score = score - layer.slopes[h] * far * torch.eye(b - a)[j - a]
                wanted[i, h] = score.softmax(0) @ v[a:b, h]
    wanted = layer.out(wanted.flatten(1))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    one = torch.autograd.grad(found.square().sum(), x)[0]
    two = torch.autograd.grad(wanted.square().sum(), x)[0]
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_slopes():
    eight = [2.0**-n for n in range(1, 9)]
    torch.testing.assert_close(module.alibi_slopes(8), torch.tensor(eight))
    twelve = eight + [2.0**-n for n in (0.5, 1.5, 2.5, 3.5)]
    torch.testing.assert_close(module.alibi_slopes(12), torch.tensor(twelve))


def test_moving_the_slide_changes_nothing():
    torch.manual_seed(0)
    encoder = module.create(module.Config(**SMALL), 5).eval()
    cell, features = cells(80, 1), torch.randn(80, 5)
    slide = torch.zeros(80, dtype=torch.int64)
    one = encoder(pack([Bag(features, cell, slide)])).slide
    two = encoder(pack([Bag(features, cell + 160, slide)])).slide
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_slides_lie_side_by_side():
    made = [
        Bag(torch.zeros(n, 1), cells(n, n) + shift, torch.zeros(n, dtype=torch.int64))
        for n, shift in ((30, 160), (40, 0), (20, 16))
    ]
    both = Bag(
        torch.zeros(70, 1),
        torch.cat([made[0].cell, made[1].cell]),
        torch.tensor([0] * 30 + [1] * 40),
    )
    bags = pack([made[2], both, made[1]])
    laid = side_by_side(bags)
    assert torch.equal(laid[:, 0], bags.cell[:, 0])
    for a, b in ((0, 20), (20, 50), (50, 90), (90, 130)):
        assert len((laid[a:b, 1] - bags.cell[a:b, 1]).unique()) == 1
    assert laid[50:90, 1].min() == laid[20:50, 1].max() + 17
    alone = pack([both])
    shift = side_by_side(alone) - laid[20:90]
    assert len(shift[:, 1].unique()) == 1
