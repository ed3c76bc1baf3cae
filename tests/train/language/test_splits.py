"""No patient is in two splits, however samples are linked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.splits import (
    Overlap,
    check_apart,
    divide,
    overlap,
    patients_of,
    slide_name,
    tcga_patient,
)


def sample(number, patient="", slides=("s",), split="", case=""):
    return Sample(
        str(number), tuple(slides), case_id=case, patient_id=patient, caption="c", split=split
    )


@st.composite
def sets(draw):
    count = draw(st.integers(1, 25))
    few = st.sampled_from
    return [
        sample(
            n,
            draw(few(["", "p1", "p2", "p3", "p4"])),
            draw(st.lists(few([f"s{i}" for i in range(12)]), min_size=1, max_size=3, unique=True)),
            draw(few(["", "train", "val", "test"])),
            draw(few(["", "c1", "c2", "c3"])),
        )
        for n in range(count)
    ]


def linked(samples) -> list[int]:
    """Components by brute force: labels spread until nothing changes."""
    keys = [
        {("p", s.patient_id), ("c", s.case_id), *(("s", x) for x in s.slides)}
        - {("p", ""), ("c", "")}
        for s in samples
    ]
    label = list(range(len(samples)))
    for _ in samples:
        for i in range(len(samples)):
            for j in range(len(samples)):
                if keys[i] & keys[j]:
                    label[i] = label[j] = min(label[i], label[j])
    return label


@given(samples=sets())
@settings(deadline=None, max_examples=150)
def test_what_is_linked_is_one_patient(samples):
    mine, truth = patients_of(samples), linked(samples)
    for i in range(len(samples)):
        for j in range(len(samples)):
            assert (mine[i] == mine[j]) == (truth[i] == truth[j])


@given(samples=sets(), seed=st.integers(0, 5), data=st.data())
@settings(deadline=None, max_examples=150)
def test_no_patient_is_in_two_splits_and_held_out_samples_stay(samples, seed, data):
    done = divide(samples, val=0.2, test=0.3, seed=seed)
    check_apart(done.samples)
    assert {s.id for s in done.samples} | {s.id for s in done.left_out} == {s.id for s in samples}
    assert len(done.samples) + len(done.left_out) == len(samples)
    after = {s.id: s.split for s in done.samples}
    assert all(after.values())
    for one in samples:
        if one.split == "test":
            assert after[one.id] == "test"
    held = {p for p, s in zip(patients_of(samples), samples, strict=True) if s.split in
            ("val", "test")}  # fmt: skip
    whose = dict(zip([s.id for s in samples], patients_of(samples), strict=True))
    assert all(whose[s.id] in held for s in done.left_out)
    again = divide(data.draw(st.permutations(samples)), val=0.2, test=0.3, seed=seed)
    assert {s.id: s.split for s in again.samples} == after


def test_a_patient_stays_when_others_come():
    few = [sample(n, f"p{n}", [f"s{n}"]) for n in range(50)]
    many = [*few, *[sample(n, f"p{n}", [f"s{n}"]) for n in range(50, 1000)]]
    first = divide(few, val=0.1, test=0.2, seed=3).samples
    second = divide(many, val=0.1, test=0.2, seed=3).samples
    assert first == second[:50]
    shares = {name: sum(s.split == name for s in second) / 1000 for name in ("val", "test")}
    assert shares["val"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.04)
    assert divide(many, val=0.1, test=0.2, seed=4).samples != second
    assert {s.split for s in divide(many, val=0, test=0).samples} == {"train"}


def test_given_splits_are_not_drawn_again():
    samples = [
        *[sample(n, f"p{n}", [f"s{n}"], "train") for n in range(300)],
        *[sample(1000 + n, f"p{n}", [f"s{n}"], "test") for n in range(5)],
    ]
    done = divide(samples, val=0.1, test=0.5)
    assert [s.id for s in done.left_out] == ["0", "1", "2", "3", "4"]
    assert sum(s.split == "test" for s in done.samples) == 5
    assert 10 < sum(s.split == "val" for s in done.samples) < 60


def test_overlap():
    train = [sample(1, "a", ["s1"]), sample(2, "b", ["x/s2.zarr"]), sample(3, "c", ["s3"])]
    test = [sample(4, "b", ["s2"]), sample(5, "c", ["s9"]), sample(6, "d", ["s7", "s8"])]
    assert overlap(test, train) == Overlap(slides=4, shared_slides=1, patients=3, shared_patients=2)
    assert slide_name("out/s2.zarr") == slide_name("s2") == "s2"


def test_splits_that_share_a_patient_are_refused():
    apart = [sample(1, "a", ["s1"], "train"), sample(2, "b", ["s2"], "test")]
    check_apart(apart)
    check_apart([*apart, sample(3, "a", ["s1"], "")])
    for other in (sample(3, "a", ["s9"], "test"), sample(3, "", ["s1"], "test")):
        with pytest.raises(ManifestError, match=r"'a' is in train \(sample '1'\) and in test"):
            check_apart([*apart, other])
    # A sample without a split is one to learn from.
    with pytest.raises(ManifestError, match=r"in train \(sample '3'\) and in test \(sample '2'\)"):
        check_apart([sample(3, "b", ["s9"], ""), *apart])
    with pytest.raises(ValueError, match="nothing to train on"):
        divide(apart, val=0.5, test=0.5)
    assert replace(apart[0], split="") == sample(1, "a", ["s1"])


def test_two_files_that_share_a_patient_are_refused():
    learn = [sample(1, "a", ["s1"], ""), sample(2, "b", ["s2"], "val")]
    check_apart(learn, [sample(3, "c", ["s3"], ""), sample(4, "b", ["s2"], "")])
    for other in (sample(3, "a", ["s9"], ""), sample(3, "", ["x/s1.zarr"], "val")):
        with pytest.raises(ManifestError, match=r"'a' is in train .* and in val \(sample '3'\)"):
            check_apart(learn, [other])
    check_apart([sample(1, "a", ["s1"])], [sample(1, "a", ["s1"], "train")])  # one file, twice


def test_patients_of_tcga_are_in_their_barcodes():
    slide = "TCGA-21-1076-01Z-00-DX1.533ca070-93e0-4d49-8770-8f42f341ca38"
    for name in (slide, slide.lower(), "TCGA-21-1076"):
        assert tcga_patient(name) == "TCGA-21-1076"
    for name in ("TCGA-21-10765", "S12-TCGA-21-1076", "17"):
        assert tcga_patient(name) == ""
