"""Placeholders, lettered choices, answers, barcodes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.tasks.convert._said import (
    choice_of,
    one_patient,
    slide_of,
    split_choices,
    turns_of,
    without_placeholder,
)
from wsiprep.train.language.manifest import Turn


@given(
    said=st.text(min_size=1).filter(lambda t: t.strip() and "<image>" not in t),
    before=st.sampled_from(["", "<image>", "<image>\n", " <image> \n"]),
    after=st.sampled_from(["", "<image>", "\n<image>", "\n<image>\n<image> "]),
)
@settings(deadline=None)
def test_a_placeholder_before_or_after_is_taken_out(said, before, after):
    assert without_placeholder(before + said + after) == said.strip()


@pytest.mark.parametrize("text", ["what does <image> show?", "<image>", " <image>\n<image>", ""])
def test_a_placeholder_that_cannot_be_taken_out(text):
    with pytest.raises(ValueError, match=r"inside a text|says nothing"):
        without_placeholder(text)


CHOICES = ("well", "moderately", "poorly", "not at all")


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which? A) one B) two", "Which?", ("one", "two")),
        ("Which?\nA) one\nB) two\nC) three", "Which?", ("one", "two", "three")),
        ("Which? (A) one (B) two", "Which?", ("one", "two")),
        ("Which? A. T1 N1 B. T2 N0", "Which?", ("T1 N1", "T2 N0")),
        ("Luminal A. Now: which? A) one B) Luminal A", "Luminal A. Now: which?",
         ("one", "Luminal A")),
        ("MART-1 (Melan-A) positive?", "MART-1 (Melan-A) positive?", ()),
        ("Only A) one", "Only A) one", ()),
        ("Which? A) one C) three", "Which? A) one C) three", ()),
        ("Parts A) and B) of which? A) one B) two", "Parts A) and B) of which?", ("one", "two")),
    ],
)  # fmt: skip
def test_choices_are_cut_off_the_question(text, question, choices):
    assert split_choices(text) == (question, choices)


@given(
    texts=st.lists(st.text("abc xyz-0123", min_size=1).filter(str.strip), min_size=2, max_size=8),
    style=st.sampled_from(["{}) ", "({}) ", "{}. "]),
)
@settings(deadline=None)
def test_choices_come_back(texts, style):
    lettered = [style.format(chr(65 + i)) + text for i, text in enumerate(texts)]
    question, choices = split_choices("Which is it? " + " ".join(lettered))
    assert question == "Which is it?"
    assert choices == tuple(text.strip() for text in texts)


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("C", "poorly"), ("c", "poorly"), ("C ```", "poorly"), ("C)", "poorly"), ("(C)", "poorly"),
        ("C.", "poorly"), ("C) poorly", "poorly"), ("C. Poorly.", "poorly"), ("POORLY", "poorly"),
        ("poorly", "poorly"), (' "poorly"', "poorly"), ("D", "not at all"),
    ],
)  # fmt: skip
def test_an_answer_names_a_choice(answer, choice):
    assert choice_of(answer, CHOICES) == choice


@pytest.mark.parametrize("answer", ["E", "", "none", "C) well", "A or B", "a poorly one", "AB"])
def test_an_answer_that_names_none(answer):
    with pytest.raises(ValueError, match="names none of 4"):
        choice_of(answer, CHOICES)
    with pytest.raises(ValueError, match="names none"):
        choice_of("well", ("well", "Well"))


def test_slides_and_patients():
    uuid = "TCGA-21-1076-01Z-00-DX1.533ca070-93e0-4d49-8770-8f42f341ca38"
    assert slide_of(f"TCGA-LUSC/{uuid}.pt") == uuid
    assert slide_of(uuid) == uuid
    assert slide_of("C:\\x\\a.b.csv") == "a.b"
    assert one_patient([uuid, "TCGA-21-1076-01Z-00-DX2"]) == "TCGA-21-1076"
    assert one_patient(["1", "2"]) == ""
    with pytest.raises(ValueError, match="several patients: TCGA-21-1076, TCGA-22-0000"):
        one_patient([uuid, "TCGA-22-0000-01Z"])


def test_turns():
    talk = [
        {"from": "system", "value": "be brief"},
        {"from": "human", "value": "what?\n<image>"},
        {"from": "gpt", "value": " this "},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes"},
    ]
    assert turns_of(talk) == (
        Turn("system", "be brief"), Turn("user", "what?"), Turn("assistant", "this"),
        Turn("user", "sure?"), Turn("assistant", "yes"),
    )  # fmt: skip
    later = [*talk[:3], {"from": "human", "value": "<image>\nand?"}, talk[4]]
    with pytest.raises(ValueError, match="holds <image>"):
        turns_of(later)
    for wrong, message in (
        ([], "list of turns"),
        ("hello", "list of turns"),
        (["hello"], "turn 1 is no object"),
        ([{"from": "robot", "value": "x"}], "turn 1 does not say"),
        ([{"from": "human"}], "turn 1 does not say"),
        (talk[:3][::-1], "turn 1 is by 'gpt'"),
        ([talk[1], talk[1]], "turn 2 is by 'human', where the assistant"),
        ([talk[1], talk[2], talk[0]], "turn 3 is by 'system'"),
    ):
        with pytest.raises(ValueError, match=message):
            turns_of(wrong)
