from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiprep.core.errors import (
    ImplausibleMppError,
    MissingMppError,
    NonSquareMppError,
    ResolutionError,
)
from wsiprep.slide import SlideConfig
from wsiprep.slide.resolution import RawResolution, resolve

KEYS = ("openslide.mpp-x", "openslide.mpp-y")


def scale(x: object, y: object = "same", objective: object = None, **cfg: object):
    raw = RawResolution(x, x if y == "same" else y, objective, KEYS)
    return resolve("case7", raw, SlideConfig(**cfg))


@pytest.mark.parametrize("value", ["0.2528", 0.2528, " 0.2528 "])
def test_metadata_is_taken_as_it_is(value: object) -> None:
    found = scale(value, objective="40x")
    assert (found.mpp, found.source, found.objective) == (pytest.approx(0.2528), "metadata", 40)
    assert found.notes == ()


def test_the_mean_of_nearly_equal_axes_is_geometric() -> None:
    assert scale(0.25, 0.252).mpp == pytest.approx((0.25 * 0.252) ** 0.5)


def test_one_axis_is_enough_but_is_told() -> None:
    for found in (scale(0.25, None), scale(None, 0.25)):
        assert found.mpp == 0.25
        assert "one axis" in found.notes[0]


def test_missing_names_what_was_looked_for_and_the_remedy() -> None:
    with pytest.raises(MissingMppError) as caught:
        scale(None)
    text = str(caught.value)
    assert text.startswith("case7: ")
    assert all(key in text for key in KEYS)
    assert "--slide-mpp" in text
    assert "column `mpp`" in text
    assert "--mpp-from-objective" not in text
    assert caught.value.stage == "slide"
    assert caught.value.slide == "case7"


def test_missing_with_an_objective_offers_it() -> None:
    with pytest.raises(MissingMppError, match=r"power of 20.*--mpp-from-objective.*0\.5"):
        scale(None, objective="20")


def test_the_objective_is_used_by_flag_only_and_is_told() -> None:
    found = scale(None, objective="20", mpp_from_objective=True)
    assert (found.mpp, found.source) == (0.5, "objective")
    assert "10 / 20" in found.notes[0]
    assert scale(0.499, objective="20", mpp_from_objective=True).source == "metadata"
    with pytest.raises(MissingMppError):
        scale(None, mpp_from_objective=True)


@pytest.mark.parametrize("power", ["", "abc", "0", "-20", "nan", "1e9", None])
def test_an_impossible_objective_counts_as_none(power: object) -> None:
    assert scale(0.5, objective=power).objective is None
    with pytest.raises(MissingMppError):
        scale(None, objective=power, mpp_from_objective=True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("abc", "'abc' µm/px from the file is no number"),
        ("", "'' µm/px"),
        ("nan", "'nan'"),
        ("inf", "'inf'"),
        (float("nan"), "nan"),
        ("0", "outside 0.05 to 20"),
        (0.0, "outside 0.05 to 20"),
        ("-0.5", "outside 0.05 to 20"),
        ("0.0499", "outside 0.05 to 20"),
        ("20.1", "outside 0.05 to 20"),
        (352.7777, "default resolution of an image library"),
        (1000, "outside 0.05 to 20"),
    ],
)
def test_implausible_is_refused_with_the_remedy(value: object, says: str) -> None:
    with pytest.raises(ImplausibleMppError, match="--slide-mpp") as caught:
        scale(value, objective="40", mpp_from_objective=True)
    assert says in str(caught.value)
    assert "column `mpp`" in str(caught.value)


@pytest.mark.parametrize("value", [0.05, 20, 0.25])
def test_the_ends_of_the_range_are_in(value: float) -> None:
    assert scale(value).mpp == value


def test_oblong_pixels_are_refused_with_both_values() -> None:
    with pytest.raises(NonSquareMppError, match=r"0\.25 µm wide, 0\.5 µm high.*--slide-mpp"):
        scale(0.25, 0.5)
    with pytest.raises(NonSquareMppError):
        scale(0.25, 0.2526)


@pytest.mark.parametrize(
    ("mpp", "objective", "told"),
    [(0.23, 20, True), (0.25, 40, False), (0.2282, 40, False), (0.5, 40, True), (0.38, 20, True),
     (0.41, 20, False), (0.62, 20, False), (0.64, 20, True)],
)  # fmt: skip
def test_disagreement_with_the_objective_is_told_and_mpp_wins(
    mpp: float, objective: float, told: bool
) -> None:
    found = scale(mpp, objective=objective)
    assert found.mpp == mpp
    assert [("disagree" in n) for n in found.notes] == ([True] if told else [])


def test_the_user_wins_over_metadata_and_a_difference_is_told() -> None:
    found = scale(0.499, slide_mpp=0.25)
    assert (found.mpp, found.source) == (0.25, "override")
    assert "0.499" in found.notes[0]
    assert "0.25" in found.notes[0]
    assert scale(0.499, slide_mpp=0.5).notes == ()
    assert scale(None, slide_mpp=0.5).notes == ()


@pytest.mark.parametrize(("x", "y"), [("abc", "same"), (0, "same"), (352.8, "same"), (0.25, 0.5)])
def test_the_user_cures_every_refusal(x: object, y: object) -> None:
    with pytest.raises(ResolutionError):
        scale(x, y)
    found = scale(x, y, slide_mpp=0.25)
    assert found.mpp == 0.25
    assert str(x) in found.notes[0]


@pytest.mark.parametrize("value", [0.01, 250, 1e9, 5e-324])
def test_the_user_is_checked_too(value: float) -> None:
    with pytest.raises(ImplausibleMppError, match="--slide-mpp or the manifest"):
        scale(0.25, slide_mpp=value)


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.binary()))
def test_whatever_a_file_says_the_result_is_in_range_or_typed(value: object) -> None:
    with contextlib.suppress(ResolutionError):
        assert 0.05 <= scale(value, value, objective=value).mpp <= 20
