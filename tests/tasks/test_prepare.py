"""The pipeline on a small synthetic slide, with the mean-colour encoder."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.slide.made import smooth, write_tiff
from wsiprep import open_slide
from wsiprep.core.config import build
from wsiprep.core.errors import UsageError
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.estimate import estimate
from wsiprep.tasks.prepare import prepare

BASE = {"encoder": ("test",), "patch_size": 128, "min_tissue": 0.3}


def run(model, slides, out, **values):
    own = {n for n in BASE if n in _names(model)}
    settings = {**{n: BASE[n] for n in own}, "output": out, **values}
    slides = slides if isinstance(slides, tuple) else (str(slides),)
    return prepare(build(model, ("test", {"slides": slides, **settings})))


def _names(model):
    from wsiprep.core.config import leaves

    return {name for _, name, _, _ in leaves(model)}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "run.jsonl"
    }


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "run.jsonl").read_text().splitlines()]


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
        ({"on_bad_tile": "mask"}, "on_bad_tile 'fail' -> 'mask'"),
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


def bad_slides(folder: Path, good: Path) -> tuple[str, ...]:
    content = good.read_bytes()
    (folder / "zero.svs").write_bytes(b"")
    (folder / "text.svs").write_text("this is no slide\n" * 100)
    (folder / "cut.tiff").write_bytes(content[: len(content) // 4])
    (folder / "folder.svs").mkdir()
    (folder / "folder.svs" / "x").write_text("x")
    return tuple(str(folder / n) for n in ("zero.svs", "text.svs", "cut.tiff", "gone.svs"))


def test_every_slide_is_attempted_and_failures_are_rows(small_slide, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    bad = bad_slides(slides, small_slide)
    report = run(PrepareConfig, (*bad, str(small_slide)), tmp_path / "out")
    assert report.exit_code == 1
    assert [r.status for r in report.rows] == ["failed"] * 4 + ["ok"]
    for row in report.failed:
        assert row.error in {"SlideOpenError", "SlideReadError"}
        assert row.reason
        assert row.stage
    rows = [e for e in log(tmp_path / "out") if e["event"] == "slide"]
    assert len(rows) == 5
    assert [r["status"] for r in rows] == [r.status for r in report.rows]
    stores = [p.name for p in (tmp_path / "out").glob("*.zarr")]
    assert stores == ["small.zarr"]
    # Nothing is lost by running it again.
    again = run(PrepareConfig, (*bad, str(small_slide)), tmp_path / "out")
    assert [r.status for r in again.rows] == ["failed"] * 4 + ["skipped"]


def test_fail_fast_stops_at_the_first(small_slide, tmp_path):
    report = run(
        PrepareConfig, (str(tmp_path / "gone.svs"), str(small_slide)), tmp_path / "o",
        fail_fast=True,
    )  # fmt: skip
    assert len(report.rows) == 1
    assert report.exit_code == 1


def test_a_missing_mpp_is_refused_then_given_then_remembered(small_slide, tmp_path):
    import cv2

    from wsiprep.core.types import Point, Size
    from wsiprep.slide.open import open_slide

    with open_slide(small_slide) as slide:
        pixels = slide.read(Point(0, 0), 0, Size(2048, 1536))
    flat = tmp_path / "flat.png"
    cv2.imwrite(str(flat), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    (row,) = run(SegmentConfig, flat, tmp_path / "o").rows
    assert row.error == "MissingMppError"
    assert "--slide-mpp" in row.remedy
    assert "`mpp`" in row.remedy
    (row,) = run(SegmentConfig, flat, tmp_path / "o", slide_mpp=0.5).rows
    assert row.status == "ok"
    (row,) = run(CoordsConfig, flat, tmp_path / "o").rows
    assert row.status == "ok"
    table = tmp_path / "m.csv"
    table.write_text("path,mpp\nflat.png,0.5\n")
    report = run(PrepareConfig, (), tmp_path / "o2", manifest=table)
    assert report.rows[0].status == "ok"
    assert FeatureStore(report.rows[0].store).slide.mpp_source == "override"


def test_a_wrong_cell_of_the_manifest_stops_before_anything_is_written(small_slide, tmp_path):
    table = tmp_path / "m.csv"
    table.write_text(f"path,mpp\n{small_slide},0.5\n{small_slide.parent / 'x.svs'},many\n")
    with pytest.raises(UsageError, match=r"--slide-mpp in manifest row of 'x'"):
        run(PrepareConfig, (), tmp_path / "o", manifest=table)
    assert not (tmp_path / "o").exists()


def test_a_region_of_interest_is_honoured(small_slide, tmp_path):
    square = [[512, 512], [1024, 512], [1024, 1024], [512, 1024], [512, 512]]
    roi = tmp_path / "roi.geojson"
    roi.write_text(
        json.dumps({"type": "Feature", "properties": {},
                    "geometry": {"type": "Polygon", "coordinates": [square]}})
    )  # fmt: skip
    (row,) = run(PrepareConfig, small_slide, tmp_path / "o", mask=roi, min_tissue=0.9).rows
    grid = FeatureStore(row.store).grid()
    assert sorted(map(tuple, grid.origin0_px.tolist())) == [
        (x, y) for x in range(512, 1024, 128) for y in range(512, 1024, 128)
    ]
    with pytest.raises(UsageError, match="single slide"):
        run(PrepareConfig, (str(small_slide), str(small_slide.parent / "y.tiff")),
            tmp_path / "o3", mask=roi)  # fmt: skip


def test_no_tissue_is_a_result(tmp_path):
    import cv2

    white = tmp_path / "white.png"
    cv2.imwrite(str(white), np.full((1200, 1600, 3), 243, np.uint8))
    for again in (False, True):
        (row,) = run(PrepareConfig, white, tmp_path / "o", slide_mpp=0.5).rows
        assert row.status == "empty"
        assert ("earlier run" in row.reason) is again
        store = FeatureStore(row.store)
        assert len(store.grid()) == 0
        assert len(store.features().rows()) == 0
    assert verify_output(tmp_path / "o").findings == ()


def test_same_stem_in_two_folders(small_slide, tmp_path):
    for name, extra in (("a", b""), ("b", b"\0" * 16)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tiff").write_bytes(small_slide.read_bytes() + extra)
    slides = tuple(str(tmp_path / n / "x.tiff") for n in "ab")
    report = run(PrepareConfig, slides, tmp_path / "o")
    assert [r.status for r in report.rows] == ["ok", "ok"]
    assert len({r.slide for r in report.rows}) == 2
    assert len(list((tmp_path / "o").glob("*.zarr"))) == 2
    again = run(PrepareConfig, tuple(reversed(slides)), tmp_path / "o")
    assert [r.status for r in again.rows] == ["skipped", "skipped"]


def test_a_slide_swapped_under_its_name_is_refused(small_slide, tmp_path):
    slide = tmp_path / "x.tiff"
    shutil.copy(small_slide, slide)
    run(PrepareConfig, slide, tmp_path / "o")
    slide.write_bytes(small_slide.read_bytes() + b"\0" * 16)
    (row,) = run(PrepareConfig, slide, tmp_path / "o").rows
    assert row.error == "StoreMismatchError"
    assert "has changed" in row.reason
    (row,) = run(PrepareConfig, slide, tmp_path / "o", overwrite=True).rows
    assert row.status == "ok"
    assert verify_output(tmp_path / "o").findings == ()


def test_odd_file_names(small_slide, tmp_path):
    for name in ("-dash", "with space", "quote'\"", "grün 🧫", "new\nline", "z" * 200):
        slide = tmp_path / f"{name}.tiff"
        shutil.copy(small_slide, slide)
        (row,) = run(SegmentConfig, slide, tmp_path / "o").rows
        assert row.status == "ok", (name, row)
        assert Path(row.store).parent == tmp_path / "o"
    assert len(list((tmp_path / "o").glob("*.zarr"))) == 6
    assert verify_output(tmp_path / "o").findings == ()


def test_the_settings_of_a_run_can_be_run_again(small_slide, tmp_path):
    import yaml

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


def test_a_dry_run_writes_nothing_and_counts_right(small_slide, tmp_path):
    values = {"slides": (str(small_slide), "gone.svs"), "output": tmp_path / "o", **BASE}
    result = estimate(build(PrepareConfig, ("test", values)))
    assert not (tmp_path / "o").exists()
    assert result.slides[1].error
    (row,) = run(PrepareConfig, small_slide, tmp_path / "o").rows
    assert result.slides[0].patches == row.patches
    assert result.slides[0].bytes == row.patches * 3 * 2
    assert result.slides[0].seconds > 0


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


def test_a_profile_says_where_the_time_went(small_slide, tmp_path):
    report = run(PrepareConfig, small_slide, tmp_path / "o", profile=True)
    written = json.loads((tmp_path / "o" / "profile.json").read_text())
    assert written == report.profile.canonical() == report.canonical()["encoding"]
    (times,) = written["slides"].values()
    assert times["tiles"] == report.rows[0].encoded == written["total"]["tiles"]
    assert times["stored_tiles"] > 0
    assert times["bytes"] > 0
    assert "profile:" not in (tmp_path / "o" / "config.yaml").read_text()
    again = run(PrepareConfig, small_slide, tmp_path / "o")
    assert again.profile.lines() == []
    assert run(SegmentConfig, small_slide, tmp_path / "p").profile is None


def test_why_slides_are_left_to_a_slower_reader_is_said_once(tmp_path):
    for name in ("a", "b"):
        write_tiff(tmp_path / f"{name}.tif", smooth(), compression="zstd", tile=None)
    events = []
    paths = (str(tmp_path / "a.tif"), str(tmp_path / "b.tif"))
    cfg = build(SegmentConfig, ("test", {"slides": paths, "output": tmp_path / "o"}))
    report = prepare(cfg, events.append)
    assert len(report.rows) == 2
    notes = [event.text for event in events if event.kind == "note"]
    assert notes == ["Slides read by tiffslide, patch by patch: tiff does not read it: not tiled."]


def test_presets_give_way_to_flags_and_rows_and_are_told(small_slide, tmp_path):
    rows = [
        ("a", "", "", ""),
        ("b", "tma", "", ""),
        ("c", "", "0.02", "none"),
        ("d", "", "", '"pen,fold"'),
    ]
    lines = ["path,slide_id,preset,min_tissue_area,exclude"]
    lines += [f"{small_slide},{','.join(row)}" for row in rows]
    manifest = tmp_path / "slides.csv"
    manifest.write_text("\n".join(lines))
    events = []
    cfg = SegmentConfig.of(
        manifest=manifest, output=tmp_path / "o", preset="biopsy", section_gap=450.0
    )
    report = prepare(cfg, events.append)
    assert [row.status for row in report.rows] == ["ok"] * 4
    stored = [FeatureStore(row.store).attributes("tissue")["config"] for row in report.rows]
    assert [s["preset"] for s in stored] == ["biopsy", "tma", "biopsy", "biopsy"]
    assert [s["tissue_mpp"] for s in stored] == [4.0] * 4
    assert [s["min_tissue_area"] for s in stored] == [0.01, 0.03, 0.02, 0.01]
    assert [s["section_gap"] for s in stored] == [450.0] * 4
    assert [s["exclude"] for s in stored] == [["pen", "edge"]] * 2 + [[], ["pen", "fold"]]
    notes = [event.text for event in events if event.kind == "note"]
    told = [note for note in notes if note.startswith("preset")]
    assert len(told) == len(set(told)) == 3
    assert any("biopsy" in n and "--min-tissue-area 0.01" in n for n in told)
    assert all("Set by you" in note and "--section-gap 450" in note for note in told)
    # What the run leaves on record repeats it.
    again = SegmentConfig.of(
        **yaml.safe_load((tmp_path / "o" / "config.yaml").read_text()), manifest=manifest
    )
    assert again.tissue == cfg.tissue
