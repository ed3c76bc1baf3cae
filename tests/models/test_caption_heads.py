"""Decoders that say captions from a slide's tokens."""

from __future__ import annotations

import pytest
import torch

from wsiprep.models.caption_heads import CaptionHead, CrossCaptions, PrefixCaptions
from wsiprep.models.text.tokenizer import Tokenizer, train_bpe

COLOURS = ("red", "green", "blue", "white")
CAPTIONS = [f"the slide is {colour}" for colour in COLOURS]
OPTIONS = {"width": 32, "layers": 2, "heads": 4, "hidden": 64}
WIDTH = 8
HEADS = (PrefixCaptions, CrossCaptions)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(CAPTIONS, vocab_size=300)


def slides(counts: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of slides, each of its own direction."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(counts), WIDTH, generator=random) * 0.1
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    tokens[torch.arange(len(owner)), owner] += 1
    return tokens, torch.tensor(counts)


def made(kind: type[CaptionHead], tokenizer: Tokenizer) -> CaptionHead:
    torch.manual_seed(0)
    return kind(WIDTH, OPTIONS, tokenizer)


@pytest.mark.parametrize("kind", HEADS)
def test_captions_follow_their_slides(kind, tokenizer):
    head = made(kind, tokenizer)
    optimiser = torch.optim.AdamW(head.parameters(), 3e-3)
    for step in range(150):
        optimiser.zero_grad()
        loss = head(*slides([3, 1, 2, 4], seed=step), CAPTIONS, 16)
        loss.backward()
        optimiser.step()
    tokens, counts = slides([2, 2, 2, 2], seed=1000)
    right = float(head(tokens, counts, CAPTIONS, 16).detach())
    wrong = float(head(tokens, counts, CAPTIONS[1:] + CAPTIONS[:1], 16).detach())
    assert right < 0.1
    assert wrong > right + 0.5


@pytest.mark.parametrize("kind", HEADS)
def test_a_batch_is_the_mean_of_its_captions(kind, tokenizer):
    head = made(kind, tokenizer).eval()
    captions = ["the slide", "the slide is green", "white"]
    tokens, counts = slides([3, 1, 5])
    together = float(head(tokens, counts, captions, 16).detach())
    first, total, said = 0, 0.0, 0
    for count, caption in zip(counts.tolist(), captions, strict=True):
        size = len(tokenizer.encode(caption)) + 1
        one = head(tokens[first : first + count], torch.tensor([count]), [caption], 16)
        total, said, first = total + float(one.detach()) * size, said + size, first + count
    assert together == pytest.approx(total / said, rel=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_the_order_of_slides_is_that_of_captions(kind, tokenizer):
    head = made(kind, tokenizer).eval()
    tokens, counts = slides([2, 3])
    one = head(tokens, counts, CAPTIONS[:2], 16)
    swapped = head(torch.cat([tokens[2:], tokens[:2]]), counts.flip(0), CAPTIONS[1::-1], 16)
    torch.testing.assert_close(one, swapped)


def test_a_slide_without_tokens_is_said_nothing_of(tokenizer):
    head = made(CrossCaptions, tokenizer).eval()
    tokens, counts = slides([0, 3])
    loss = head(tokens, counts, CAPTIONS[:2], 16)
    assert bool(loss.isfinite())
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)
    # It sees no other slide's tokens either.
    empty = torch.tensor([0])
    alone = head(tokens[:0], empty, CAPTIONS[:1], 16)
    rest = head(tokens, torch.tensor([3]), CAPTIONS[1:2], 16)
    sizes = [len(tokenizer.encode(caption)) + 1 for caption in CAPTIONS[:2]]
    mean = (alone * sizes[0] + rest * sizes[1]) / sum(sizes)
    torch.testing.assert_close(loss, mean)


def test_the_first_half_of_the_blocks_reads_the_caption_alone(tokenizer):
    head = made(CrossCaptions, tokenizer)
    assert (head.alone, len(head.looks)) == (1, 1)
    head(*slides([1, 1]), CAPTIONS[:2], 16).backward()
    assert all(p.grad is not None for p in head.looks.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_cut_off_is_not_said(kind, tokenizer):
    head = made(kind, tokenizer).eval()
    tokens, counts = slides([1, 1])
    longer = head(tokens, counts, [CAPTIONS[0], CAPTIONS[1] + " and green"], 7)
    shorter = head(tokens, counts, [CAPTIONS[0], CAPTIONS[1] + " and green, blue, red"], 7)
    torch.testing.assert_close(longer, shorter)
