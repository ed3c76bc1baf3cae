"""Objectives against closed forms, loops over single pairs, and the functions of torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wsiprep.core.errors import ConfigError
from wsiprep.models.objectives.alike import false_negatives, text_keys
from wsiprep.models.objectives.caption import (
    caption_labels,
    caption_loss,
    caption_loss_of_hidden,
)
from wsiprep.models.objectives.combination import combine
from wsiprep.models.objectives.infonce_loss import InfoNCE, infonce, smoothed_cross_entropy
from wsiprep.models.objectives.matching import MatchingHead, hard_negatives, matching_loss
from wsiprep.models.objectives.scale import LogScale, cosines
from wsiprep.models.objectives.siglip_loss import SigLIP, siglip
from wsiprep.models.text.tokenizer import train_words

torch.set_num_threads(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# --- scale -----------------------------------------------------------------------------------


def test_scale_is_limited_and_can_come_back() -> None:
    scale = LogScale(100.0)
    assert scale().item() == pytest.approx(100.0)
    with torch.no_grad():
        scale.log_scale.add_(1.0)
    value = scale()
    assert value.item() == pytest.approx(100.0)
    value.backward()
    assert scale.log_scale.grad is not None
    assert scale.log_scale.grad.item() == pytest.approx(100.0)
    assert not list(LogScale(10.0, learned=False).parameters())
    with pytest.raises(ValueError, match="at most 100"):
        LogScale(101.0)


def test_cosines_are_of_float32_under_autocast_and_the_best_of_many() -> None:
    a, b = rows(3, 8), rows(4, 8, seed=1)
    expected = functional.cosine_similarity(a[:, None], b[None], dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosines(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    many = torch.stack([a, -a, torch.zeros_like(a)], dim=1)
    torch.testing.assert_close(cosines(many, b), expected.abs())


# --- InfoNCE ---------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_infonce_of_equal_vectors_is_ln_b(batch: int, smoothing: float) -> None:
    same = rows(1, 5).expand(batch, 5)
    loss = infonce(same, same, 10.0, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(math.log(batch), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infonce_is_the_cross_entropy_of_torch_both_ways(smoothing: float) -> None:
    slide, text = rows(6, 8), rows(6, 8, seed=1)
    logits = functional.normalize(slide, dim=1) @ functional.normalize(text, dim=1).T / 0.07
    own = torch.arange(6)
    expected = sum(
        functional.cross_entropy(way, own, label_smoothing=smoothing) for way in (logits, logits.T)
    )
    found = infonce(slide, text, 1 / 0.07, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected / 2)
    # The length of the vectors does not matter.
    torch.testing.assert_close(
        infonce(slide * 9, text / 9, 1 / 0.07), infonce(slide, text, 1 / 0.07)
    )


def test_infonce_without_ignored_pairs_is_that_of_the_smaller_batch() -> None:
    logits = rows(4, 6)
    ignore = torch.zeros(4, 6, dtype=torch.bool)
    ignore[:, 4:] = True
    target = torch.arange(4)
    found = smoothed_cross_entropy(logits, target, smoothing=0.2, ignore=ignore)
    expected = functional.cross_entropy(
        logits[:, :4], target, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(found, expected)


def test_infonce_learns_its_temperature_only_when_told() -> None:
    slide, text = rows(4, 8), rows(4, 8, seed=1)
    assert not list(InfoNCE().parameters())
    assert InfoNCE().scale().item() == pytest.approx(10.0)
    learned = InfoNCE(temperature=0.07, learned=True)
    learned(slide, text).backward()
    assert learned.scale.log_scale.grad is not None
    with pytest.raises(ValueError, match="cannot go with"):
        infonce(slide, text[:3], 1.0)
    with pytest.raises(ValueError, match="label smoothing"):
        InfoNCE(label_smoothing=1.0)


def test_equal_texts_are_no_negatives() -> None:
    keys = text_keys(["Margins are clear.", "Necrosis", "margins are  CLEAR", "Fat"])
    mask = false_negatives(keys)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(mask, expected)
    near = torch.eye(4, 4)
    near[3] = torch.tensor([0.0, 1.0, 0.0, 0.2])
    expected[1, 3] = expected[3, 1] = True
    assert torch.equal(false_negatives(keys, near), expected)
    assert text_keys(["a"]).dtype == torch.int64
    # Two samples with one text and one slide, the others orthogonal: no loss is left but theirs.
    vectors = torch.eye(4)[[0, 1, 0, 3]]
    kept = infonce(vectors, vectors, 50.0)
    assert kept.item() == pytest.approx(math.log(2) / 2, abs=1e-4)
    masked = infonce(vectors, vectors, 50.0, ignore=false_negatives(keys))
    assert masked.item() == pytest.approx(0.0, abs=1e-4)


# --- SigLIP ----------------------------------------------------------------------------------


def test_siglip_without_scale_and_bias_is_ln_2_a_pair() -> None:
    a, b = rows(5, 8), rows(5, 8, seed=1)
    assert siglip(a, b, 0.0, 0.0, reduction="pairs").item() == pytest.approx(math.log(2))
    assert siglip(a, b, 0.0, 0.0).item() == pytest.approx(5 * math.log(2))


def test_siglip_is_a_loop_over_pairs() -> None:
    a, b = rows(4, 8), rows(4, 8, seed=1)
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[0, 3] = ignore[3, 0] = True
    total, pairs = 0.0, 0
    for i in range(4):
        for j in range(4):
            if ignore[i, j]:
                continue
            cosine = functional.cosine_similarity(a[i], b[j], dim=0).item()
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * (7.0 * cosine - 3.0)))
            pairs += 1
    assert siglip(a, b, 7.0, -3.0, ignore=ignore).item() == pytest.approx(total / 4, rel=1e-5)
    by_pairs = siglip(a, b, 7.0, -3.0, ignore=ignore, reduction="pairs").item()
    assert by_pairs == pytest.approx(total / pairs, rel=1e-5)


def test_siglip_begins_at_10_and_minus_10_and_learns_both() -> None:
    loss = SigLIP()
    assert (loss.scale().item(), loss.bias.item()) == (pytest.approx(10.0), -10.0)
    loss(rows(4, 8), rows(4, 8, seed=1)).backward()
    assert all(p.grad is not None and p.grad.abs() > 0 for p in loss.parameters())
    assert loss(rows(0, 8), rows(0, 8)).item() == 0
    with pytest.raises(ValueError, match="cannot go with"):
        loss(rows(4, 8), rows(3, 8))


# --- matching --------------------------------------------------------------------------------


def test_hard_negatives_are_drawn_by_their_likeness_and_never_true() -> None:
    similarity = torch.tensor([[9.0, 2.0, 0.0], [0.0, 9.0, 0.0], [3.0, 0.0, 9.0]])
    ignore = torch.zeros(3, 3, dtype=torch.bool)
    ignore[2, 0] = True
    generator = seeded()
    drawn = torch.stack(
        [hard_negatives(similarity, generator=generator, ignore=ignore) for _ in range(2000)]
    )
    share = [(drawn[:, 0] == column).float().mean().item() for column in range(3)]
    likely = math.exp(2) / (1 + math.exp(2))
    assert share == pytest.approx([0.0, likely, 1 - likely], abs=0.03)
    assert (drawn[:, 1] != 1).all()
    assert (drawn[:, 2] == 1).all()
    assert hard_negatives(torch.ones(1, 1), generator=generator).tolist() == [-1]


def test_matching_asks_of_every_pair_and_of_two_wrong_ones_each() -> None:
    asked: list[tuple[int, int]] = []

    def fuse(slides: Tensor, texts: Tensor) -> Tensor:
        asked.extend(zip(slides.tolist(), texts.tolist(), strict=True))
        same = (slides == texts).float()
        return torch.stack([same, 1 - same], dim=1)[:, None].expand(-1, 3, 2)

    head = MatchingHead(2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[0.0, 5.0], [5.0, 0.0]]))
        head.linear.bias.zero_()
    similarity = rows(4, 4)
    loss, right = matching_loss(fuse, head, similarity, generator=seeded())
    assert len(asked) == 12
    assert [slide == text for slide, text in asked] == [True] * 4 + [False] * 8
    assert {text for _, text in asked[4:8]} == {slide for slide, _ in asked[8:]} == set(range(4))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-5)), rel=1e-4)
    assert right.all()
    # The head's answer is the mean over queries of logits, of nothing known ln 2.
    with torch.no_grad():
        head.linear.weight.zero_()
    assert matching_loss(fuse, head, similarity, generator=seeded())[0].item() == pytest.approx(
        math.log(2)
    )
    alone, right = matching_loss(fuse, head, similarity[:1, :1], generator=seeded())
    assert len(right) == 1
    assert alone.item() == pytest.approx(math.log(2))


def test_wrong_slides_are_like_the_text_and_wrong_texts_like_the_slide() -> None:
    asked: list[tuple[int, int]] = []

    def fuse(slides: Tensor, texts: Tensor) -> Tensor:
        asked.extend(zip(slides.tolist(), texts.tolist(), strict=True))
        return torch.zeros(len(slides), 1, 2)

    # Slide i is very like text i + 1; hence text j is very like slide j - 1.
    similarity = torch.zeros(3, 3)
    similarity[[0, 1, 2], [1, 2, 0]] = 99.0
    matching_loss(fuse, MatchingHead(2), similarity, generator=seeded())
    assert asked[3:6] == [(2, 0), (0, 1), (1, 2)]
    assert asked[6:] == [(0, 1), (1, 2), (2, 0)]


# --- captions --------------------------------------------------------------------------------


def test_caption_loss_is_of_the_next_token_after_the_prefix() -> None:
    tokenizer = train_words(["tumour fat", "nerve"], max_words=9)
    ids, mask = tokenizer.batch(["tumour fat", "nerve"], max_tokens=9)
    labels = caption_labels(ids, mask, prefix=3)
    assert labels.tolist() == [
        [-100, -100, -100, 1, *tokenizer.encode("tumour fat"), 2],
        [-100, -100, -100, 1, *tokenizer.encode("nerve"), 2, -100],
    ]
    logits = rows(2, labels.shape[1], tokenizer.vocab_size)
    total, count = 0.0, 0
    for row in range(2):
        for place in range(1, labels.shape[1]):
            wanted = int(labels[row, place])
            if wanted != -100:
                total -= logits[row, place - 1].log_softmax(0)[wanted].item()
                count += 1
    assert count == 7
    assert caption_loss(logits, labels).item() == pytest.approx(total / count, rel=1e-5)
    flat = torch.zeros_like(logits)
    assert caption_loss(flat, labels).item() == pytest.approx(math.log(tokenizer.vocab_size))
    nothing = torch.full_like(labels, -100)
    assert caption_loss(logits, nothing).item() == 0


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_caption_loss_in_chunks_is_the_same_with_its_gradients(chunk: int) -> None:
    hidden, weight, bias = rows(3, 6, 8), rows(11, 8, seed=1), rows(11, seed=2)
    labels = torch.randint(11, (3, 6), generator=seeded())
    labels[0, 3:] = -100
    whole = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    parts = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    expected = caption_loss(whole[0] @ whole[1].T + whole[2], labels, label_smoothing=0.1)
    found = caption_loss_of_hidden(
        parts[0], parts[1], labels, bias=parts[2], label_smoothing=0.1, chunk=chunk
    )
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# --- sum -------------------------------------------------------------------------------------


def test_objectives_add_up_by_weights() -> None:
    losses = {
        "contrast": torch.tensor(2.0, requires_grad=True),
        "caption": torch.tensor(3.0, requires_grad=True),
        "match": torch.tensor(5.0, requires_grad=True),
    }
    found = combine(losses, {"contrast": 1.0, "caption": 2.0, "match": 0.0})
    assert found.total.item() == 8.0
    found.total.backward()
    assert [loss.grad and loss.grad.item() for loss in losses.values()] == [1.0, 2.0, None]
    assert {k: v.item() for k, v in found.parts.items()} == {
        "contrast": 2.0,
        "caption": 3.0,
        "match": 5.0,
    }
    assert not found.parts["match"].requires_grad


@pytest.mark.parametrize(
    "weights",
    [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": -1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        combine({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, weights)
