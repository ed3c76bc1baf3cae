"""JSON, JSON Lines and CSV as records, each with its place."""

from __future__ import annotations

import json

import pytest

from tests.tasks.convert.made import write_csv, write_json
from wsiprep.core.errors import ManifestError
from wsiprep.tasks.convert._records import (
    Source,
    csv_records,
    json_records,
    listed,
    optional,
    split_called,
    text,
)
from wsiprep.train.language import text_file


@pytest.mark.parametrize(
    ("name", "called", "split"),
    [
        ("Staging_choice_train.json.gz", "Staging_choice_train", "train"),
        ("WsiVQA_val.json", "WsiVQA_val", "val"),
        ("Report_all_type_all_train_single.json", "Report_all_type_all_train_single", "train"),
        ("SlideBench-VQA-TCGA.csv", "SlideBench-VQA-TCGA", ""),
        ("contrast.json", "contrast", ""),
        ("train_and_test.json", "train_and_test", ""),
    ],
)
def test_names_say_the_split(tmp_path, name, called, split):
    source = Source.of(tmp_path / name)
    assert (source.name, source.split) == (called, split)


def test_lists_and_lines(tmp_path):
    rows = [{"a": 1}, 7, {"a": 2}]
    listed_file = Source.of(write_json(tmp_path / "a.json.gz", rows))
    found = list(json_records(listed_file))
    assert [r.where for r in found] == ["item 1", "item 2", "item 3"]
    assert [r.values for r in found] == [{"a": 1}, {}, {"a": 2}]
    assert [bool(r.problem) for r in found] == [False, True, False]
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n' + json.dumps({"a": 2}) + "\n[1]\n")
    found = list(json_records(Source.of(path)))
    assert [r.where for r in found] == ["line 1", "line 3", "line 4", "line 5"]
    assert [r.values for r in found] == [{"a": 1}, {}, {"a": 2}, {}]
    assert [r.number for r in found] == [1, 2, 3, 4]
    assert "not JSON" in found[1].problem
    for content in ("", "hello", '["a", '):
        path.write_text(content)
        with pytest.raises(ManifestError, match=r"a\.jsonl"):
            list(json_records(Source.of(path)))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_list_may_be_one_long_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_file, "MAX_LINE_BYTES", 1000)
    path = write_json(tmp_path / name, [{"a": "x" * 100}] * 100)
    assert len(list(json_records(Source.of(path)))) == 100


def test_tables(tmp_path):
    rows = [["ID", " Text "], ["1", "two\nlines, and a comma"], [], ["2"], ["3", "x"]]
    found = list(csv_records(Source.of(write_csv(tmp_path / "a.csv", rows)), ("id", "text")))
    assert [r.values for r in found] == [
        {"id": "1", "text": "two\nlines, and a comma"}, {}, {"id": "3", "text": "x"},
    ]  # fmt: skip
    assert [r.where for r in found] == ["line 2", "line 5", "line 6"]
    assert found[1].problem == "1 cells under 2 columns"
    with pytest.raises(ManifestError, match="no column answer"):
        list(csv_records(Source.of(tmp_path / "a.csv"), ("id", "answer")))
    write_csv(tmp_path / "b.csv", [["id", "ID"]])
    with pytest.raises(ManifestError, match="two columns"):
        list(csv_records(Source.of(tmp_path / "b.csv"), ("id",)))
    (tmp_path / "c.csv").write_text('id\n"a"b"\n')
    with pytest.raises(ManifestError, match=r"c\.csv, line 2"):
        list(csv_records(Source.of(tmp_path / "c.csv"), ("id",)))
    (tmp_path / "d.csv").write_text("")
    with pytest.raises(ManifestError, match="no column id"):
        list(csv_records(Source.of(tmp_path / "d.csv"), ("id",)))


def test_fields():
    values = {"a": " x ", "b": "", "c": None, "d": 7, "e": ["x", " y"], "f": ["x", ""], "g": []}
    assert text(values, "a") == "x"
    assert optional(values, "b") == optional(values, "c") == optional(values, "z") == ""
    assert listed(values, "e") == ("x", "y")
    assert listed(values, "a") == ("x",)
    for read, name in ((text, "z"), (text, "b"), (text, "d"), (optional, "d"), (listed, "f"),
                       (listed, "g"), (listed, "z"), (listed, "d")):  # fmt: skip
        with pytest.raises(ValueError, match=f"'{name}'"):
            read(values, name)
    assert split_called("Validation") == split_called("val") == "val"
    with pytest.raises(ValueError, match="no split 'holdout'"):
        split_called("holdout")
