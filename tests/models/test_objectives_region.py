"""What texts see of regions and patches: against loops over single slides and texts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wsiprep.models.objectives.alike import text_keys
from wsiprep.models.objectives.region_pool import RegionPool, pad_runs
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.siglip_loss import siglip
from wsiprep.models.objectives.top_k import SoftTopK, soft_top_k, straight_through_top_k

torch.set_num_threads(1)

DIM = 16
REGION_BAG = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3])  # slide 2 has no region
TEXT_BAG = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


REGION, TEXT = rows(8, DIM), rows(8, DIM, seed=1)
KEYS = text_keys(["a", "b", "c", "A.", "d", "b", "e", "f"])


def pool(**changes: Any) -> RegionPool:
    torch.manual_seed(0)
    return RegionPool(DIM, heads=4, **changes)


def attend(pool: RegionPool, text: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """One text and the regions of one slide, by torch's own attention."""
    other = torch.nn.MultiheadAttention(DIM, 4, add_zero_attn=pool.zero_slot, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.k.weight, pool.v.weight]))
        other.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]))
        other.out_proj.weight.copy_(pool.out.weight)
        other.out_proj.bias.copy_(pool.out.bias)
        q, k, v = pool.text_norm(text), pool.key_norm(regions), pool.value_norm(regions)
        out, weights = other(q[None, None], k[None], v[None])
    return out[0, 0], weights[0, 0, : len(regions)]


def test_runs_become_a_table() -> None:
    table, mask = pad_runs(REGION, REGION_BAG, 4)
    assert table.shape == (4, 4, DIM)
    assert mask.sum(dim=1).tolist() == [3, 1, 0, 4]
    assert torch.equal(table[mask], REGION)
    assert not table[~mask].any()
    table, mask = pad_runs(REGION[:0], REGION_BAG[:0], 2)
    assert table.shape == (2, 1, DIM)
    assert not mask.any()


@pytest.mark.parametrize("zero_slot", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_pooling_is_the_attention_of_torch(zero_slot: bool, norm: bool) -> None:
    made = pool(zero_slot=zero_slot, norm=norm)
    table, mask = pad_runs(REGION, REGION_BAG, 4)
    table[~mask] = torch.nan
    queries = TEXT[:2].expand(4, 2, DIM)
    pooled, weights = made(queries, table, mask)
    for slide in (0, 1, 3):
        regions = REGION[slide == REGION_BAG]
        for text in range(2):
            expected, attention = attend(made, TEXT[text], regions)
            torch.testing.assert_close(pooled[slide, text], expected, atol=1e-5, rtol=1e-5)
            found = weights[slide, text, : len(regions)]
            torch.testing.assert_close(found, attention, atol=1e-5, rtol=1e-5)
    total = weights.sum(dim=2)
    assert not total[2].any()
    if zero_slot:
        assert (total[[0, 1, 3]] < 1).all()
    else:
        torch.testing.assert_close(total[[0, 1, 3]], torch.ones(3, 2))
    with pytest.raises(ValueError, match="do not divide"):
        RegionPool(DIM, heads=3)


def make(**changes: Any) -> RegionSigmoid:
    return RegionSigmoid(DIM, pool=pool(), scale=5.0, bias=-2.0, **changes)


def run(loss: RegionSigmoid, seed: int = 0, **changes: Any) -> Any:
    return loss(REGION, REGION_BAG, TEXT, TEXT_BAG, KEYS, bags=4, generator=seeded(seed), **changes)


@pytest.mark.parametrize("negatives", ["one", "all"])
@pytest.mark.parametrize("reduction", ["slides", "pathflip", "texts"])
def test_loss_is_a_loop_over_slides_and_texts(negatives: Any, reduction: Any) -> None:
    made = make(negatives=negatives, reduction=reduction)
    out = run(made)
    sums, means, owns = 0.0, [], 0
    for slide in range(4):
        regions = REGION[slide == REGION_BAG]
        total, count = 0.0, 0
        for place, label in enumerate(out.label[slide].tolist()):
            if label == 0:
                continue
            number = int(out.candidate[slide, place])
            assert label == (1.0 if TEXT_BAG[number] == slide else -1.0)
            if not len(regions):
                continue
            pooled, attention = attend(made.pool, TEXT[number], regions)
            cosine = functional.cosine_similarity(pooled, TEXT[number], dim=0).item()
            assert out.cosine[slide, place].item() == pytest.approx(cosine, abs=1e-5)
            found = out.weights[slide, place, : len(regions)]
            torch.testing.assert_close(found, attention, atol=1e-5, rtol=1e-5)
            total += math.log(1 + math.exp(-label * (5.0 * cosine - 2.0)))
            count += 1
            owns += label > 0
        if len(regions):
            sums += total
            means.append(total / count)
    expected = {
        "slides": sum(means) / len(means),
        "pathflip": sum(means),
        "texts": sums / owns,
    }[reduction]
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)


def candidates(out: Any, slide: int) -> set[int]:
    return set(out.candidate[slide][out.label[slide] != 0].tolist())


def test_candidates_are_own_texts_and_one_of_each_other_slide_that_says_something_else() -> None:
    made = make()
    seen: dict[int, set[int]] = {slide: set() for slide in range(4)}
    for seed in range(40):
        out = run(made, seed)
        for slide in range(4):
            found = candidates(out, slide)
            seen[slide] |= found
            own = set((slide == TEXT_BAG).nonzero()[:, 0].tolist())
            assert own <= found
            others = [int(TEXT_BAG[number]) for number in found - own]
            assert len(others) == len(set(others))
    # "A." of slide 1 says what "a" of slide 0 says, and "b" of 2 what "b" of 0 says.
    assert seen == {
        0: {0, 1, 2, 4, 6, 7},
        1: {1, 2, 3, 4, 5, 6, 7},
        2: {0, 2, 3, 4, 5, 6, 7},
        3: set(range(8)),
    }
    every = run(make(negatives="all"))
    assert candidates(every, 0) == seen[0]
    assert candidates(every, 3) == set(range(8))
    same, again, other = run(made, 1), run(made, 1), run(made, 2)
    assert torch.equal(same.candidate, again.candidate)
    assert not torch.equal(same.candidate, other.candidate)
    with pytest.raises(ValueError, match="needs a generator"):
        made(REGION, REGION_BAG, TEXT, TEXT_BAG, KEYS, bags=4)


def test_near_texts_can_count_as_the_same() -> None:
    text = TEXT.clone()
    text[6] = text[0] * 2
    out = make(negatives="all")(REGION, REGION_BAG, text, TEXT_BAG, KEYS, bags=4, near=0.95)
    assert candidates(out, 0) == {0, 1, 2, 4, 7}


def test_all_learn_and_nothing_is_learned_from_slides_without_regions() -> None:
    made = make()
    region, text = REGION.clone().requires_grad_(), TEXT.clone().requires_grad_()
    made(region, REGION_BAG, text, TEXT_BAG, KEYS, bags=4, generator=seeded()).loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        # The bias of keys adds the same to all scores but that of the empty slot.
        assert parameter.grad.abs().max() > 0, name
    assert region.grad is not None
    assert (region.grad.abs().amax(dim=1) > 0).all()
    nothing = made(REGION[:0], REGION_BAG[:0], TEXT, TEXT_BAG, KEYS, bags=4, generator=seeded())
    assert nothing.loss.item() == 0
    nothing.loss.backward()


def test_a_text_learns_to_see_its_region() -> None:
    """16 slides of 6 regions; the text of each is the marked content of one of them."""
    torch.manual_seed(0)
    marks = functional.normalize(rows(16, DIM, seed=3), dim=1) * 3
    made = RegionSigmoid(DIM, pool=pool())
    with torch.no_grad():
        made.bias.fill_(-5.0)
    optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)
    generator = seeded(9)
    for _ in range(150):
        where = torch.randint(6, (16,), generator=generator)
        which = torch.randperm(16, generator=generator)
        region = torch.randn(16, 6, DIM, generator=generator) * 0.3
        region[torch.arange(16), where] += marks[which]
        out = made(
            region.flatten(0, 1),
            torch.arange(16).repeat_interleave(6),
            marks[which],
            torch.arange(16),
            which,
            bags=16,
            generator=generator,
        )
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
    own = out.label == 1
    assert (out.weights[own].argmax(dim=1) == where).float().mean() >= 0.9
    assert out.cosine[own].mean() > out.cosine[out.label == -1].mean() + 0.4


# --- soft top-k ------------------------------------------------------------------------------

STARTS = torch.tensor([0, 3, 4, 4, 9])
PATCH = rows(9, DIM, seed=5)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 100])
def test_soft_top_k_is_a_softmax_of_which_the_highest_are_kept(k: int) -> None:
    has_patches = TEXT_BAG != 2
    out = soft_top_k(TEXT, TEXT_BAG, PATCH, STARTS, k=k, temperature=0.5)
    for number, bag in enumerate(TEXT_BAG.tolist()):
        patches = PATCH[STARTS[bag] : STARTS[bag + 1]]
        weights = out.weights[number]
        assert len(weights) == len(patches)
        if not len(patches):
            assert not out.pooled[number].any()
            continue
        score = functional.cosine_similarity(TEXT[number][None], patches, dim=1) / 0.5
        chance = score.softmax(0)
        kept = chance.argsort(descending=True)[:k]
        expected = sum(chance[i] * patches[i] for i in kept) / chance[kept].sum()
        torch.testing.assert_close(out.pooled[number], expected)
        assert (weights > 0).sum() == min(k, len(patches))
        assert weights.sum().item() == pytest.approx(1.0)
        if k >= len(patches):
            torch.testing.assert_close(weights, chance)
    assert out.pooled[has_patches].isfinite().all()
    with pytest.raises(ValueError, match="at least 1"):
        soft_top_k(TEXT, TEXT_BAG, PATCH, STARTS, k=0)


def test_soft_top_k_of_equal_patches_keeps_k() -> None:
    same = PATCH[:1].expand(9, DIM)
    out = soft_top_k(TEXT[:1], TEXT_BAG[:1], same, torch.tensor([0, 9, 9, 9, 9]), k=4)
    assert sorted(out.weights[0].tolist()) == [0.0] * 5 + [0.25] * 4


def test_loss_of_soft_top_k_is_siglip_of_all_pairs() -> None:
    made = SoftTopK(k=2)
    patch = PATCH.clone().requires_grad_()
    loss, out = made(TEXT, TEXT_BAG, patch, STARTS)
    expected = siglip(out.pooled, TEXT, 10.0, -10.0, reduction="pairs")
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert patch.grad is not None
    assert patch.grad[3].abs().max() > 0
    assert not soft_top_k(TEXT[:0], TEXT_BAG[:0], PATCH, STARTS).pooled.numel()


def test_picked_tokens_are_unchanged_and_teach_their_scores() -> None:
    score = rows(9, seed=7).requires_grad_()
    out, starts, chosen = straight_through_top_k(score, PATCH, STARTS, k=2)
    assert starts.tolist() == [0, 2, 3, 3, 5]
    torch.testing.assert_close(out, PATCH[chosen])
    for begin, end in ((0, 3), (4, 9)):
        inside = [number for number in chosen.tolist() if begin <= number < end]
        assert inside == sorted(score[begin:end].detach().topk(2).indices.add(begin).tolist())
    # The gradient is that of the weight, n softmax(score).
    wanted = rows(5, DIM, seed=8)
    (out * wanted).sum().backward()
    other = score.detach().clone().requires_grad_()
    weight = torch.cat([len(i) * other[i].softmax(0) for i in torch.split(chosen, [2, 1, 2])])
    (weight[:, None] * PATCH[chosen] * wanted).sum().backward()
    torch.testing.assert_close(score.grad, other.grad)
