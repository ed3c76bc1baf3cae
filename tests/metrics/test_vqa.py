import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.vqa import (
    choose_by_likelihood,
    compare_answers,
    exact_match,
    parse_choice,
)

TYPES = ["Ductal carcinoma", "Invasive lobular carcinoma", "Lobular carcinoma", "None of the above"]
MOLECULAR = ["CN_HIGH", "Triple Negative", "Luminal A", "Basal-like"]


@pytest.mark.parametrize(
    ("text", "index", "how"),
    [
        # The table of the design.
        ("B", 1, "letter"),
        ("b)", 1, "letter"),
        ("The answer is B.", 1, "letter"),
        ("B. text", 1, "letter"),
        ("Invasive lobular carcinoma", 1, "text"),
        ("none", None, "none"),
        # As models wrap letters.
        ("(b)", 1, "letter"),
        ("**B**", 1, "letter"),
        ("Answer: (B)", 1, "letter"),
        ("B: Invasive lobular carcinoma", 1, "both"),
        ("Option C is correct.", 2, "letter"),
        ("I choose D", 3, "letter"),
        ("It's B.", 1, "letter"),
        ("B because the cells are single", 1, "letter"),
        ("B\n\nThe cells are of A-type", 1, "letter"),
        ("<think>A? Or C.</think>B", 1, "letter"),
        ("<think>A, or", None, "none"),
        ("A tumour of the breast. The correct option is C: lobular carcinoma", 2, "both"),
        ("The answer is A. No, the final answer is D.", 3, "letter"),
        # As models wrap texts.
        ("lobular carcinoma.", 2, "text"),
        ("The slide shows an invasive lobular carcinoma.", 1, "text"),
        ("None of the above", 3, "text"),
        ("Not invasive lobular carcinoma but ductal carcinoma", 0, "text"),
        ("It is B, not A", 1, "letter"),
        ("(A) Ductal carcinoma, rather than (B)", 0, "both"),
        # What says nothing, or two things.
        ("", None, "none"),
        ("E", None, "none"),
        ("Not B", None, "none"),
        ("A tumour with glands", None, "none"),
        ("B-cell lymphoma", None, "none"),
        ("This is due to hepatitis B.", None, "none"),
        ("A or B", None, "ambiguous"),
        ("A) or C)", None, "ambiguous"),
        ("A/B", None, "ambiguous"),
        ("B. Ductal carcinoma", None, "ambiguous"),
        ("Ductal carcinoma or lobular carcinoma", None, "ambiguous"),
    ],
)
def test_what_a_text_chooses(text, index, how):
    found = parse_choice(text, TYPES)
    assert (found.index, found.how) == (index, how)


@pytest.mark.parametrize(
    ("text", "options", "index"),
    [
        ("Luminal A.", MOLECULAR, 2),
        ("The subtype is luminal A", MOLECULAR, 2),
        ("A", MOLECULAR, 0),
        ("CN-high", MOLECULAR, None),
        ("cn_high", MOLECULAR, 0),
        ("T1N0M0", ["T2 N1 M0", "T1 N0 M0"], 1),
        ("The TNM stage is T1 N0 M0.", ["T2 N1 M0", "T1 N0 M0"], 1),
        ("Yes, there is no necrosis.", ["Yes", "No"], 0),
        ("No.", ["Yes", "No"], 1),
        ("No necrosis is seen", ["Yes", "No"], 1),
        ("It cannot be said", ["Yes", "No"], None),
        ("grade 1", ["Grade 1", "Grade 10"], 0),
        ("1.5 cm", ["1 cm", "1.5 cm", "5 cm"], 1),
        ("ER+", ["ER+", "ER-"], 0),
    ],
)
def test_what_a_text_chooses_among_others(text, options, index):
    assert parse_choice(text, options).index == index


@settings(deadline=None)
@given(st.integers(0, 3), st.sampled_from([TYPES, MOLECULAR]))
def test_every_letter_and_every_text_is_read(number, options):
    letter = "ABCD"[number]
    text = options[number]
    for said in (letter, f"({letter})", f"The answer is {letter}.", f"{letter}. {text}", text):
        assert parse_choice(said, options).index == number, said
        assert parse_choice(f"Answer: {said}", options).index == number, said


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    found = parse_choice(text, TYPES)
    assert (found.index is None) == (found.how in ("none", "ambiguous"))


def test_options_must_differ():
    for options in ([], ["a b", "A  b"], ["x", ""], [str(k) for k in range(27)]):
        with pytest.raises(ValueError, match="options"):
            parse_choice("A", options)


def test_likelihoods():
    # A long option: less likely as a whole, likelier by the token.
    found = choose_by_likelihood([-4.0, -6.0], [2, 6])
    assert (found.raw, found.normalised) == (0, 1)
    tied = choose_by_likelihood([-1.0, -1.0], [1, 1])
    assert (tied.raw, tied.normalised) == (0, 0)
    assert choose_by_likelihood([-np.inf, -9.0], [1, 9]).raw == 1
    for wrong in (([], []), ([-1.0], [0]), ([-1.0], [1, 2]), ([np.nan], [1])):
        with pytest.raises(ValueError, match=r"option|number"):
            choose_by_likelihood(*wrong)


def test_accuracy_and_its_baseline():
    options = [["x", "y"], ["y", "x"], ["x", "y"], ["x", "z"]]
    found = compare_answers([0, None, 1, 0], [0, 1, 0, 0], options)
    assert found.accuracy == 0.5
    assert found.n_unparsed == 1
    # The commonest letter is right 3 times, the commonest text (x) 4 times.
    assert found.majority.tolist() == [1, 1, 1, 1]
    assert found.by_group(["t", "t", "u", "u"]) == {"t": (2, 0.5), "u": (2, 0.5)}
    value = bootstrap_interval(found.statistics()["accuracy"], 4, groups="aabb", resamples=50)
    assert value.value == 0.5
    assert value.groups == 2
    with pytest.raises(ValueError, match="groups"):
        found.by_group(["t"])
    with pytest.raises(ValueError, match="one choice"):
        compare_answers([0], [0, 1], options)
    with pytest.raises(ValueError, match="question 0 has no option"):
        compare_answers([2], [0], [["x", "y"]])
    assert np.isnan(compare_answers([], [], []).accuracy)


def test_exact_match():
    assert exact_match("The Luminal-A.", "luminal-a")
    assert not exact_match("ER+", "ER-")
    assert not exact_match("grade 1.5", "grade 15")
