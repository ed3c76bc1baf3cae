"""Damage: every remedy that is printed works; and runs that share an output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.runs import run, tree
from wsiprep.core.errors import StoreCorruptError
from wsiprep.store.claim import find_store
from wsiprep.store.disk import lock
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig

COMMANDS = {"segment": SegmentConfig, "coords": CoordsConfig, "embed": EmbedConfig}
GRID = "grids/mpp0.5_patch128_stride128"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize(
    "part",
    [
        "tissue/mask/c/0/0",
        "tissue/zarr.json",
        f"{GRID}/cell/c/0/0",
        f"{GRID}/zarr.json",
        f"{GRID}/features/test/values/c/0/0/0",
        f"{GRID}/features/test/valid/c/0/0",
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_the_remedy_that_verify_prints_repairs(small_slide, tmp_path, part, damage):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path / "small.zarr")
    damage(tmp_path / "small.zarr" / part)
    (finding,) = verify_output(tmp_path).findings
    command = finding.remedy.split()[1]
    assert str(small_slide) in finding.remedy
    report = run(COMMANDS[command], small_slide, tmp_path, overwrite=True)
    assert report.exit_code == 0, report.rows
    assert verify_output(tmp_path).findings == ()
    assert tree(tmp_path / "small.zarr") == before


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"attributes": {"wsiprep": 5}}'])
def test_an_unreadable_root_is_replaced_by_overwriting(small_slide, tmp_path, content):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path / "small.zarr")
    root = tmp_path / "small.zarr" / "zarr.json"
    root.unlink() if content is None else root.write_bytes(content)
    assert len(verify_output(tmp_path).findings) == 1
    (row,) = run(PrepareConfig, small_slide, tmp_path).rows
    assert row.error == "StoreCorruptError"
    assert "--overwrite" in row.remedy
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert tree(tmp_path / "small.zarr") == before


def test_lost_group_metadata_is_found_and_restored(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path / "small.zarr")
    for name in ("grids/zarr.json", f"{GRID}/features/zarr.json"):
        (tmp_path / "small.zarr" / name).unlink()
    assert len(verify_output(tmp_path).findings) == 2
    run(PrepareConfig, small_slide, tmp_path)
    assert tree(tmp_path / "small.zarr") == before


@pytest.mark.parametrize(
    ("unit", "files"),
    [
        ("grids/../features/..", {}),
        ("grids/a/features/../../../x", {}),
        ("/etc", {}),
        ("tissue", {"../../../victim": [1, "x"]}),
        ("tissue", {"/etc/passwd": [1, "x"]}),
        ("elsewhere", {}),
    ],
)
def test_a_hostile_manifest_leads_nowhere(small_slide, tmp_path, unit, files):
    run(PrepareConfig, small_slide, tmp_path)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".work" / "small" / "x").mkdir(parents=True)
    root = tmp_path / "small.zarr" / "zarr.json"
    values = json.loads(root.read_text())
    values["attributes"]["wsiprep"]["units"][unit] = {"key": "k", "parent": "", "files": files}
    root.write_text(json.dumps(values))
    with pytest.raises(StoreCorruptError, match="not of this store"):
        FeatureStore(tmp_path / "small.zarr")
    (row,) = run(PrepareConfig, small_slide, tmp_path).rows
    assert row.error == "StoreCorruptError"
    assert (tmp_path / "victim").read_text() == "precious"


def test_relative_paths_are_told_apart(small_slide, tmp_path, monkeypatch):
    for name, extra in (("p", b""), ("q", b"\0" * 16)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tiff").write_bytes(small_slide.read_bytes() + extra)
        monkeypatch.chdir(tmp_path / name)
        (row,) = run(SegmentConfig, "x.tiff", tmp_path / "o").rows
        assert row.status == "ok"
    assert len(list((tmp_path / "o").glob("*.zarr"))) == 2


def test_a_stem_that_another_process_is_writing_does_not_block_its_namesake(small_slide, tmp_path):
    for name, extra in (("a", b""), ("b", b"\0" * 16)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tiff").write_bytes(small_slide.read_bytes() + extra)
    out = tmp_path / "o"
    run(SegmentConfig, tmp_path / "a" / "x.tiff", out)
    with lock(out / ".work" / ".locks" / "x", "x"):
        (row,) = run(SegmentConfig, tmp_path / "b" / "x.tiff", out).rows
        assert row.status == "ok"
        (row,) = run(SegmentConfig, tmp_path / "a" / "x.tiff", out).rows
        assert row.error == "StoreBusyError"


def test_many_processes_on_one_output(small_slide, tmp_path):
    """They share the slides among them; each ends well or says that another one has it."""
    slides = tmp_path / "slides"
    slides.mkdir()
    content = small_slide.read_bytes()
    for i in range(4):
        (slides / f"s{i}.tiff").write_bytes(content + bytes([i]))
    out = tmp_path / "o"
    command = [
        sys.executable, "-m", "wsiprep", "segment", str(slides), "-o", str(out), "--json",
    ]  # fmt: skip
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        text, errors = process.communicate(timeout=120)
        assert process.returncode in (0, 1), errors
        for row in json.loads(text)["slides"]:
            assert row["status"] in ("ok", "skipped") or row["error"] == "StoreBusyError", row
    assert len(list(out.glob("*.zarr"))) == 4
    assert verify_output(out).findings == ()
    assert run(SegmentConfig, slides, out).exit_code == 0


def test_a_failed_slide_leaves_no_work_behind(small_slide, tmp_path):
    report = run(PrepareConfig, small_slide, tmp_path, mpp=0.1)
    assert report.rows[0].error == "UpsamplingError"
    assert not (tmp_path / ".work").exists()
    assert verify_output(tmp_path).findings == ()


def test_one_unreadable_folder_does_not_cost_the_others(small_slide, tmp_path, monkeypatch):
    folder = tmp_path / "slides" / "locked"
    folder.mkdir(parents=True)
    (tmp_path / "slides" / "a.tiff").write_bytes(small_slide.read_bytes())
    honest = Path.iterdir

    def iterdir(self):
        if self == folder:
            raise PermissionError(13, "Permission denied")
        return honest(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = run(SegmentConfig, tmp_path / "slides", tmp_path / "o", recursive=True)
    assert [r.status for r in report.rows] == ["ok"]
    begin = json.loads((tmp_path / "o" / "run.jsonl").read_text().splitlines()[0])
    assert any("cannot be listed" in note for note in begin["notes"])


def test_no_handles_are_left_open_by_refusals(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        (row,) = run(
            PrepareConfig, small_slide, tmp_path, encoder=("timm:resnet10t", "test"),
            random_weights=True, store_dtype="float32",
        ).rows  # fmt: skip
        assert row.error == "StoreMismatchError"
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert find_store(tmp_path, "small", FeatureStore(tmp_path / "small.zarr").slide.fingerprint)
