"""Tokenizers: what goes in comes out, and the same captions give the same one."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.errors import WeightsError
from wsiprep.models.text.tokenizer import (
    BOS,
    EOS,
    PAD,
    UNK,
    Tokenizer,
    train_bpe,
    train_words,
)

CAPTIONS = [
    "Invasive ductal carcinoma, grade 2, with necrosis.",
    "Invasive lobular carcinoma without necrosis; margins 1.5 cm.",
    "Ductal carcinoma in situ. HER2 3+.",
    "Normal tissue, no carcinoma.",
]
BPE = train_bpe(CAPTIONS, vocab_size=340)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=80))
def test_byte_pairs_lose_nothing(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert all(UNK < number < BPE.vocab_size for number in ids)
    assert BPE.decode([BOS, *ids, EOS, PAD]) == text


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=6), st.integers(260, 300))
def test_trained_on_anything_they_save_and_load(captions: list[str], vocab_size: int) -> None:
    made = train_bpe(captions, vocab_size=vocab_size)
    assert made.vocab_size <= vocab_size
    loaded = Tokenizer.from_json(made.to_json())
    assert loaded.to_json() == made.to_json()
    assert loaded.sha256 == made.sha256
    for text in [*captions, "something else"]:
        assert loaded.encode(text) == made.encode(text)
        assert loaded.decode(made.encode(text)) == text
    assert train_bpe(captions[::-1], vocab_size=vocab_size).merges == made.merges


def naive_bpe(captions: list[str], merges: int) -> list[tuple[bytes, bytes]]:
    """Byte pairs counted anew for every merge."""
    import re

    pieces = [
        [bytes([b]) for b in piece.encode()]
        for text in captions
        for piece in re.findall(r" ?[^\W\d_]+| ?\d| ?(?:[^\w\s]|_)+|\s", text)
    ]
    learned: list[tuple[bytes, bytes]] = []
    while len(learned) < merges:
        counts: dict[tuple[bytes, bytes], int] = {}
        for piece in pieces:
            for i in range(len(piece) - 1):
                pair = (piece[i], piece[i + 1])
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        learned.append(best)
        for piece in pieces:
            i = 0
            while i + 1 < len(piece):
                if (piece[i], piece[i + 1]) == best:
                    piece[i : i + 2] = [best[0] + best[1]]
                i += 1
    return learned


@pytest.mark.parametrize("captions", [CAPTIONS, ["aaaaa aaaa aaa abababab", "aab aab ää"]])
def test_merges_are_those_of_counting_anew(captions: list[str]) -> None:
    made = train_bpe(captions, vocab_size=310)
    spelled = [(made.decode_bytes(a), made.decode_bytes(b)) for a, b in made.merges]
    assert spelled == naive_bpe(captions, 50)


def test_frequent_words_become_one_token() -> None:
    assert len(BPE.encode(" carcinoma")) == 1
    assert len(BPE.encode("zzz")) == 3
    # Digits stay apart from one another.
    assert len(train_bpe(["grade 12"] * 9, vocab_size=300).encode(" 12")) == 2


def test_a_text_never_spells_a_special_token() -> None:
    ids = BPE.encode("<eos><pad>")
    assert not set(ids) & {PAD, BOS, EOS, UNK}


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    first_byte = BPE.encode("ä")[0]
    assert BPE.decode([first_byte]) == "\ufffd"
    with pytest.raises(ValueError, match="outside"):
        BPE.decode([BPE.vocab_size])
    assert BPE.decode(BPE.encode("\ud800x")) == "?x"


def test_words() -> None:
    made = train_words(CAPTIONS, max_words=8)
    assert made.words[:2] == (".", "carcinoma")
    assert made.vocab_size == 12
    ids = made.encode("Carcinoma. Unheard")
    assert ids == [5, 4, UNK]
    assert made.decode(ids) == "carcinoma . <unk>"
    assert train_words(CAPTIONS[::-1], max_words=8).words == made.words
    assert Tokenizer.from_json(made.to_json()).words == made.words
    assert set(train_words(CAPTIONS, max_words=99, min_count=2).words) == {
        "carcinoma", ",", ".", "invasive", "ductal", "necrosis", "2",
    }  # fmt: skip


def test_batches_are_padded_on_the_right_and_cut_at_the_end() -> None:
    ids, mask = BPE.batch(["in", "", "xyz" * 9], max_tokens=6)
    assert ids.shape == mask.shape == (3, 6)
    assert ids.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == [2 + len(BPE.encode("in")), 2, 6]
    assert ids[:, 0].tolist() == [BOS] * 3
    for row, kept in zip(ids, mask, strict=True):
        assert row[kept][-1] == EOS
        assert set(row[~kept].tolist()) <= {PAD}
    assert BPE.decode(ids[2].tolist()) == "xyzx"
    bare, _ = BPE.batch(["", ""], max_tokens=3, bos=False, eos=False)
    assert bare.shape == (2, 1)
    with pytest.raises(ValueError, match="no room"):
        BPE.batch(["a"], max_tokens=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "other", "kind": "bpe"}',
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "letters"}),
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "bpe", "merges": [[4, 260]]}),
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "bpe", "merges": [[0, 5]]}),
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "bpe", "merges": [[4, 5], [4, 5]]}),
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "word", "words": ["a", "a"]}),
        json.dumps({"format": "wsiprep-tokenizer-1", "kind": "word", "merges": [[4, 5]]}),
    ],
)
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="tokenizer cannot be used"):
        Tokenizer.from_json(text)


def test_a_vocabulary_has_room_for_all_bytes() -> None:
    with pytest.raises(ValueError, match="at least 260"):
        train_bpe(CAPTIONS, vocab_size=259)
