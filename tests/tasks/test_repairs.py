"""Damage and change: every remedy that is printed works, and nothing stale is shown as current."""

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


def test_pictures_never_show_an_earlier_mask(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path / "a")
    change = {"holes": "remove", "min_tissue_area": 0.3, "min_hole_area": 0.0}
    run(PrepareConfig, small_slide, tmp_path / "a", overwrite=True, overlay=False, **change)
    run(PrepareConfig, small_slide, tmp_path / "a", **change)
    run(PrepareConfig, small_slide, tmp_path / "b", **change)
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert {k for k in first if k.startswith("overlays")} == {
        "overlays/mpp0.5_patch128_stride128/small.jpg"
    }
    for name in first:
        if name.startswith(("overlays", "geojson")):
            assert first[name] == second[name]


def test_each_grid_has_its_own_picture(small_slide, tmp_path):
    (row,) = run(PrepareConfig, small_slide, tmp_path).rows
    (other,) = run(PrepareConfig, small_slide, tmp_path, mpp=1.0).rows
    (again,) = run(PrepareConfig, small_slide, tmp_path).rows
    assert again.overlay == row.overlay != other.overlay


def test_features_of_another_precision_are_refused(small_slide, tmp_path):
    values = {"encoder": ("timm:resnet10t",), "random_weights": True}
    run(PrepareConfig, small_slide, tmp_path, precision="bf16", **values)
    (row,) = run(PrepareConfig, small_slide, tmp_path, **values).rows
    assert row.error == "StoreMismatchError"
    assert "precision" in row.reason


def test_a_given_mpp_can_be_withdrawn(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path, slide_mpp=0.4)
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert FeatureStore(row.store).slide.mpp == 0.5


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


def test_a_stopped_overwrite_goes_on_where_it_stopped(small_slide, tmp_path, monkeypatch):
    from wsiprep.core.errors import Interrupted
    from wsiprep.tasks import prepare as module

    for name in "ab":
        (tmp_path / f"{name}.tiff").write_bytes(small_slide.read_bytes() + name.encode())
    slides = (str(tmp_path / "a.tiff"), str(tmp_path / "b.tiff"))
    run(PrepareConfig, slides, tmp_path / "o")
    honest = module.prepare_slide

    def stops_at_b(ref, *args):
        if ref.id == "b":
            raise Interrupted("stop")
        return honest(ref, *args)

    change = {"overwrite": True, "min_tissue": 0.5}
    monkeypatch.setattr(module, "prepare_slide", stops_at_b)
    report = run(PrepareConfig, slides, tmp_path / "o", **change)
    assert report.exit_code == 130
    monkeypatch.setattr(module, "prepare_slide", honest)
    report = run(PrepareConfig, slides, tmp_path / "o", **change)
    assert [r.status for r in report.rows] == ["skipped", "ok"]
    assert verify_output(tmp_path / "o").findings == ()
    # It came to its end, so the next one is a new one.
    report = run(PrepareConfig, slides, tmp_path / "o", **change)
    assert [r.status for r in report.rows] == ["ok", "ok"]
    assert not (tmp_path / "o" / ".work").exists()


def test_a_failed_slide_leaves_no_work_behind(small_slide, tmp_path):
    report = run(PrepareConfig, small_slide, tmp_path, mpp=0.1)
    assert report.rows[0].error == "UpsamplingError"
    assert not (tmp_path / ".work").exists()
    assert verify_output(tmp_path).findings == ()


def test_two_encoders_of_one_name_are_refused(small_slide, tmp_path):
    from wsiprep.core.errors import UsageError

    with pytest.raises(UsageError, match="under one name"):
        run(PrepareConfig, small_slide, tmp_path / "o", encoder=("test", "test "))
    assert not (tmp_path / "o").exists()


def test_another_reader_with_other_levels_is_refused(small_slide, tmp_path, monkeypatch):
    from dataclasses import replace

    from wsiprep.slide.open import open_slide
    from wsiprep.tasks import prepare as module

    run(CoordsConfig, small_slide, tmp_path)
    run(SegmentConfig, small_slide, tmp_path)
    run(CoordsConfig, small_slide, tmp_path)

    def fewer_levels(*args, **kwargs):
        slide = open_slide(*args, **kwargs)
        slide._info = replace(
            slide.info, reader="other", downsamples=slide.info.downsamples[:1],
            level_sizes=slide.info.level_sizes[:1],
        )  # fmt: skip
        return slide

    monkeypatch.setattr(module, "open_slide", fewer_levels)
    (row,) = run(EmbedConfig, small_slide, tmp_path).rows
    assert row.error == "StoreMismatchError"
    assert "--reader tiff" in row.remedy


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


@pytest.mark.parametrize("model", [CoordsConfig, EmbedConfig])
@pytest.mark.parametrize("change", ["mpp", "content", "root"])
def test_a_later_stage_never_removes_what_it_cannot_make(small_slide, tmp_path, model, change):
    slide = tmp_path / "s.tiff"
    slide.write_bytes(small_slide.read_bytes())
    run(PrepareConfig, slide, tmp_path / "o", slide_mpp=0.45)
    if change == "content":
        slide.write_bytes(small_slide.read_bytes() + b"1")
    if change == "root":
        (tmp_path / "o" / "s.zarr" / "zarr.json").write_text("{}")
    before = tree(tmp_path / "o" / "s.zarr")
    given = {"slide_mpp": 0.3} if change == "mpp" else {}
    (row,) = run(model, slide, tmp_path / "o", overwrite=True, **given).rows
    assert row.status == "failed"
    assert "wsiprep run" in row.remedy
    assert tree(tmp_path / "o" / "s.zarr") == before


def test_a_later_stage_overwrites_with_the_mpp_that_was_given(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path, slide_mpp=0.45)
    (row,) = run(EmbedConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert row.encoded == row.patches


def test_the_settings_of_every_command_can_be_read_back(small_slide, tmp_path):
    import yaml

    for model in (SegmentConfig, CoordsConfig, EmbedConfig, PrepareConfig):
        run(model, small_slide, tmp_path)
        values = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert values["output"] == str(tmp_path)


def test_a_slide_that_failed_is_done_again_after_a_stop(small_slide, tmp_path, monkeypatch):
    from wsiprep.core.errors import Interrupted
    from wsiprep.tasks import prepare as module

    slides = (str(tmp_path / "a.tiff"), str(tmp_path / "b.tiff"))
    for path in slides:
        Path(path).write_bytes(small_slide.read_bytes() + path[-6:].encode())
    run(PrepareConfig, slides, tmp_path / "o")
    Path(slides[0]).write_bytes(b"broken")
    honest = module.prepare_slide

    def stops_at_b(ref, *args):
        if ref.id == "b":
            raise Interrupted("stop")
        return honest(ref, *args)

    monkeypatch.setattr(module, "prepare_slide", stops_at_b)
    report = run(PrepareConfig, slides, tmp_path / "o", overwrite=True)
    assert [r.status for r in report.rows] == ["failed"]
    monkeypatch.setattr(module, "prepare_slide", honest)
    Path(slides[0]).write_bytes(small_slide.read_bytes() + b"new")
    report = run(PrepareConfig, slides, tmp_path / "o", overwrite=True)
    assert [r.status for r in report.rows] == ["ok", "ok"]


def test_a_stop_inside_a_foreign_decoder_is_a_stop(small_slide, tmp_path, monkeypatch):
    import signal

    from wsiprep.tissue import given

    def decode(*args, **kwargs):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Exception as err:
            raise AssertionError("a stop was taken for an error of the mask") from err

    monkeypatch.setattr(given, "given_tissue", decode)
    from wsiprep.tissue import detect

    monkeypatch.setattr(detect, "given_tissue", decode)
    mask = tmp_path / "m.png"
    mask.write_bytes(b"x")
    report = run(SegmentConfig, small_slide, tmp_path / "o", mask=mask)
    assert report.exit_code == 130


def test_of_two_encoders_the_published_one_is_not_encoded_again(small_slide, tmp_path, monkeypatch):
    from wsiprep.store.write import SlideStore
    from wsiprep.tasks import fill

    values = {"encoder": ("test", "timm:resnet10t"), "random_weights": True, "patch_size": 256}
    run(PrepareConfig, small_slide, tmp_path, **values)
    before = tree(tmp_path / "small.zarr")
    publish = SlideStore.put_features

    def killed_after_the_first(self, name, grid, spec, *args):
        if spec.name != "test":
            raise KeyboardInterrupt
        publish(self, name, grid, spec, *args)

    monkeypatch.setattr(SlideStore, "put_features", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        run(PrepareConfig, small_slide, tmp_path, overwrite=True, **values)
    monkeypatch.setattr(SlideStore, "put_features", publish)

    def none(*args):
        raise AssertionError("everything was in the store or the journal")

    monkeypatch.setattr(fill, "_begin", none)
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True, **values).rows
    assert row.status == "ok"
    assert row.encoded == 0
    assert tree(tmp_path / "small.zarr") == before


def test_a_torn_note_of_an_overwrite_is_passed_over(small_slide, tmp_path):
    from wsiprep.tasks.redo import RedoLog

    cfg = PrepareConfig.of(slides=(str(small_slide),), output=tmp_path, overwrite=True)
    first = RedoLog(cfg)
    first.add("a", "x")
    (path,) = (tmp_path / ".work").iterdir()
    path.write_bytes(path.read_bytes() + b'{"done": "b')
    first.add("c", "x")
    first.add("d", "x")
    again = RedoLog(cfg)
    assert again.has("a")
    assert again.has("d")
    assert not again.has("b")
