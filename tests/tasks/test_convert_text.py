"""What the conversion does whatever the format."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from tests.tasks.convert.made import converted, talk, write_json
from tests.train.language.made import write_store
from wsiprep.core.errors import ConfigError, ManifestError, UnknownPluginError
from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert_text import SHOWN
from wsiprep.train.language.manifest import data_sha256, read_manifest


def rows(*numbers, image="TCGA-AA-{:04}-01Z-00-DX1.U.pt"):
    return [
        {"id": f"r{n}", "image": image.format(n), "conversations": talk("<image>\nq?", "a")}
        for n in numbers
    ]


def test_the_formats_of_the_issue_are_there():
    assert formats.builtin_names() == [
        "csv", "histgen", "patchgastric", "slidebench", "wsi_bench", "wsi_vqa",
    ]  # fmt: skip
    for name in formats.builtin_names():
        plugin = formats.load(name)
        assert plugin.SPLIT in ("given", "patient", "found")
        assert callable(plugin.records)
        assert callable(plugin.sample)


def test_the_report_can_be_checked(tmp_path):
    path = write_json(tmp_path / "Grading_train.json.gz", rows(1, 2, 3))
    out = tmp_path / "new" / "m.jsonl"
    done = converted("wsi_bench", out, path, split="given")
    assert done.report["files"] == [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
         "samples": 3, "bad": 0}
    ]  # fmt: skip
    assert done.report["data_sha256"] == data_sha256(read_manifest(out))
    assert done.report["samples"] == 3
    assert done.report["split"] == "given"
    before = out.read_bytes()
    converted("wsi_bench", out, path, split="given")
    assert out.read_bytes() == before


def test_ids_are_unique_over_all_files(tmp_path):
    one = write_json(tmp_path / "Grading_train.json", rows(1))
    two = write_json(tmp_path / "wsibench_Grading_train.json", rows(2, 1))
    with pytest.raises(ManifestError, match=r"wsibench_Grading_train\.json, item 2: the id"):
        converted("wsi_bench", tmp_path / "m.jsonl", one, two)
    done = converted("wsi_bench", tmp_path / "m.jsonl", one, two, skip_bad=True)
    assert [file["samples"] for file in done.report["files"]] == [1, 1]
    assert [file["bad"] for file in done.report["files"]] == [0, 1]


def test_all_bad_records_are_counted_and_the_first_are_shown(tmp_path):
    bad = [{**row, "image": ""} for row in rows(*range(50))]
    path = write_json(tmp_path / "Grading_train.json", [*rows(99), *bad])
    done = converted("wsi_bench", tmp_path / "m.jsonl", path, skip_bad=True)
    assert done.report["left_out"]["bad"] == 50
    assert len(done.report["bad_records"]) == SHOWN
    path = write_json(tmp_path / "Grading_train.json", bad)
    with pytest.raises(ManifestError, match="no sample is left of 0"):
        converted("wsi_bench", tmp_path / "x.jsonl", path, skip_bad=True)
    assert not (tmp_path / "x.jsonl").exists()


def test_stores_decide_which_samples_stay(tmp_path):
    stores = tmp_path / "stores"
    store, _, _ = write_store(stores, "TCGA-AA-0002-01Z-00-DX1.U")
    path = write_json(tmp_path / "Grading_train.json", rows(1, 2, image="TCGA-AA-{:04}-01Z-00-DX1"))
    done = converted("wsi_bench", tmp_path / "m.jsonl", path, stores=stores)
    assert [s.slides for s in done.samples] == [("TCGA-AA-0002-01Z-00-DX1.U",)]
    shutil.rmtree(store)
    with pytest.raises(ManifestError, match="no sample is left of 2") as caught:
        converted("wsi_bench", tmp_path / "n.jsonl", path, stores=stores)
    assert str(stores) in str(caught.value)


def test_usage(tmp_path):
    path = write_json(tmp_path / "Grading_train.json", rows(1))
    with pytest.raises(UnknownPluginError, match=r"format called 'wsi_bunch'.*wsi_bench"):
        converted("wsi_bunch", tmp_path / "m.jsonl", path)
    with pytest.raises(ConfigError, match="also a file"):
        converted("wsi_bench", path, path)
    with pytest.raises(ConfigError, match="no patient to train on"):
        converted("wsi_bench", tmp_path / "m.jsonl", path, val_share=0.5, test_share=0.5)
    with pytest.raises(ManifestError, match="cannot be read"):
        converted("wsi_bench", tmp_path / "m.jsonl", tmp_path / "none.json")
