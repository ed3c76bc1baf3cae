"""`evaluate align` and `evaluate ground` on planted slides, whose right numbers are known."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest

from tests.tasks.aligned_made import FINDINGS, WORLD, make_cohort
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.metrics.report import as_lines
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.evaluate_align import evaluate_align
from wsiprep.tasks.evaluate_ground import evaluate_ground
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig, EvaluateGroundConfig
from wsiprep.tasks.heat_geojson import heat_geojson
from wsiprep.train.language.manifest import Sample, read_manifest, write_manifest


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    made = make_cohort(tmp_path_factory.mktemp("cohort"))
    path = made.folder / "classes.yaml"
    lines = [f"{name}: {json.dumps(list(WORLD.prompts(n)))}" for n, name in enumerate(FINDINGS)]
    path.write_text("\n".join(lines))
    return made


def settings(cohort, out, **values):
    common = {"data": cohort.manifest, "stores": cohort.stores, "model": cohort.model}
    return EvaluateAlignConfig.of(
        **{**common, "output": out, "resamples": 100, "device": "cpu", **values}
    )


def test_align(cohort, tmp_path):
    classes = str(cohort.folder / "classes.yaml")
    done = evaluate_align(settings(cohort, tmp_path, classes=classes, templates="none"))
    assert done.exit_code == 0
    report = json.loads((tmp_path / "align.json").read_text())
    assert report == done.report
    found = report["retrieval"]
    assert found["n"] == len(cohort.slides)
    assert found["n_patients"] == -(-len(cohort.slides) // 2)
    # The blind model has one vector for all slides: every text finds them in random order.
    chance = found["baselines"]["chance"]["text_to_slide_r_at_1"]["value"]
    assert found["baselines"]["blind"]["text_to_slide_r_at_1"]["value"] == pytest.approx(chance)
    assert set(found["baselines"]) == {"chance", "majority", "blind"}
    score = found["scores"]["text_to_slide_r_at_1"]
    assert score["value"] > 5 * chance
    assert score["low"] <= score["value"] <= score["high"]
    assert found["scores"]["slide_to_text_r_at_5"]["value"] > 0.8
    alone = [s for s in cohort.slides if len(s.findings) == 1]
    assert len(alone) > 1
    zero = report["zero_shot"]
    assert zero["n"] == len(alone)
    assert zero["scores"]["accuracy"]["value"] == 1
    assert sum(map(sum, zero["confusion"])) == len(alone)
    assert set(zero["baselines"]) == {"majority", "blind"}
    with (tmp_path / "align.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cohort.slides)
    ranks = [float(row["rank_of_slide"]) for row in rows]
    assert np.mean(np.array(ranks) == 1) == pytest.approx(score["value"], abs=1e-3)


def test_shuffled_captions_fall_to_chance(cohort, tmp_path):
    samples = read_manifest(cohort.manifest)
    moved = [
        Sample(id=s.id, slides=s.slides, caption=samples[(n + 5) % len(samples)].caption)
        for n, s in enumerate(samples)
    ]
    write_manifest(tmp_path / "moved.jsonl", moved)
    done = evaluate_align(settings(cohort, tmp_path / "o", data=tmp_path / "moved.jsonl"))
    found = done.report["retrieval"]
    assert found["scores"]["text_to_slide_r_at_1"]["value"] < 0.35
    assert "zero_shot" not in done.report
    assert "class_retrieval" not in done.report


def test_labels_of_classes_and_slides_of_other_patients(cohort, tmp_path):
    """Slides labelled by their first finding: those that share it are found; never one's own."""
    samples = [
        Sample(id=s.id, slides=s.slides, patient_id=f"p{n // 2}", label=FINDINGS[c.findings[0]])
        for n, (s, c) in enumerate(zip(read_manifest(cohort.manifest), cohort.slides, strict=True))
    ]
    write_manifest(tmp_path / "d.jsonl", samples)
    done = evaluate_align(settings(cohort, tmp_path / "o", data=tmp_path / "d.jsonl"))
    found = done.report["class_retrieval"]
    name = "mean_average_precision"
    assert found["scores"][name]["value"] > found["baselines"]["chance"][name]["value"]
    beside = found["baselines"]
    assert set(beside) == {"chance", "majority", "blind"}
    for other in ("majority", "blind"):
        assert found["scores"][name]["value"] > beside[other][name]["value"] > 0
    assert found["n"] == len(samples)
    assert "retrieval" not in done.report
    subset = tmp_path / "c.yaml"
    known = sorted({s.label for s in samples})[:2]
    subset.write_text(json.dumps({name: [name] for name in known}))
    done = evaluate_align(
        settings(cohort, tmp_path / "o", data=tmp_path / "d.jsonl", classes=str(subset))
    )
    zero = done.report["zero_shot"]
    assert zero["n"] + zero["left_out_other_labels"] == len(samples)


def test_align_refuses(cohort, tmp_path):
    with pytest.raises(ManifestError, match="no sample of split 'val'"):
        evaluate_align(settings(cohort, tmp_path / "o", split="val"))
    with pytest.raises(ManifestError, match="is among the classes"):
        evaluate_align(settings(cohort, tmp_path / "o", classes="kidney"))
    with pytest.raises(ConfigError, match="--templates is for"):
        evaluate_align(settings(cohort, tmp_path / "o", templates="none"))
    questions = [Sample(id="q", slides=(cohort.slides[0].id,), question="Which?", answer="x")]
    write_manifest(tmp_path / "q.jsonl", questions)
    with pytest.raises(ManifestError, match="no sample has a caption or a label"):
        evaluate_align(settings(cohort, tmp_path / "o", data=tmp_path / "q.jsonl"))
    assert not (tmp_path / "o").exists()


@pytest.fixture
def truth(cohort, tmp_path):
    """Truth of four slides in all forms: GeoJSON with classes, mask images, lattices."""
    lines = ["slide,text,reference,class,patient_id"]
    for n in range(6):
        slide = cohort.slides[n]
        store = FeatureStore(cohort.store(n))
        grid = store.grid()
        for finding in slide.findings:
            text = WORLD.prompts(finding)[0]
            inside = slide.truth == finding
            mask = np.zeros(grid.shape, np.uint8)
            mask[slide.cell[inside, 0], slide.cell[inside, 1]] = 1
            stem, kind = f"{slide.id}-{finding}", FINDINGS[finding]
            if n % 3 == 0:
                np.save(tmp_path / f"{stem}.npy", mask)
                lines.append(f"{slide.id},{text},{stem}.npy,,p{n}")
            elif n % 3 == 1:
                cv2.imwrite(str(tmp_path / f"{stem}.png"), mask.repeat(4, 0).repeat(4, 1) * 255)
                lines.append(f"{slide.id},{text},{stem}.png,,p{n}")
            else:
                rows, info = np.arange(len(grid)), store.slide
                score = inside[None].astype(np.float32)
                shapes = json.loads(
                    heat_geojson(grid, rows, score, [kind], info.size0, top=inside.mean())
                )
                (tmp_path / f"{stem}.geojson").write_text(json.dumps(shapes))
                lines.append(f"{slide.id},{text},{stem}.geojson,{kind.upper()},p{n}")
    path = tmp_path / "truth.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def ground_settings(cohort, truth, out, **values):
    common = {"truth": truth, "stores": cohort.stores, "model": cohort.model, "output": out}
    return EvaluateGroundConfig.of(**{**common, "resamples": 100, "device": "cpu", **values})


def test_ground(cohort, truth, tmp_path):
    methods = ("cosine", "occlusion")
    done = evaluate_ground(ground_settings(cohort, truth, tmp_path / "o", method=methods))
    assert done.exit_code == 0, done.report["failed"]
    report = json.loads((tmp_path / "o" / "ground.json").read_text())
    assert list(report["methods"]) == list(methods)
    rows = truth.read_text().count("\n") - 1
    cosine = report["methods"]["cosine"]
    assert cosine["n"] == rows
    assert cosine["n_patients"] == 6
    assert cosine["scores"]["auroc"]["value"] > 0.97
    assert cosine["scores"]["pointing"]["value"] == 1
    assert cosine["baselines"]["chance"]["auroc"]["value"] == 0.5
    assert set(cosine["baselines"]) == {"chance", "centre", "blind", "other_text"}
    assert cosine["baseline_notes"].keys() == cosine["baselines"].keys()
    assert cosine["baseline_notes"]["centre"].startswith("in place of majority: ")
    assert "centre: " + cosine["baseline_notes"]["centre"] in as_lines(cosine)
    assert report["blind_text"]
    for name in ("centre", "blind"):  # they do not know where findings were planted
        assert 0.2 < cosine["baselines"][name]["auroc"]["value"] < 0.8
        assert cosine["above"][name]["auroc"]["low"] > 0
    # What another text lights up is somewhere else.
    assert cosine["baselines"]["other_text"]["auroc"]["value"] < 0.7
    assert report["methods"]["occlusion"]["scores"]["auroc"]["value"] > 0.6
    with (tmp_path / "o" / "ground.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == rows * len(methods)
    for line in table:  # every form of truth says the same
        number = next(n for n, s in enumerate(cohort.slides) if s.id == line["slide"])
        finding = next(f for f in range(len(FINDINGS)) if WORLD.prompts(f)[0] == line["text"])
        inside = cohort.inside(number, finding)
        assert float(line["prevalence"]) == pytest.approx(inside.mean())


def test_ground_refuses(cohort, truth, tmp_path):
    def refused(text, why):
        path = tmp_path / "bad.csv"
        path.write_text(text)
        with pytest.raises(ManifestError, match=why):
            evaluate_ground(ground_settings(cohort, path, tmp_path / "o"))

    refused("slide,text\na,b\n", "lacks the column reference")
    refused("slide,text,reference\n", "has no row")
    slide = cohort.slides[0].id
    refused(f"slide,text,reference\n{slide},x,none.npy\n", "line 2: there is no file")
    np.save(tmp_path / "m.npy", np.ones((3, 3), bool))
    refused("slide,text,reference\nnobody,x,m.npy\n", "'nobody' has 0 stores")
    refused(f"slide,text,reference\n{slide},,m.npy\n", "text is empty")
    refused(f"slide,text,reference\n{slide},x,m.npy\n{slide},x,m.npy\n", "there twice")
    assert not (tmp_path / "o").exists()
    (tmp_path / "two.csv").write_text(
        f"slide,text,reference\n{slide},x,m.npy\n"
        f"{cohort.slides[3].id},x,{next(tmp_path.glob(cohort.slides[3].id + '*')).name}\n"
    )
    done = evaluate_ground(ground_settings(cohort, tmp_path / "two.csv", tmp_path / "o"))
    assert done.exit_code == 1
    (failed,) = done.report["failed"]
    assert "the lattice has the shape" in failed["reason"]
    assert done.report["methods"]["cosine"]["n"] == 1
    assert set(done.report["methods"]["cosine"]["baselines"]) == {"chance", "centre", "blind"}


def test_ground_resamples_patients_of_tcga_and_says_where_it_knows_none(cohort, tmp_path):
    """Two slides of a TCGA patient are one; slides of which nobody knows are slides."""
    stores = tmp_path / "stores"
    stores.mkdir()
    patient = "TCGA-BP-5195"
    names = [f"{patient}-01Z-00-DX{n}.uuid" for n in (1, 2)] + ["TCGA-AA-0001-01Z-00-DX1", "own"]
    for n, name in enumerate(names):
        (stores / f"{name}.zarr").symlink_to(cohort.store(n))

    def report(*slides, ids=None):
        lines = ["slide,text,reference,patient_id"]
        for n in slides:
            finding = cohort.slides[n].findings[0]
            grid = FeatureStore(cohort.store(n)).grid()
            mask = np.zeros(grid.shape, np.uint8)
            inside = cohort.inside(n, finding)
            mask[cohort.slides[n].cell[inside, 0], cohort.slides[n].cell[inside, 1]] = 1
            np.save(tmp_path / f"{n}.npy", mask)
            text = WORLD.prompts(finding)[0]
            lines.append(f"{names[n]},{text},{n}.npy,{(ids or {}).get(n, '')}")
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        cfg = ground_settings(cohort, tmp_path / "t.csv", tmp_path / "o", stores=stores)
        return evaluate_ground(cfg).report["methods"]["cosine"]

    known = report(0, 1, 2)
    assert (known["n"], known["n_patients"], known["bootstrap"]["over"]) == (3, 2, "patients")
    # The barcode is the patient whatever the column says, as in `convert`.
    named = report(0, 1, 2, ids={0: "x", 1: "y"})
    assert named["n_patients"] == 2
    alone = report(3)
    assert (alone["n_patients"], alone["bootstrap"]["over"]) == (None, "slides")
    assert "resamples of slides" in as_lines(alone)[1]
    mixed = report(0, 3)
    assert mixed["n_patients"] is None
    assert mixed["bootstrap"]["over"] == "patients, and slides of which none is known"
    assert report(0, 3, ids={3: "p"})["n_patients"] == 2
