"""`wsiprep convert` as a shell sees it."""

from __future__ import annotations

import json
import subprocess

from tests.cli import shell
from tests.tasks.convert.made import talk, write_csv, write_json
from tests.train.language.made import write_grid, write_store
from wsiprep.train.language.manifest import read_manifest


def wsiprep(*args: object) -> subprocess.CompletedProcess[str]:
    return shell.wsiprep(*args, NO_COLOR="1")


def rows(*patients):
    return [
        {"id": f"r{n}", "image": f"TCGA-AA-{n:04}-01Z-00-DX1.U.pt",
         "conversations": talk("<image>\nWhich grade?", "High.")}
        for n in patients
    ]  # fmt: skip


def test_words_json_and_exit_codes(tmp_path):
    train = write_json(tmp_path / "Grading_train.json.gz", [*rows(*range(40)), {"id": "broken"}])
    test = write_json(tmp_path / "Grading_test.json", rows(3, 4, 99))
    out = tmp_path / "m.jsonl"
    done = wsiprep("convert", "wsi-bench", train, test, "--out", out)
    assert done.returncode == 2
    assert "item 41: 'image' is missing" in done.stderr
    assert "--skip-bad" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()

    done = wsiprep("convert", "wsi-bench", train, test, "--out", out, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    assert "as published, 2 of 3 test slides and 2 of 3 test patients" in done.stdout
    assert "1 records that cannot be used" in done.stdout
    assert "2 samples of patients held out elsewhere" in done.stdout
    assert f"wrote 41 samples to {out}" in done.stdout
    assert {s.split for s in read_manifest(out)} == {"train", "val", "test"}

    done = wsiprep("convert", "wsi-bench", train, "-o", out, "--skip-bad", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published_test"] is None
    done = wsiprep("convert", "wsi-bench", train, "-o", out, "--skip-bad")
    assert "no published test files" in done.stdout
    done = wsiprep("convert", "wsi-bench", train, test, "-o", out, "--skip-bad", "--split", "given")
    assert "not of unseen patients" in done.stdout


def test_slides_without_features_are_named(tmp_path):
    write_store(tmp_path / "stores", "whole", number=1)
    write_grid(tmp_path / "stores", "bare", 2)
    table = write_csv(tmp_path / "r.csv", [["slide", "report"], ["whole", "A."], ["bare", "B."]])
    done = wsiprep(
        "convert", "csv", table, "--stores", tmp_path / "stores", "-o", tmp_path / "m.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert "left out: 1 samples of slides whose stores have no features" in done.stdout
    assert "stores without features: bare.zarr" in done.stdout
