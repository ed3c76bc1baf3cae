"""Sentences of captions, and sub-captions drawn from them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.models.text.captions import (
    distinct_texts,
    draw_sub_captions,
    normalised,
    split_sentences,
    sub_captions,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" . \n", []),
        ("Tumour of 1.5 cm. Margins are clear.", ["Tumour of 1.5 cm", "Margins are clear"]),
        ("Stage pT2b. 1.5 cm in size.", ["Stage pT2b", "1.5 cm in size"]),
        ("A .5 cm nodule", ["A .5 cm nodule"]),
        ("So, e.g. Ki-67, i.e. p53. See Fig. 2.", ["So, e.g. Ki-67, i.e. p53", "See Fig. 2"]),
        ("Gland vs. Stroma. Dr. Roe agrees.", ["Gland vs. Stroma", "Dr. Roe agrees"]),
        ("H. pylori is seen. E. coli is not.", ["H. pylori is seen", "E. coli is not"]),
        ("No. Section no. 5 is clear.", ["No", "Section no. 5 is clear"]),
        ("Measures 3 cm. The rest is fat.", ["Measures 3 cm", "The rest is fat"]),
        ("Measures 3 cm. in size.", ["Measures 3 cm. in size"]),
        ("Roe et al. say so. Roe et al. The end.", ["Roe et al. say so", "Roe et al", "The end"]),
        ("margins are clear. no tumour is seen.", ["margins are clear", "no tumour is seen"]),
        ("Carcinoma.The margin is free.", ["Carcinoma", "The margin is free"]),
        ("Mutation p.R175H, c.524G>A.", ["Mutation p.R175H, c.524G>A"]),
        ("1. Tumour is seen. 2. Margins are free.", ["Tumour is seen", "Margins are free"]),
        ("- Tumour\n- Necrosis\n(b) Fat", ["Tumour", "Necrosis", "Fat"]),
        ("A. Skin. B. Node.", ["Skin", "Node"]),
        ("First</s>Second\r\nThird", ["First", "Second", "Third"]),
        ("Is it? Yes! So... Grade I. The nodes.", ["Is it", "Yes", "So", "Grade I", "The nodes"]),
        ("It is (so far.) There is more.", ["It is (so far.)", "There is more"]),
        ("3 + 4 = 7. Margins", ["3 + 4 = 7", "Margins"]),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200))
def test_sentences_of_any_text_lose_only_marks_and_space(text: str) -> None:
    found = split_sentences(text)
    assert all(sentence == sentence.strip() and sentence for sentence in found)
    # What is kept stands in the text, in this order.
    at = 0
    for sentence in found:
        at = text.index(sentence, at) + len(sentence)


SENTENCES = [f"finding {letter} is there" for letter in "abcdef"]


def test_draws_are_sentences_of_the_caption_joined() -> None:
    shapes = Counter()
    for seed in range(300):
        drawn = draw_sub_captions(SENTENCES, generator=seeded(seed), distinct=False)
        assert len(drawn) == 8
        for text in drawn:
            rows = [SENTENCES.index(part) for part in text.split(". ")]
            assert len(rows) == len(set(rows)) <= 3
            is_run = rows == list(range(rows[0], rows[0] + len(rows)))
            shapes[len(rows), is_run] += 1
            if is_run and len(rows) == 3:
                shapes["last window"] += rows[-1] == 5
    total = 2400
    for length in (1, 2, 3):
        share = (shapes[length, True] + shapes[length, False]) / total
        assert share == pytest.approx(1 / 3, abs=0.05)
    # Half of two and of three are runs on purpose, and of the rest 5 of 30 and 4 of 120 by chance.
    assert shapes[2, True] / (total / 3) == pytest.approx(0.5 + 0.5 * 5 / 30, abs=0.06)
    assert shapes[3, True] / (total / 3) == pytest.approx(0.5 + 0.5 * 4 / 120, abs=0.06)
    assert shapes["last window"] / shapes[3, True] == pytest.approx(0.25, abs=0.07)


def test_draws_depend_on_the_seed_alone_and_say_nothing_twice() -> None:
    one, same, other = (draw_sub_captions(SENTENCES, generator=seeded(s)) for s in (5, 5, 6))
    assert one == same != other
    short = draw_sub_captions(SENTENCES[:2], generator=seeded())
    assert len(short) == len(set(map(normalised, short))) <= 5
    assert draw_sub_captions(["all of it"], generator=seeded()) == ["all of it"]
    assert draw_sub_captions([], generator=seeded()) == []
    with pytest.raises(ValueError, match="at least 1"):
        draw_sub_captions(SENTENCES, count=0, generator=seeded())


def test_given_sub_captions_go_before_drawn_ones() -> None:
    given_ones = ["Necrosis.", "necrosis", " ", "Fat", "Vessels", "Nerves"]
    found, origin = sub_captions("A. B.", given_ones, count=3, generator=seeded())
    assert origin == "given"
    assert len(found) == 3
    assert set(found) < {"Necrosis.", "Fat", "Vessels", "Nerves"}
    found, origin = sub_captions("Fat. Nerve.", [" "], generator=seeded())
    assert origin == "sampled"
    assert set(found) <= {"Fat", "Nerve", "Fat. Nerve", "Nerve. Fat"}


def test_texts_that_say_the_same() -> None:
    assert normalised("Margins are  CLEAR.") == normalised("margins are clear")
    assert normalised("HER2 +") != normalised("HER2 -")
    assert normalised("1.5 cm") != normalised("15 cm")
    assert distinct_texts(["B", "a", "b."]) == ["B", "a"]
