import json

import numpy as np
import pytest

from wsiprep.metrics.bootstrap import bootstrap_interval, mean_of, of_rows
from wsiprep.metrics.report import as_lines, assemble, data_sha256

RIGHT = np.array([1, 1, 0, 1, 0, 1, 1, 1], float)
BLIND = np.array([1, 0, 0, 1, 0, 0, 1, 0], float)
PATIENTS = ["p", "p", "q", "q", "r", "r", "s", "s"]
DATA = [{"id": k, "question": "q"} for k in range(8)]


def made(**changes):
    how = {
        "rows": 8,
        "data": DATA,
        "patients": PATIENTS,
        "baselines": {
            "majority": {"accuracy": 0.5},
            "blind": {"accuracy": mean_of(BLIND), "other": mean_of(BLIND)},
        },
        "groups": {"task": ["a"] * 3 + ["b"] * 5},
        "extra": {"tokenizer": "words-1"},
        "resamples": 200,
    }
    return assemble("vqa", {"accuracy": mean_of(RIGHT)}, **{**how, **changes})


def test_all_that_a_report_says():
    report = made()
    assert (report["task"], report["n"], report["n_patients"]) == ("vqa", 8, 4)
    assert report["data_sha256"] == data_sha256(DATA)
    assert report["scores"]["accuracy"]["value"] == 0.75
    assert report["scores"]["accuracy"]["groups"] == 4
    assert report["baselines"]["majority"]["accuracy"] == {"value": 0.5, "low": None, "high": None}
    assert report["baselines"]["blind"]["accuracy"]["value"] == 0.375
    assert report["above"]["majority"]["accuracy"]["value"] == 0.25
    above = report["above"]["blind"]["accuracy"]
    want = bootstrap_interval(mean_of(RIGHT - BLIND), 8, groups=PATIENTS, resamples=200)
    assert (above["value"], above["low"]) == (0.375, pytest.approx(want.low, abs=1e-4))
    assert "other" not in report["above"]["blind"]
    assert report["bootstrap"]["over"] == "patients"
    assert report["tokenizer"] == "words-1"
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_groups_are_scored_by_their_own_rows():
    report = made(patients=None)
    assert report["n_patients"] is None
    assert report["bootstrap"]["over"] == "samples"
    for group, rows in (("a", slice(0, 3)), ("b", slice(3, 8))):
        found = report["by_group"]["task"][group]
        want = bootstrap_interval(mean_of(RIGHT[rows]), rows.stop - rows.start, resamples=200)
        assert found["n"] == rows.stop - rows.start
        assert found["accuracy"]["value"] == pytest.approx(want.value, abs=1e-4)
        assert found["accuracy"]["low"] == pytest.approx(want.low, abs=1e-4)
    slow = of_rows(lambda rows: float(RIGHT[rows].mean()))
    again = assemble("vqa", {"accuracy": slow}, rows=8, data=DATA, patients=None,
                     groups={"task": ["a"] * 3 + ["b"] * 5}, resamples=200)  # fmt: skip
    assert again["by_group"] == report["by_group"]


def test_the_hash_is_of_the_data_whatever_its_order():
    assert data_sha256(DATA) == data_sha256(DATA[::-1])
    assert data_sha256(DATA) != data_sha256(DATA[:-1])
    assert data_sha256(DATA) != data_sha256([*DATA[:-1], {"id": 7, "question": "Q"}])
    assert data_sha256([1, 1]) != data_sha256([1])


def test_what_is_undefined_is_null():
    report = assemble("x", {"m": mean_of([np.nan, np.nan])}, rows=2, data=[1, 2], patients=None,
                      baselines={"chance": {"m": float("nan")}})  # fmt: skip
    assert report["scores"]["m"]["value"] is None
    assert report["baselines"]["chance"]["m"]["value"] is None
    assert report["above"]["chance"]["m"]["value"] is None
    assert json.dumps(report, allow_nan=False)
    assert "undefined" in as_lines(report)[2]


def test_lines_for_a_terminal():
    lines = as_lines(made())
    assert lines[0].startswith("vqa: n 8, patients 4, data ")
    assert "95 % intervals of 200 resamples of patients" in lines[1]
    assert lines[2].startswith("accuracy  0.750 [")
    assert lines[2].endswith("(majority 0.500, blind 0.375)")
    assert lines[3].startswith("task a: n 3, accuracy 0.667 [")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DATA[:-1]}, "one value of the data"),
        ({"rows": 0, "data": [], "patients": []}, "one value of the data"),
        ({"patients": PATIENTS[:-1]}, "7 patients for 8"),
        ({"groups": {"task": ["a"]}}, "1 task for 8"),
        ({"extra": {"n": 3}}, "has its own n"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)
