"""The pipeline on a small synthetic slide, with the mean-colour encoder."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tests.tasks.runs import log, run, tree
from wsiprep import open_slide
from wsiprep.core.config import build
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.prepare import _spare_bf16, prepare


def test_run_makes_everything(small_slide, tmp_path):
    report = run(PrepareConfig, small_slide, tmp_path, export_coords=("csv", "h5"))
    (row,) = report.rows
    assert report.exit_code == 0
    assert row.status == "ok"
    assert row.patches == row.encoded > 10
    store = FeatureStore(row.store)
    features = store.features()
    assert features.dim == 3
    rows = features.rows()
    assert len(rows) == row.patches
    # Mean colours of tissue: pinker than glass, in 0..1.
    assert (rows.vectors[:, 0] > rows.vectors[:, 1]).mean() > 0.9
    for path in (row.overlay, row.geojson):
        assert Path(path).is_file()
    assert len(json.loads(Path(row.geojson).read_text())["features"]) >= 1
    coords = tmp_path / "coords" / store.grids[0]
    assert sorted(p.suffix for p in coords.iterdir()) == [".csv", ".h5"]
    assert verify_output(tmp_path).findings == ()
    events = log(tmp_path)
    assert [e["event"] for e in events] == ["begin", "slide", "end"]
    assert events[1]["plan"].startswith("level 0, read 128 px as it is")
    assert not (tmp_path / ".work").exists()


def test_features_are_those_of_the_pixels(small_slide, tmp_path):
    """End to end against the straight way: read a region, take its mean."""
    import openslide

    run(PrepareConfig, small_slide, tmp_path, store_dtype="float32")
    store = FeatureStore(tmp_path / "small.zarr")
    rows = store.features().rows()
    with openslide.OpenSlide(str(small_slide)) as slide:
        for i in (0, len(rows) // 2, len(rows) - 1):
            x, y = rows.origin0_px[i].tolist()
            pixels = np.asarray(slide.read_region((x, y), 0, (128, 128)).convert("RGB"))
            np.testing.assert_allclose(
                rows.vectors[i], pixels.reshape(-1, 3).mean(0) / 255, atol=1e-5
            )


def test_stages_one_by_one_give_the_same_bytes(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path / "a")
    run(SegmentConfig, small_slide, tmp_path / "b")
    run(CoordsConfig, small_slide, tmp_path / "b")
    run(EmbedConfig, small_slide, tmp_path / "b")
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    for name in ("config.yaml", "overlays/tissue/small.jpg"):
        first.pop(name, None), second.pop(name)
    assert first == second


def test_stages_out_of_order_say_what_to_run(small_slide, tmp_path):
    (row,) = run(CoordsConfig, small_slide, tmp_path).rows
    assert (row.status, row.error) == ("failed", "MissingStageError")
    assert "wsiprep segment" in row.remedy
    run(SegmentConfig, small_slide, tmp_path)
    (row,) = run(EmbedConfig, small_slide, tmp_path).rows
    assert row.status == "failed"
    assert "wsiprep coords" in row.remedy


def test_a_second_run_skips_and_changes_nothing(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path)
    (row,) = run(PrepareConfig, small_slide, tmp_path).rows
    assert row.status == "skipped"
    assert row.encoded == 0
    assert tree(tmp_path) == before


def test_overwriting_gives_the_same_bytes(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path)
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert row.encoded == row.patches
    after = tree(tmp_path)
    assert after == before
    assert verify_output(tmp_path).findings == ()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"min_tissue": 0.4}, "min_tissue 0.3 -> 0.4"),
        ({"holes": "remove"}, "holes 'keep' -> 'remove'"),
        ({"store_dtype": "float32"}, "store_dtype 'float16' -> 'float32'"),
        ({"slide_mpp": 0.4}, "0.5 µm/px, now the slide has 0.4"),
    ],
)
def test_changed_settings_are_refused_by_name_and_replaced_by_flag(
    small_slide, tmp_path, change, what
):
    run(PrepareConfig, small_slide, tmp_path)
    before = tree(tmp_path)
    (row,) = run(PrepareConfig, small_slide, tmp_path, **change).rows
    assert (row.status, row.error) == ("failed", "StoreMismatchError")
    assert what in row.reason
    assert "--overwrite" in row.remedy
    after = tree(tmp_path)
    before.pop("config.yaml"), after.pop("config.yaml")
    assert after == before
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True, **change).rows
    assert row.status == "ok"
    assert verify_output(tmp_path).findings == ()


def test_another_resolution_is_another_grid(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path)
    run(PrepareConfig, small_slide, tmp_path, mpp=1.0)
    store = FeatureStore(tmp_path / "small.zarr")
    assert len(store.grids) == 2
    assert len(store.features(grid=store.grids[0]).rows()) > len(
        store.features(grid=store.grids[1]).rows()
    )


def test_encoders_share_one_reading(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path / "a", encoder=("test",))
    (row,) = run(PrepareConfig, small_slide, tmp_path / "a", encoder=("test", "timm:resnet10t"),
                 random_weights=True, patch_size=128).rows  # fmt: skip
    assert row.status == "ok"
    store = FeatureStore(row.store)
    assert store.encoders() == ["test", "timm-resnet10t"]
    spec = store.features("timm:resnet10t").attributes["encoder"]
    assert spec["weights"] == "random"


def test_results_do_not_depend_on_workers(small_slide, tmp_path):
    for workers in (1, 5):
        run(PrepareConfig, small_slide, tmp_path / str(workers), workers=workers)
    first, second = tree(tmp_path / "1" / "small.zarr"), tree(tmp_path / "5" / "small.zarr")
    assert first == second


def test_the_settings_of_a_run_can_be_run_again(small_slide, tmp_path):

    run(PrepareConfig, small_slide, tmp_path / "a", min_tissue=0.4, mag=10)
    values = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert values["mpp"] == 1.0
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    cfg = build(
        PrepareConfig,
        ("config.yaml", values),
        ("command line", {"slides": (str(small_slide),), "output": tmp_path / "b"}),
    )
    prepare(cfg)
    assert tree(tmp_path / "a" / "small.zarr") == tree(tmp_path / "b" / "small.zarr")


def test_a_bug_in_one_slide_costs_only_that_slide(small_slide, tmp_path, monkeypatch):
    from wsiprep.tasks import steps

    def broken(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(steps, "make_grid", broken)
    report = run(PrepareConfig, (str(small_slide), "gone.svs"), tmp_path)
    assert [r.error for r in report.rows] == ["ZeroDivisionError", "SlideOpenError"]
    assert report.exit_code == 70
    assert "Traceback" in log(tmp_path)[1]["traceback"]


def test_values_that_are_not_finite_are_never_stored(small_slide, tmp_path, monkeypatch):
    from wsiprep.encoders.load import load_encoder
    from wsiprep.tasks import prepare as module

    class Broken:
        def __init__(self, value):
            self.inner = load_encoder("test")
            self.spec = self.inner.spec
            self.value = value

        def __call__(self, pixels):
            vectors = self.inner(pixels)
            vectors[-1, 0] = self.value
            return vectors

    for value, remedy in ((np.nan, "--precision fp32"), (1e6, "--store-dtype float32")):
        monkeypatch.setattr(module, "load_encoders", lambda *a, v=value: [Broken(v)])
        (row,) = run(PrepareConfig, small_slide, tmp_path / str(value)).rows
        assert row.error == "EncodingError"
        assert remedy in row.remedy
        assert FeatureStore(tmp_path / str(value) / "small.zarr").encoders() == []


def test_one_unreadable_tile_fails_the_slide_or_is_masked(small_slide, tmp_path, monkeypatch):
    from wsiprep.core.errors import SlideReadError
    from wsiprep.slide.readers.tiff import TiffSlide

    honest = TiffSlide.decode_tile

    def decode(slide, level, tile, data, out):
        if threading.current_thread().name.startswith("wsiprep-read") and tile == broken:
            raise SlideReadError("broken", slide=slide.info.id, stage="tiles")
        honest(slide, level, tile, data, out)

    with open_slide(small_slide) as slide:
        tiling = slide.tiling(0)
    assert (tiling.tile.width, tiling.tile.height) == (256, 256)
    broken = 2 * tiling.shape[1] + 3  # four patches of 128 px lie on it
    monkeypatch.setattr(TiffSlide, "decode_tile", decode)
    (row,) = run(PrepareConfig, small_slide, tmp_path / "a", min_tissue=0).rows
    assert row.error == "SlideReadError"
    (row,) = run(PrepareConfig, small_slide, tmp_path / "b", min_tissue=0, on_bad_tile="mask").rows
    assert (row.status, row.bad_tiles) == ("ok", 4)
    features = FeatureStore(row.store).features()
    assert not features.valid[4:6, 6:8].any()
    assert len(features) == row.patches - 4
    (again,) = run(PrepareConfig, small_slide, tmp_path / "b", min_tissue=0).rows
    assert (again.status, again.error) == ("failed", "StoreMismatchError")
    assert "(on_bad_tile 'mask' -> 'fail')" in again.reason


def test_a_profile_says_where_the_time_went(small_slide, tmp_path):
    report = run(PrepareConfig, small_slide, tmp_path / "o", profile=True)
    written = json.loads((tmp_path / "o" / "profile.json").read_text())
    assert written == report.profile.canonical() == report.canonical()["encoding"]
    (times,) = written["slides"].values()
    assert times["tiles"] == report.rows[0].encoded == written["total"]["tiles"]
    assert times["stored_tiles"] > 0
    assert times["bytes"] > 0
    assert "profile:" not in (tmp_path / "o" / "config.yaml").read_text()
    before = (tmp_path / "o" / "profile.json").read_bytes()
    said = []
    again = run(PrepareConfig, small_slide, tmp_path / "o", profile=True, on_event=said.append)
    assert again.profile.lines() == []
    assert (tmp_path / "o" / "profile.json").read_bytes() == before, "nothing to say, nothing lost"
    assert "Nothing was encoded: no profile.json is written." in [event.text for event in said]
    assert run(SegmentConfig, small_slide, tmp_path / "p").profile is None


@pytest.mark.parametrize(
    ("facts", "precision", "spare"),
    [
        ({"avx512_bf16": True}, "fp32", True),
        ({"amx_bf16": True}, "fp32", True),
        ({"avx512_bf16": True}, "bf16", False),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32", False),
    ],
)
def test_bfloat16_is_named_where_the_cpu_has_it_and_it_is_not_in_use(
    facts, precision, spare, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)
    encoder = SimpleNamespace(spec=SimpleNamespace(precision=precision))
    assert _spare_bf16([encoder]) is spare
