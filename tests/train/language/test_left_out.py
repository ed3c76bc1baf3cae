"""Samples of which nothing can be shown: counted, named, refused or left out."""

from __future__ import annotations

import pytest

from tests.train.language.made import write_blank, write_grid, write_store
from wsiprep.core.errors import AmbiguousStageError, MissingStageError, SlideError
from wsiprep.train.language.left_out import (
    SHOWN,
    LeftOut,
    check_left_out,
    few,
    left_out_lines,
    place,
)
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.stores import StoreFolder

A = "TCGA-AR-A1AI-01Z-00-DX1.7D3B4C9E-0000"
B = "TCGA-AR-A1AI-01Z-00-DX2.11112222-0000"
COUNTS = {"x": 3, A: 2, B: 0, "blank": 0}


@pytest.fixture
def folder(tmp_path):
    for name in (*COUNTS, "bare"):
        (tmp_path / f"{name}.zarr").mkdir()
    return StoreFolder(tmp_path)


def patches(path):
    if path.stem == "bare":
        raise MissingStageError("there is no grid yet.", slide="bare", hint="Run it.")
    return COUNTS[path.stem]


def of(*slides, name="q"):
    return Sample(id=name, slides=slides, caption="-")


def test_slides_of_a_sample_are_placed_in_order_and_each_once(folder):
    placed, left = place([of("x", "TCGA-AR-A1AI", A)], folder, patches)
    ((sample, paths),) = placed
    assert sample.id == "q"
    assert [path.stem for path in paths] == ["x", A, B]
    assert (len(left), left.of) == (0, 1)
    assert left_out_lines(left.canonical()) == []


def test_what_is_missing_and_what_is_empty(folder):
    samples = [
        of("x", name="fine"),
        of("gone", name="1"),
        of("x", "bare", name="2"),
        of("blank", name="3"),
        of("blank", B, name="4"),
        of("blank", "x", name="some"),  # one slide with tissue is something to be seen
        of("gone", name="5"),
    ]
    placed, left = place(samples, folder, patches)
    assert [sample.id for sample, _ in placed] == ["fine", "some"]
    assert left.missing == {"1": ("gone",), "2": ("bare",), "5": ("gone",)}
    assert left.empty == {"3": ("blank",), "4": ("blank", B)}
    assert left.canonical() == {
        "missing": {"n": 3, "samples": {"1": ["gone"], "2": ["bare"], "5": ["gone"]}},
        "empty": {"n": 2, "samples": {"3": ["blank"], "4": ["blank", B]}},
    }
    assert left_out_lines(left.canonical()) == [
        "left out: 3 samples of slides without a store or without features: gone, bare",
        f"left out: 2 samples whose slides have no patch with features: blank, {B}",
    ]
    with pytest.raises(MissingStageError) as caught:
        check_left_out(left, LeftOut(4), stores=folder.folder, skip_missing=False)
    for part in ("3 of 11 samples", "gone, bare", "has no store of 'gone'", "--skip-missing"):
        assert part in str(caught.value)
    check_left_out(left, stores=folder.folder, skip_missing=True)


def test_none_may_be_left(folder):
    def refused(*samples):
        _, left = place(samples, folder, patches)
        with pytest.raises(SlideError) as caught:
            check_left_out(LeftOut(3), left, stores=folder.folder, skip_missing=True)
        return caught.value

    blank = refused(of("blank"))
    assert not isinstance(blank, MissingStageError)
    assert "no patch with features" in blank.message
    assert "--mask" in blank.hint
    both = refused(of("blank"), of("bare", name="r"))
    assert isinstance(both, MissingStageError)
    assert both.hint == "bare: there is no grid yet. Run it."


def test_several_features_of_which_none_is_named_are_nothing_to_leave_out(folder):
    def several(path):
        raise AmbiguousStageError("there is more than one grid; name it.", slide=path.stem)

    with pytest.raises(AmbiguousStageError, match="x: there is more than one grid"):
        place([of("x")], folder, several)


def test_a_few_names():
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(SHOWN + 1200)]) == "0, 1, 2, 3, 4 and 1,200 more"


def test_the_stores_of_tests_are_what_they_say(tmp_path):
    from wsiprep.store.read import FeatureStore

    assert FeatureStore(write_store(tmp_path, "s")[0]).has_features
    assert FeatureStore(write_blank(tmp_path, "b")).has_features
    assert not FeatureStore(write_grid(tmp_path, "g")).has_features
