"""classify, retrieve and ground on planted slides: what was planted is what is found."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tasks.aligned_made import FINDINGS, SPEC, WORLD, make_cohort
from tests.train.language.made import write_store
from wsiprep.core.errors import StoreCorruptError, StoreMismatchError, UsageError
from wsiprep.metrics.ranking import auroc
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.classify import classify
from wsiprep.tasks.ground import ground_slides
from wsiprep.tasks.retrieve import retrieve_slides
from wsiprep.tasks.use_config import ClassifyConfig, GroundConfig, RetrieveConfig


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def classes(cohort):
    path = cohort.folder / "classes.yaml"
    lines = [f"{name}: {json.dumps(list(WORLD.prompts(n)))}" for n, name in enumerate(FINDINGS)]
    path.write_text("\n".join(lines))
    return str(path)


def single(cohort):
    return [n for n, s in enumerate(cohort.slides) if len(s.findings) == 1]


@pytest.mark.parametrize("mode", ["slide", "patches"])
def test_classify_names_what_was_planted(cohort, classes, tmp_path, mode):
    told = []
    done = classify(
        ClassifyConfig.of(
            slides=(str(cohort.stores),), model=cohort.model, output=tmp_path, classes=classes,
            templates="none", mode=mode, device="cpu",
        ),
        told.append,
    )  # fmt: skip
    assert done.exit_code == 0
    rows = {row["slide"]: row for row in done.report["slides"]}
    assert set(rows) == {s.id for s in cohort.slides}
    for slide in cohort.slides:
        row = rows[slide.id]
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        if mode == "slide" or len(slide.findings) > 1:
            assert row["predicted"] in {FINDINGS[f] for f in slide.findings}
        assert row["patches"] == len(slide.cell)
        assert row["counted"] == mode
    with (tmp_path / "classes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["predicted"] for line in table] == [r["predicted"] for r in done.report["slides"]]
    kept = json.loads((tmp_path / "classes.json").read_text())
    assert kept == done.report
    assert kept["model"]["recipe"] == "planted"
    assert len(kept["model"]["sha256"]) == 64
    assert sum(e.kind == "outcome" for e in told) == len(cohort.slides)


def test_a_slide_that_fails_is_told_and_the_others_go_on(cohort, classes, tmp_path):
    other = replace(SPEC, name="other:net", weights_sha256="ee" * 32)
    slide = cohort.slides[0]
    write_store(tmp_path / "in", "foreign", cells=slide.cell, spec=other, vectors=slide.features)
    empty = np.empty((0, 2), int)
    write_store(tmp_path / "in", "empty", number=3, cells=empty, spec=SPEC)
    done = classify(
        ClassifyConfig.of(
            slides=(str(tmp_path / "in"), str(cohort.store(1)), str(tmp_path / "none.zarr")),
            model=cohort.model, output=tmp_path / "out", classes=classes, device="cpu",
        )
    )  # fmt: skip
    assert done.exit_code == 1
    assert [row["slide"] for row in done.report["slides"]] == [cohort.slides[1].id]
    why = {row["slide"]: row for row in done.report["failed"]}
    assert (
        "encoder is planted:net in the checkpoint, other:net in the store"
        in (why["foreign"]["reason"])
    )
    assert "no patch with features" in why["empty"]["reason"]
    assert why["none"]["error"] == "StoreCorruptError"
    with pytest.raises(UsageError, match="no slides were named"):
        classify(ClassifyConfig.of(model=cohort.model, output=tmp_path / "o", classes=classes))


def test_retrieve_finds_slides_by_text_and_by_slide(cohort, tmp_path):
    asked = {"model": cohort.model, "output": tmp_path, "device": "cpu"}
    made = retrieve_slides(RetrieveConfig.of(slides=(str(cohort.stores),), **asked))
    assert made.report["index"]["slides"] == len(cohort.slides)
    content = (tmp_path / "index.safetensors").read_bytes()
    again = retrieve_slides(RetrieveConfig.of(slides=(str(cohort.store(2)),), **asked))
    assert again.rows[0].reason == "in the index already"
    assert (tmp_path / "index.safetensors").read_bytes() == content
    texts = tuple(WORLD.prompts(n)[0] for n in range(len(FINDINGS)))
    like = str(cohort.store(0))
    done = retrieve_slides(RetrieveConfig.of(text=texts, like=(like,), top=3, **asked))
    assert len(done.report["results"]) == len(texts) + 1
    holders = {n: {s.id for s in cohort.slides if n in s.findings} for n in range(len(FINDINGS))}
    for n, result in enumerate(done.report["results"][:-1]):
        assert len(result["slides"]) == 3
        if holders[n]:
            assert result["slides"][0]["slide"] in holders[n], FINDINGS[n]
        cosines = [hit["cosine"] for hit in result["slides"]]
        assert cosines == sorted(cosines, reverse=True)
    hits = done.report["results"][-1]["slides"]
    assert cohort.slides[0].id not in {hit["slide"] for hit in hits}
    with (tmp_path / "retrieval.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(done.report["results"])
    with pytest.raises(StoreMismatchError, match="--max-patches all, now it is 9"):
        retrieve_slides(RetrieveConfig.of(text=("x",), max_patches=9, **asked))
    (tmp_path / "bad.safetensors").write_bytes(b"no index")
    with pytest.raises(StoreCorruptError, match="cannot be read as an index"):
        retrieve_slides(RetrieveConfig.of(text=("x",), index=tmp_path / "bad.safetensors", **asked))


def test_retrieve_refuses_what_makes_no_sense(cohort, tmp_path):
    asked = {"model": cohort.model, "output": tmp_path / "o", "device": "cpu"}
    with pytest.raises(UsageError, match="nothing to do"):
        retrieve_slides(RetrieveConfig.of(**asked))
    with pytest.raises(UsageError, match="no index"):
        retrieve_slides(RetrieveConfig.of(text=("x",), **asked))
    assert not (tmp_path / "o").exists()


def test_ground_lights_up_what_was_planted(cohort, tmp_path):
    number = next(n for n, s in enumerate(cohort.slides) if len(s.findings) == 2)
    slide = cohort.slides[number]
    texts = tuple(WORLD.prompts(f)[1] for f in slide.findings)
    notes = []
    cfg = GroundConfig.of(
        slides=(str(cohort.store(number)),), text=texts, model=cohort.model, output=tmp_path,
        top=0.05, device="cpu",
    )  # fmt: skip
    done = ground_slides(cfg, notes.append)
    assert done.exit_code == 0
    assert done.report["method"] == "cosine"  # this model has no loss of regions
    (row,) = done.report["slides"]
    store = FeatureStore(cohort.store(number))
    found = store.heat_map(row["heat_map"].rpartition("/")[2])
    assert found.texts == texts
    assert found.attributes["model"]["sha256"] == done.report["model"]["sha256"]
    cell = slide.cell
    for n, finding in enumerate(slide.findings):
        scores = found.scores[n][cell[:, 0], cell[:, 1]]
        assert auroc(scores, slide.truth == finding) > 0.95
        r, c = row["texts"][n]["best_cell"]
        assert slide.truth[(cell == (r, c)).all(axis=1)][0] == finding
    assert np.isfinite(found.scores).sum() == len(texts) * len(cell)
    collection = json.loads(Path(row["geojson"]).read_text())
    patches = [f for f in collection["features"] if f["properties"]["objectType"] == "detection"]
    outlines = [f for f in collection["features"] if f["properties"]["objectType"] == "annotation"]
    assert len(patches) == len(cell)
    first = patches[0]["geometry"]["coordinates"][0]
    assert first[0] == [cell[0, 1] * 256, cell[0, 0] * 256]
    values = [f["properties"]["measurements"][texts[0]] for f in patches]
    np.testing.assert_allclose(values, found.scores[0][cell[:, 0], cell[:, 1]], rtol=1e-6)
    assert {f["properties"]["classification"]["name"] for f in outlines} == set(texts)
    assert len(row["pictures"]) == 2
    assert all(cv2.imread(path) is not None for path in row["pictures"])
    assert any("cannot be read" in e.text for e in notes if e.kind == "note")
    before = (cohort.store(number) / "zarr.json").read_bytes()
    ground_slides(cfg)  # the same again changes nothing
    assert (cohort.store(number) / "zarr.json").read_bytes() == before


def test_ground_writes_only_what_is_asked_for(cohort, tmp_path):
    store = cohort.store(1)
    before = (store / "zarr.json").read_bytes()
    done = ground_slides(
        GroundConfig.of(
            slides=(str(store),), text=("tumour",), model=cohort.model, output=tmp_path,
            store=False, geojson=False, picture=False, method="occlusion", max_patches=100,
            device="cpu",
        )
    )  # fmt: skip
    assert done.report["slides"][0]["patches"] == 100
    assert [p.name for p in tmp_path.iterdir()] == ["grounding.json"]
    assert (store / "zarr.json").read_bytes() == before
    with pytest.raises(UsageError, match="attention"):
        ground_slides(
            GroundConfig.of(
                slides=(str(store),), text=("x",), model=cohort.model, output=tmp_path,
                method="attention", device="cpu",
            )
        )  # fmt: skip
    with pytest.raises(UsageError, match="given twice"):
        GroundConfig.of(text=("x", "x"), model=cohort.model, output=tmp_path)


def test_a_model_with_a_loss_of_regions_is_asked_for_attention(tmp_path):
    small = make_cohort(tmp_path, regions=True, steps=0)
    done = ground_slides(
        GroundConfig.of(
            slides=(str(small.stores),), text=("tumour nests", "mucin pools"), model=small.model,
            output=tmp_path / "out", picture=False, device="cpu",
        )
    )  # fmt: skip
    assert done.exit_code == 0
    assert done.report["method"] == "attention"
    scores = FeatureStore(small.store(0)).heat_map().scores
    total = np.nansum(scores, axis=(1, 2))
    assert (total > 0).all()
    assert (total <= 1 + 1e-5).all()  # what is missing went to the empty slot


def test_a_damaged_heat_map_is_healed_by_asking_again(cohort, tmp_path):
    cfg = GroundConfig.of(
        slides=(str(cohort.store(4)),), text=("tumour nests",), model=cohort.model,
        output=tmp_path, geojson=False, picture=False, device="cpu",
    )  # fmt: skip
    ground_slides(cfg)
    chunk = next(cohort.store(4).glob("grids/*/features/*/maps/*/scores/c/*/*/*"))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-3] + b"xyz")
    ground_slides(cfg)
    assert chunk.read_bytes() == content


def test_two_stores_of_one_name_are_refused(cohort, tmp_path):
    slide = cohort.slides[0]
    write_store(tmp_path, slide.id, cells=slide.cell, spec=SPEC, vectors=slide.features)
    with pytest.raises(UsageError, match="have one name"):
        ground_slides(
            GroundConfig.of(
                slides=(str(cohort.store(0)), str(tmp_path)), text=("x",), model=cohort.model,
                output=tmp_path / "out", device="cpu",
            )
        )  # fmt: skip
