from __future__ import annotations

import pytest
import torch

from tests.models.language.fakes import PieceTokenizer, small_model
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.models.language import (
    IGNORE,
    SLIDE_ID,
    Encoded,
    Turn,
    encode_conversation,
    splice_slides,
)

TOKENIZER = PieceTokenizer()
MODEL = small_model(TOKENIZER).requires_grad_(False)


def encoded(question: str, answer: str) -> Encoded:
    turns = [Turn("user", question), Turn("assistant", answer)]
    return encode_conversation(turns, TOKENIZER, "llava_v1")


def random_slide(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, MODEL.width, generator=torch.Generator().manual_seed(seed))


def test_embeddings_of_words_as_slide_give_the_logits_of_the_text() -> None:
    words = torch.tensor(TOKENIZER.encode("tumour with necrosis"))
    with_slide = encoded("a <image> b <image>", "yes")
    place = with_slide.ids == SLIDE_ID
    ids: list[int] = []
    labels: list[int] = []
    for id_, label, slide in zip(
        with_slide.ids.tolist(), with_slide.labels.tolist(), place.tolist(), strict=True
    ):
        ids += words.tolist() if slide else [id_]
        labels += [IGNORE] * len(words) if slide else [label]
    plain = Encoded(torch.tensor(ids), torch.tensor(labels), with_slide.stop_ids)
    visual = MODEL.embed(words)
    one = splice_slides(MODEL, [with_slide], [[visual, visual]])
    two = splice_slides(MODEL, [plain], [[]])
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.position_ids, two.position_ids)
    assert torch.equal(one.inputs_embeds, two.inputs_embeds)
    first = MODEL(one.inputs_embeds, one.attention_mask, labels=one.labels)
    second = MODEL(two.inputs_embeds, two.attention_mask, labels=two.labels)
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    whole = MODEL(MODEL.embed(torch.tensor([ids])), torch.ones(1, len(ids), dtype=torch.bool))
    torch.testing.assert_close(whole.logits[:, first.columns], first.logits, atol=1e-5, rtol=1e-5)


def test_slides_lie_in_their_places_in_order_without_labels() -> None:
    one = encoded("<image> and <image>", "ok")
    slides = [random_slide(3, 1), random_slide(5, 2)]
    batch = splice_slides(MODEL, [one], [slides])
    first, second = (one.ids == SLIDE_ID).nonzero()[:, 0].tolist()
    row = batch.inputs_embeds[0]
    assert torch.equal(row[first : first + 3], slides[0])
    assert torch.equal(row[second + 2 : second + 7], slides[1])
    assert (batch.labels[0, first : first + 3] == IGNORE).all()
    kept = batch.labels[0][batch.labels[0] != IGNORE]
    assert torch.equal(kept, one.labels[one.labels != IGNORE])


def test_padding_does_not_matter() -> None:
    cases = [
        (encoded("<image> which?", "tumour"), [random_slide(7, 1)]),
        (encoded("none here", "a much longer answer than before"), []),
        (encoded("<image><image> two", "b"), [random_slide(1, 2), random_slide(0, 3)]),
    ]
    alone = []
    for one, slides in cases:
        batch = splice_slides(MODEL, [one], [slides])
        assert batch.attention_mask.all()
        alone.append(MODEL(batch.inputs_embeds, batch.attention_mask).logits[0])
    losses = [
        MODEL(b.inputs_embeds, b.attention_mask, labels=b.labels)
        for b in (splice_slides(MODEL, [one], [slides]) for one, slides in cases)
    ]
    expected = sum(float(out.loss) * int(out.tokens) for out in losses) / sum(
        int(out.tokens) for out in losses
    )
    for padding in ("left", "right"):
        batch = splice_slides(MODEL, [c[0] for c in cases], [c[1] for c in cases], padding=padding)
        spoiled = batch.inputs_embeds.masked_fill(~batch.attention_mask[..., None], 1e3)
        out = MODEL(spoiled, batch.attention_mask, position_ids=batch.position_ids)
        for logits, mask, single in zip(out.logits, batch.attention_mask, alone, strict=True):
            torch.testing.assert_close(logits[mask], single, atol=1e-4, rtol=1e-4)
        assert out.logits.isfinite().all()
        loss = MODEL(spoiled, batch.attention_mask, labels=batch.labels).loss
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_slide_and_not_the_padding() -> None:
    slide = random_slide(4, 5).requires_grad_()
    short, long = encoded("<image> q", "a"), encoded("a longer question", "a longer answer")
    batch = splice_slides(MODEL, [short, long], [[slide], []])
    MODEL(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss.backward()
    assert slide.grad is not None
    assert (slide.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("count", [0, 2])
def test_places_and_slides_are_of_one_number(count: int) -> None:
    with pytest.raises(ManifestError, match=f"1 places .* there are {count} slides") as raised:
        splice_slides(
            MODEL, [encoded("<image>", "a")], [[random_slide(2, 0)] * count], names=["s1"]
        )
    assert raised.value.slide == "s1"


def test_slides_are_of_the_models_width() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 31\); the language model takes \(m, 32\)"):
        splice_slides(MODEL, [encoded("<image>", "a")], [[torch.zeros(2, 31)]])


def test_slides_take_the_dtype_of_the_table() -> None:
    slide = random_slide(2, 0).double()
    batch = splice_slides(MODEL, [encoded("<image>", "a")], [[slide]])
    assert batch.inputs_embeds.dtype == torch.float32


def test_a_batch_needs_slides_for_each() -> None:
    with pytest.raises(ValueError, match="1 conversations, slides for 2"):
        splice_slides(MODEL, [encoded("q", "a")], [[], []])
