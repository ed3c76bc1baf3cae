"""Runs that were stopped go on where they stopped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tasks.runs import run, tree
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import PrepareConfig, SegmentConfig


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
