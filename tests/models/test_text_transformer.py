"""The text transformer: padding does not matter, order does, and it learns."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from wsiprep.models.text.encoder import Pooling, TextEncoder, pool_tokens
from wsiprep.models.text.tokenizer import train_bpe
from wsiprep.models.text.transformer import TransformerTextConfig, TransformerTextEncoder

torch.set_num_threads(1)

TEXTS = ["ductal carcinoma", "", "no", "invasive lobular carcinoma of grade 3 with necrosis"]
TOKENIZER = train_bpe(TEXTS * 2, vocab_size=290)


def encoder(pooling: Pooling = "mean", **changes: object) -> TransformerTextEncoder:
    cfg = TransformerTextConfig.model_validate(
        {"dim": 32, "layers": 2, "heads": 4, "max_tokens": 48, "pooling": pooling, **changes}
    )
    generator = torch.Generator().manual_seed(0)
    made = TransformerTextEncoder(cfg, TOKENIZER, generator=generator).eval()
    with torch.no_grad():  # larger weights, so that differences are not hidden
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return made


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_are_encoded_the_same_alone_and_padded(pooling: Pooling) -> None:
    made = encoder(pooling)
    together = made.encode_tokens(TEXTS)
    assert together.text.shape == (4, 32)
    for index, text in enumerate(TEXTS):
        alone = made.encode_tokens([text])
        length = int(together.mask[index].sum())
        assert alone.mask.shape == (1, length)
        torch.testing.assert_close(together.text[index], alone.text[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            together.tokens[index, :length], alone.tokens[0], atol=1e-5, rtol=1e-5
        )
        assert not together.tokens[index, length:].any()
    assert (together.text[0] - together.text[3]).abs().max() > 0.01


def test_what_stands_in_padding_does_not_matter() -> None:
    made = encoder()
    ids, mask = TOKENIZER.batch(TEXTS, max_tokens=48)
    other = torch.where(mask, ids, torch.randint(4, 200, ids.shape))
    wider = torch.nn.functional.pad(other, (0, 5), value=17)
    expected = made.encode_ids(ids, mask).text
    assert torch.equal(made.encode_ids(other, mask).text, expected)
    more = made.encode_ids(wider, torch.nn.functional.pad(mask, (0, 5)))
    torch.testing.assert_close(more.text, expected, atol=1e-5, rtol=1e-5)


def test_pooling() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [torch.nan], [torch.inf]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert pool_tokens(tokens, mask, "mean").text.tolist() == [[2.0], [2.0]]
    assert pool_tokens(tokens, mask, "cls").text.tolist() == [[1.0], [2.0]]
    assert pool_tokens(tokens, mask, "mean").tokens[:, 2].tolist() == [[0.0], [0.0]]


def test_order_of_words_matters() -> None:
    made = encoder()
    one, other = made.encode(["left then right", "right then left"])
    assert (one - other).abs().max() > 0.01


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    one = encoder()
    torch.manual_seed(2)
    for (name, a), b in zip(one.named_parameters(), encoder().parameters(), strict=True):
        assert torch.equal(a, b), name


def test_fingerprint_tells_what_matters() -> None:
    made = encoder()
    assert isinstance(made, TextEncoder)
    assert made.fingerprint == encoder().fingerprint
    assert made.fingerprint != encoder("cls").fingerprint
    other = TransformerTextEncoder(made.cfg, train_bpe(["x"], vocab_size=260))
    assert other.fingerprint != made.fingerprint


def test_long_texts_lose_their_end() -> None:
    made = encoder(max_tokens=8)
    long, longer = made.encode(["a" * 100, "a" * 6 + "b" * 100])
    assert torch.equal(long, longer)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="do not divide"):
        TransformerTextConfig(dim=10, heads=4)


def test_learns_to_tell_words_that_only_order_tells_apart() -> None:
    made = encoder(dropout=0.0)
    made.load_state_dict({k: v / 10 if v.ndim > 1 else v for k, v in made.state_dict().items()})
    head = torch.nn.Linear(32, 2)
    texts = ["tumour left fat right", "fat left tumour right"]
    optimiser = torch.optim.Adam([*made.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(made.train()(texts).text), torch.arange(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
