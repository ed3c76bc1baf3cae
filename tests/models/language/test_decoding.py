from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError

from tests.models.language.fakes import PieceTokenizer, small_model
from wsiprep.models.language import Decoding, TinyConfig, TinyLanguageModel, generate
from wsiprep.models.language.decoding import choose

TOKENIZER = PieceTokenizer()
MODEL = small_model(TOKENIZER).requires_grad_(False)


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts of 3, 6 and 9 tokens, padded on the left."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, TOKENIZER.vocab_size, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :6] = mask[1, :3] = False
    return MODEL.embed(ids).detach(), mask


def recomputed(embeds: torch.Tensor, steps: int) -> list[int]:
    """Greedy answer to one prompt (L, width) without a cache."""
    found: list[int] = []
    for _ in range(steps):
        tail = MODEL.embed(torch.tensor([found], dtype=torch.int64)).detach()
        whole = torch.cat([embeds[None], tail], dim=1)
        logits = MODEL(whole, torch.ones(whole.shape[:2], dtype=torch.bool)).logits[0, -1]
        token = int(logits.argmax())
        if token == TOKENIZER.eos_id:
            break
        found.append(token)
    return found


def test_with_a_cache_it_says_what_it_says_without() -> None:
    embeds, mask = prompts()
    found = MODEL.generate(embeds, mask, Decoding(max_new_tokens=20))
    expected = [recomputed(row[seen], 20) for row, seen in zip(embeds, mask, strict=True)]
    assert found == expected
    assert len({tuple(ids) for ids in found}) == 3


def test_answers_end_before_a_stop_token_each_by_itself() -> None:
    embeds, mask = prompts()
    free = MODEL.generate(embeds, mask, Decoding(max_new_tokens=8))
    stop = free[1][3]
    expected = [ids[: ids.index(stop)] if stop in ids else ids for ids in free]
    found = MODEL.generate(embeds, mask, Decoding(max_new_tokens=8), stop_ids=[stop])
    assert found == expected
    assert len(found[1]) < 8


def test_sampling_repeats_with_its_seed() -> None:
    embeds, mask = prompts()
    rules = Decoding(max_new_tokens=12, temperature=1.5, top_p=0.95)

    def draw(seed: int) -> list[list[int]]:
        torch.manual_seed(seed + 100)
        generator = torch.Generator().manual_seed(seed)
        return MODEL.generate(embeds, mask, rules, generator=generator)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    with pytest.raises(ValueError, match="needs a generator"):
        MODEL.generate(embeds, mask, rules)


def test_sampling_follows_the_probabilities_that_are_left() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probability.log()[[2, 0, 3, 1]].repeat(20_000, 1)
    cases = [
        (Decoding(temperature=1), [0.15, 0.5, 0.05, 0.3]),
        (Decoding(temperature=1, top_k=2), [0, 0.625, 0, 0.375]),
        (Decoding(temperature=1, top_p=0.79), [0, 0.625, 0, 0.375]),
        (Decoding(temperature=1, top_p=0.81), [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        (Decoding(temperature=1, top_p=0.01), [0, 1, 0, 0]),
        (Decoding(temperature=0.5), [0.0616, 0.6849, 0.0068, 0.2466]),
    ]
    for rules, expected in cases:
        drawn = choose(logits, rules, torch.Generator().manual_seed(0))
        shares = drawn.bincount(minlength=4) / len(drawn)
        torch.testing.assert_close(shares, torch.tensor(expected).float(), atol=0.012, rtol=0)
        assert ((shares == 0) == (torch.tensor(expected) == 0)).all()


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_enough_find_the_best_answer_of_all(penalty: float) -> None:
    class Few:
        pad_id, bos_id, eos_id, vocab_size = 0, 1, 2, 5
        encode = staticmethod(lambda text: [3])
        decode = staticmethod(lambda ids: "")

    model = TinyLanguageModel(TinyConfig(width=16, layers=1, heads=2, hidden=16), Few())
    with torch.no_grad():
        for weight in model.requires_grad_(False).parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    steps = 3
    embeds = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, :2] = False
    rules = Decoding(max_new_tokens=steps, beams=80, length_penalty=penalty)
    found = model.generate(embeds, mask, rules)
    for row, (prompt, seen) in enumerate(zip(embeds, mask, strict=True)):
        best: tuple[float, list[int]] = (float("-inf"), [])
        for length in range(1, steps + 1):
            for ids in itertools.product(range(5), repeat=length):
                # Answers end with token 2 or at the last step, and have it nowhere else.
                if 2 in ids[:-1] or (ids[-1] != 2 and length < steps):
                    continue
                whole = torch.cat([prompt[seen], model.embed(torch.tensor(ids))])[None]
                out = model(whole, torch.ones(1, whole.shape[1], dtype=torch.bool)).logits[0]
                likely = out[-length - 1 : -1].log_softmax(-1)
                total = float(likely[range(length), ids].sum()) / length**penalty
                best = max(best, (total, [i for i in ids if i != 2]))
        assert found[row] == best[1]


def test_one_beam_is_greedy_and_more_are_no_less_likely() -> None:
    embeds, mask = prompts()

    def likelihood(ids: list[int], row: int) -> float:
        whole = torch.cat([embeds[row][mask[row]], MODEL.embed(torch.tensor(ids)).detach()])[None]
        logits = MODEL(whole, torch.ones(1, whole.shape[1], dtype=torch.bool)).logits[0]
        chosen = logits[-len(ids) - 1 : -1].log_softmax(-1)[range(len(ids)), ids]
        return float(chosen.sum())

    greedy = MODEL.generate(embeds, mask, Decoding(max_new_tokens=5))
    beams = MODEL.generate(embeds, mask, Decoding(max_new_tokens=5, beams=6))
    assert all(len(ids) == 5 for ids in [*greedy, *beams])
    for row in range(3):
        assert likelihood(beams[row], row) >= likelihood(greedy[row], row) - 1e-5


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    embeds, mask = prompts()
    cfg = TinyConfig(width=32, layers=1, heads=4, hidden=32, dropout=0.5)
    model = TinyLanguageModel(cfg, TOKENIZER).train()
    first = generate(model, embeds, mask, Decoding(max_new_tokens=5))
    assert model.training
    assert generate(model, embeds, mask, Decoding(max_new_tokens=5)) == first


def test_what_cannot_be_continued() -> None:
    embeds, mask = prompts()
    with pytest.raises(ValueError, match="pad them on the left"):
        MODEL.generate(embeds, mask.flip(1), Decoding())
    with pytest.raises(ValidationError, match="beams do not sample"):
        Decoding(beams=2, temperature=1)
