"""Tissue detection against references, from files to the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsiprep.core.errors import (
    ConfigError,
    MissingStageError,
    UnknownPluginError,
    UsageError,
)
from wsiprep.tasks import evaluate_tissue as module
from wsiprep.tasks import tissue_candidates
from wsiprep.tasks.config import SegmentConfig
from wsiprep.tasks.evaluate_config import EvaluateTissueConfig
from wsiprep.tasks.evaluate_tissue import evaluate_tissue
from wsiprep.tasks.prepare import prepare
from wsiprep.testing.segmenter import blob_thumbnail
from wsiprep.tissue.config import TissueConfig

MPP = 8.0


def picture(kind: str = "blob") -> tuple[np.ndarray, np.ndarray]:
    """A thumbnail and its truth: a blob, or glass alone."""
    image, truth = blob_thumbnail()
    if kind == "glass":
        return np.full_like(image, 240), np.zeros_like(truth)
    return image, truth


def write_rgb(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two slides with tissue, the second with a reference that is twice too wide; empty glass."""
    here = tmp_path / "data"
    for name, kind in (("a", "blob"), ("b", "blob"), ("glass", "glass")):
        image, truth = picture(kind)
        if name == "b":
            truth = truth.copy()
            truth[:, truth.shape[1] // 2 :] = False
        write_rgb(here / f"{name}.png", image)
        write_mask(here / f"{name}_mask.png", truth)
    return here


def settings(out: Path, **values) -> EvaluateTissueConfig:
    usual = {"slide_mpp": MPP, "segmenter": "otsu", "resamples": 100}
    return EvaluateTissueConfig.of(output=out, **{**usual, **values})


def csv_rows(out: Path) -> list[dict[str, str]]:
    with (out / "tissue.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_pairs(folder, tmp_path):
    out = tmp_path / "out"
    events = []
    done = evaluate_tissue(settings(out, pairs=(str(folder),)), events.append)
    assert done.exit_code == 0
    a, b, glass = done.rows
    assert [row.slide for row in done.rows] == ["a", "b", "glass"]
    assert {row.segmenter for row in done.rows} == {"otsu"}
    assert a.iou > 0.95
    assert a.boundary_um < 16
    assert b.recall > 0.95
    assert 0.4 < b.precision < 0.6
    assert b.kept_mm2 == pytest.approx(b.reference_mm2, rel=0.1)
    assert b.area_error == pytest.approx(b.area_error_mm2 / b.reference_mm2)
    assert (glass.iou, glass.predicted_mm2, glass.boundary_um) == (1, 0, None)
    pixel_mm2 = (MPP / 1000) ** 2
    assert a.reference_mm2 == pytest.approx(picture()[1].sum() * pixel_mm2)
    assert a.thumbnail_s >= 0
    assert a.segment_s > 0
    assert [e.kind for e in events].count("outcome") == 3

    rows = csv_rows(out)
    assert [row["slide"] for row in rows] == ["a", "b", "glass"]
    assert float(rows[0]["iou"]) == pytest.approx(a.iou, abs=1e-5)
    assert rows[2]["boundary_um"] == ""
    report = json.loads((out / "tissue.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(done.report))
    (otsu,) = report["segmenters"]
    ious = [row.iou for row in done.rows]
    assert otsu["mean"]["iou"]["value"] == pytest.approx(np.mean(ious))
    low, high = otsu["mean"]["iou"]["low"], otsu["mean"]["iou"]["high"]
    assert min(ious) - 1e-9 <= low < otsu["mean"]["iou"]["value"] < high <= 1
    assert otsu["mean"]["boundary_um"]["slides"] == 2
    shared, lost, kept = (
        sum(getattr(row, f"{part}_mm2") for row in done.rows) for part in ("shared", "lost", "kept")
    )
    assert otsu["pooled"]["iou"]["value"] == pytest.approx(shared / (shared + lost + kept))
    assert otsu["pooled"]["precision"]["value"] == pytest.approx(shared / (shared + kept))
    assert otsu["pooled"]["kept_mm2"]["value"] == pytest.approx(kept)
    assert otsu["pooled"]["area_error_mm2"]["value"] == pytest.approx(kept - lost)
    far = sum(row.boundary_um * row.outline_mm for row in (a, b))
    mean_um = far / (a.outline_mm + b.outline_mm)
    assert otsu["pooled"]["boundary_um"]["value"] == pytest.approx(mean_um)
    assert otsu["pooled"]["boundary_um"]["slides"] == 2
    for found in otsu["pooled"].values():
        assert found["low"] <= found["value"] <= found["high"]
    wide = otsu["pooled"]["kept_mm2"]
    each = sorted(row.kept_mm2 for row in done.rows)
    assert 3 * each[0] - 1e-9 <= wide["low"] < wide["value"] < wide["high"] <= 3 * each[2] + 1e-9
    assert otsu["seconds"]["median"] > 0
    assert report["settings"]["tissue"]["tissue_mpp"] == 8.0
    assert sorted(p.name for p in out.iterdir()) == ["tissue.csv", "tissue.json", "worst.jpg"]
    sheet = cv2.imread(str(out / "worst.jpg"))
    assert sheet.shape[1] > 800


def test_the_digest_is_that_of_the_data(folder, tmp_path):
    def sha(out):
        return evaluate_tissue(settings(tmp_path / out, pairs=(str(folder),))).report["data_sha256"]

    first = sha("o1")
    assert sha("o2") == first
    write_mask(folder / "a_mask.png", np.roll(picture()[1], 3, axis=1))
    assert sha("o3") != first


def test_segmenters_side_by_side(folder, tmp_path):
    done = evaluate_tissue(
        settings(
            tmp_path / "out",
            pairs=(str(folder),),
            segmenter=("otsu", "strict=otsu"),
            segmenter_option=("strict:min_contrast=0.5",),
        )
    )
    assert [row.segmenter for row in done.rows] == ["otsu", "strict"] * 3
    loose, strict = done.rows[:2]
    assert strict.recall < 0.5 < loose.recall
    assert strict.lost_mm2 > loose.lost_mm2
    first, second = done.report["segmenters"]
    assert (first["segmenter"], second["segmenter"]) == ("otsu", "strict")
    (difference,) = done.report["differences"]
    assert (difference["segmenter"], difference["minus"]) == ("strict", "otsu")
    gap = difference["mean"]["iou"]
    expected = second["mean"]["iou"]["value"] - first["mean"]["iou"]["value"]
    assert gap["value"] == pytest.approx(expected)
    assert gap["low"] <= gap["value"] <= gap["high"] <= 0
    assert gap["slides"] == 3


def test_a_preset_is_taken_and_told(folder, tmp_path):
    done = evaluate_tissue(
        settings(
            tmp_path / "out", pairs=(str(folder),),
            preset="tma", min_tissue_area=0.2,
        )
    )  # fmt: skip
    (note,) = done.report["notes"]
    assert "preset tma: --tissue-mpp 4" in note
    assert "Set by you: --min-tissue-area 0.2" in note
    assert done.report["settings"]["tissue"]["tissue_mpp"] == 4.0


def test_what_is_evaluated_when_nothing_is_said():
    (usual,) = tissue_candidates.candidates(settings(Path("o"), segmenter=()), [])
    assert (usual.kind, usual.name) == ("segmenter", TissueConfig().segmenter)
    (run,) = tissue_candidates.candidates(
        settings(Path("o"), segmenter=(), predicted=(Path("x/run"),)), []
    )
    assert (run.kind, run.label) == ("run", "run")


@pytest.mark.parametrize(("column", "cell"), [("preset", "cytology"), ("segmenter", "otsu")])
def test_each_slide_is_evaluated_as_it_would_be_segmented(folder, tmp_path, column, cell):
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        f"path,reference,{column}\n{folder}/a.png,{folder}/a_mask.png,{cell}\n"
        f"{folder}/b.png,{folder}/b_mask.png,\n"
    )
    given = {"manifest": manifest, "slide_mpp": MPP, "segmenter_option": ("threshold=0.6",)}
    prepare(SegmentConfig.of(output=tmp_path / "run", **given))
    stored = evaluate_tissue(
        settings(tmp_path / "s", **{**given, "predicted": (tmp_path / "run",)}, segmenter=())
    )
    done = evaluate_tissue(settings(tmp_path / "out", **given, segmenter=()))
    assert [row.method for row in done.rows] == ["otsu", "net"]
    assert {row.segmenter for row in done.rows} == {"segment"}
    assert [row.iou for row in done.rows] == [row.iou for row in stored.rows]
    notes = " ".join(done.report["notes"])
    assert "otsu on 1, net on 1" in notes
    assert "threshold=0.6 is for 'net'; slides with 'otsu' do not take it: a." in notes
    assert len(done.report["segmenters"]) == 1


def test_one_segmenter_for_all_slides_gives_its_name(folder, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,reference,preset\n{folder}/a.png,{folder}/a_mask.png,cytology\n")
    done = evaluate_tissue(settings(tmp_path / "out", manifest=manifest, segmenter=()))
    assert [(row.segmenter, row.method) for row in done.rows] == [("otsu", "otsu")]
    (note,) = done.report["notes"]
    assert "--segmenter otsu, --segmenter-option thin_um=4" in note
    assert "Set by you" not in note
    named = evaluate_tissue(settings(tmp_path / "n", manifest=manifest, segmenter=("net",)))
    assert [(row.segmenter, row.method) for row in named.rows] == [("net", "net")]
    manifest.write_text(f"path,reference,segmenter\n{folder}/a.png,{folder}/a_mask.png,otsu\n")
    with pytest.raises(ConfigError, match="cannot be set for one slide here"):
        evaluate_tissue(settings(tmp_path / "x", manifest=manifest, segmenter=("net",)))


def test_a_prediction_that_is_missing_costs_its_own_row(folder, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,reference,predicted\n{folder}/a.png,{folder}/a_mask.png,gone.png\n")
    otsu, predicted = evaluate_tissue(settings(tmp_path / "out", manifest=manifest)).rows
    assert otsu.status == "ok"
    assert (predicted.status, predicted.error) == ("failed", "TissueInputError")


def test_options_go_to_the_label_they_name():
    cfg = settings(
        Path("o"),
        segmenter=("x=otsu", "y=otsu"),
        segmenter_option=("x:a=1", "b=c:2"),
        holes="remove",
    )
    one, two = tissue_candidates.candidates(cfg, [])
    x, y = (tissue_candidates.tissue_of(c, cfg.tissue) for c in (one, two))
    assert (x.segmenter, x.segmenter_option, x.holes) == ("otsu", ("a=1", "b=c:2"), "remove")
    assert y.segmenter_option == ("b=c:2",)
    assert x.model_fields_set == {"segmenter", "segmenter_option", "holes"}


def test_what_is_there_already(folder, tmp_path):
    """Stores of a run and masks of the user's own, instead of a segmenter."""
    run = tmp_path / "run"
    prepared = prepare(
        SegmentConfig.of(
            slides=(str(folder / "a.png"), str(folder / "b.png")),
            slide_mpp=MPP,
            output=run,
            segmenter="otsu",
        )
    )
    assert not prepared.failed
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,reference,predicted,patient_id\n"
        f"{folder}/a.png,{folder}/a_mask.png,{folder}/b_mask.png,P\n"
        f"{folder}/b.png,{folder}/b_mask.png,,P\n"
        f"{folder}/glass.png,{folder}/glass_mask.png,{folder}/glass_mask.png,Q\n"
    )
    done = evaluate_tissue(
        settings(tmp_path / "out", manifest=manifest, predicted=(run,), segmenter=())
    )
    by = {(row.slide, row.segmenter): row for row in done.rows}
    assert ("b", "predicted") not in by, "nothing was predicted for it"
    half = by["a", "predicted"]
    assert half.precision == 1
    assert 0.4 < half.recall < 0.6
    assert half.segment_s is None
    fresh = evaluate_tissue(settings(tmp_path / "fresh", pairs=(str(folder),)))
    for row in fresh.rows[:2]:
        assert by[row.slide, "run"].iou == row.iou
    missing = by["glass", "run"]
    assert (missing.status, missing.error) == ("failed", MissingStageError.__name__)
    assert "wsiprep segment" in missing.remedy
    assert done.exit_code == 1
    predicted, stored = done.report["segmenters"]
    assert (predicted["slides"], predicted["groups"], predicted["failed"]) == (2, 2, 0)
    assert (stored["slides"], stored["groups"], stored["failed"]) == (2, 1, 1)
    assert stored["mean"]["iou"]["low"] is None, "one patient says nothing of the next"
    assert stored["seconds"] is None


def test_a_slide_that_fails_is_a_row(folder, tmp_path):
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    write_mask(folder / "torn_mask.png", picture()[1])
    write_mask(folder / "b_mask.png", np.ones((300, 90), bool))
    out = tmp_path / "out"
    done = evaluate_tissue(settings(out, pairs=(str(folder),)))
    assert done.exit_code == 1
    status = {row.slide: (row.status, row.error) for row in done.rows}
    assert status["a"] == ("ok", "")
    assert status["b"] == ("failed", "TissueInputError")
    assert status["torn"] == ("failed", "SlideOpenError")
    assert {row["slide"]: row["status"] for row in csv_rows(out)}["b"] == "failed"
    assert "not the shape of the slide" in csv_rows(out)[1]["reason"]
    assert done.report["segmenters"][0]["failed"] == 2


def test_all_fail(folder, tmp_path):
    out = tmp_path / "out"
    done = evaluate_tissue(settings(out, pairs=(str(folder),), slide_mpp=None))
    assert done.exit_code == 1
    assert {row.error for row in done.rows} == {"MissingMppError"}
    assert done.report["segmenters"][0]["mean"] == {}
    assert (out / "worst.jpg").is_file()


def test_a_bug_in_one_segmenter_costs_its_row_alone(folder, tmp_path, monkeypatch):
    real = tissue_candidates.detect_tissue

    def buggy(slide, cfg):
        if cfg.min_tissue_area == 0.123 and slide.info.id == "b":
            raise ZeroDivisionError("oops")
        return real(slide, cfg)

    monkeypatch.setattr(tissue_candidates, "detect_tissue", buggy)
    done = evaluate_tissue(
        settings(
            tmp_path / "o",
            pairs=(str(folder),),
            segmenter=("otsu", "x=otsu"),
            min_tissue_area=0.123,
        )
    )
    assert done.exit_code == 70
    assert [row.slide for row in done.rows if row.status == "failed"] == ["b", "b"]
    assert all("oops" in trace for trace in done.traces)
    assert [row.status for row in done.rows if row.slide == "glass"] == ["ok", "ok"]


def test_pen(tmp_path):
    image, truth = picture()
    ink = np.zeros_like(truth)
    ink[20:60, 20:300] = True
    image[ink] = (20, 60, 200)
    write_rgb(tmp_path / "s.png", image)
    write_mask(tmp_path / "t.png", truth & ~ink)
    write_mask(tmp_path / "p.png", ink)
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,reference,reference_pen\ns.png,t.png,p.png\n")
    done = evaluate_tissue(settings(tmp_path / "out", manifest=manifest))
    (row,) = done.rows
    assert row.pen_recall > 0.8
    assert row.pen_precision > 0.8
    mean = done.report["segmenters"][0]["mean"]["pen_recall"]
    assert (mean["value"], mean["slides"]) == (row.pen_recall, 1)


def test_geojson_references_and_settings_of_a_slide(tmp_path):
    """Polygons are level-0 pixels, ink among them; a manifest sets the scale of each slide."""
    image, _ = picture()
    big = image.repeat(2, axis=0).repeat(2, axis=1)
    write_rgb(tmp_path / "s.png", big)
    h, w = big.shape[:2]

    def feature(name, x0, y0, x1, y1):
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        return {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }

    features = [feature("Tissue", w // 4, h // 4, w // 2, h // 2), feature("Pen", 0, 0, w, 40)]
    (tmp_path / "s.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,reference,mpp,tissue_mpp\ns.png,s.geojson,4,8\ns.png,s.geojson,4,16\n"
    )
    done = evaluate_tissue(settings(tmp_path / "out", manifest=manifest, slide_mpp=None))
    fine, coarse = done.rows
    area = w / 4 * h / 4 * 16 / 1e6
    for row, mpp in ((fine, 8), (coarse, 16)):
        assert row.status == "ok", row.reason
        assert row.mpp == pytest.approx(mpp, rel=0.01)
        assert row.reference_mm2 == pytest.approx(area, rel=0.02)
        assert row.pen_recall == 0, "there is no ink on the picture"


def test_usage_errors_write_nothing(folder, tmp_path):
    out = tmp_path / "out"
    for error, values in (
        (UnknownPluginError, {"segmenter": ("ottsu",)}),
        (UnknownPluginError, {"reader": "nobody"}),
        (ConfigError, {"segmenter": ("otsu", "otsu")}),
        (ConfigError, {"segmenter_option": ("net:weights=x",)}),
        (ConfigError, {"segmenter_option": ("nonsense=1",)}),
        (ConfigError, {"predicted": (tmp_path / "gone",)}),
        (UsageError, {"split": "test"}),
    ):
        with pytest.raises(error):
            evaluate_tissue(settings(out, pairs=(str(folder),), **values))
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,reference,holes\n{folder}/a.png,{folder}/a_mask.png,sometimes\n")
    with pytest.raises(ConfigError, match="manifest row of 'a'"):
        evaluate_tissue(settings(out, manifest=manifest))
    with pytest.raises(ConfigError, match="no name"):
        settings("")
    assert not out.exists()


def test_only_the_worst_are_drawn(folder, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        module, "draw_sheet", lambda cells, **how: sheets.append(cells) or _blank_sheet()
    )
    evaluate_tissue(settings(tmp_path / "out", pairs=(str(folder),), worst=2))
    named = [cell.caption[0] for cell in sheets[0]]
    assert [name for name in named if "otsu" not in name] == ["b", "a"], "the lowest IoU first"


def _blank_sheet():
    return np.full((8, 8, 3), 255, np.uint8)


def test_real_pair(shared_data, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,reference,mpp\n"
        f"{shared_data}/masks/hs2p_slide-visu.jpg,{shared_data}/slides/hs2p_test-mask.tif,16\n"
    )
    (row,) = evaluate_tissue(
        settings(tmp_path / "out", manifest=manifest, slide_mpp=None, segmenter="otsu")
    ).rows
    assert row.status == "ok", row.reason
    assert row.iou > 0.9
    assert 70 < row.reference_mm2 < 90
