"""The slides of a run: those that fail, what is known of each from outside, and their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.slide.made import smooth, write_tiff
from tests.tasks.runs import log, run
from wsiprep.core.config import build
from wsiprep.core.errors import UsageError
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import CoordsConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.prepare import prepare


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
