"""The language demo: that all of it runs, and (slow) that it learns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsiprep.core.errors import ConfigError
from wsiprep.core.types import Size
from wsiprep.store.read import FeatureStore
from wsiprep.synth.captions import NAMES
from wsiprep.synth.cohort import Cohort
from wsiprep.synth.composition import KINDS
from wsiprep.tasks.demo_cohort import DemoFolder, make_stores, write_texts
from wsiprep.tasks.demo_language import judge_demo, train_demo_align, train_demo_assistant
from wsiprep.train.language.manifest import read_manifest

FEW_STEPS = ("optimisation.steps=3", "optimisation.batch_size=3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    cohort = Cohort(trained=3, tested=2, size=Size(1024, 1024), mpp=2.0)
    demo = DemoFolder(tmp_path_factory.mktemp("demo"), cohort)
    make_stores(demo)
    write_texts(demo)
    return demo


def test_the_truth_is_that_of_the_patches(made):
    slide = made.cohort.test[0]
    grid = FeatureStore(made.store_path(slide)).grid()
    cover = slide.cover(grid.origin0_px, grid.plan.side0_px)
    for kind in slide.kinds:
        lattice = np.load(made.truth.parent / f"{slide.id}-{kind}.npy")
        assert lattice.shape == grid.shape
        of_patches = lattice[grid.cell[:, 0], grid.cell[:, 1]]
        assert np.array_equal(of_patches, cover[:, KINDS.index(kind)] >= 0.5)
    assert np.load(made.truth.parent / f"{slide.id}-{slide.main}.npy").any()


def test_no_test_slide_is_learned_from(made):
    samples = read_manifest(made.talks)
    assert {one.slides[0] for one in samples if one.split == "train"} == {
        slide.id for slide in made.cohort.train
    }
    assert {one.split for one in samples} == {"train", "test"}
    assert {one.split for one in read_manifest(made.captions)} == {"train", "test"}


def test_a_folder_keeps_to_its_cohort(made):
    other = DemoFolder(made.output, dataclasses.replace(made.cohort, seed=1))
    with pytest.raises(ConfigError, match="holds another cohort"):
        make_stores(other)
    named = made.output / "cohort.txt"
    kept = named.read_bytes()
    named.unlink()
    with pytest.raises(ConfigError, match="not said which"):
        make_stores(made)
    named.write_bytes(kept)


def test_all_of_it_runs_and_goes_on_where_it_was(made):
    before = made.store_path(made.cohort.test[0]).stat().st_mtime_ns
    slide_before = made.slide_path(made.cohort.test[0]).stat().st_mtime_ns
    make_stores(made)
    assert made.store_path(made.cohort.test[0]).stat().st_mtime_ns == before
    assert made.slide_path(made.cohort.test[0]).stat().st_mtime_ns == slide_before

    told = []
    train_demo_align(made, told.append, changes=FEW_STEPS)
    train_demo_assistant(made, told.append, changes=FEW_STEPS)
    assert [step.step for step in told] == [1, 2, 3] * 2
    train_demo_align(made, told.append, changes=FEW_STEPS)
    assert len(told) == 6  # it was done

    done = judge_demo(made)
    scores = done.report["scores"]
    for part in ("retrieval", "zero_shot", "grounding", "answers", "captions"):
        values = [found["value"] for found in scores[part].values()]
        assert values
        assert all(value is None or value >= 0 for value in values)
    example = done.report["example"]
    for path in example["pictures"].values():
        assert Path(path).stat().st_size > 5000
    assert isinstance(example["answer"], str)
    shown = next(slide for slide in made.cohort.test if slide.id == example["slide"])
    assert example["caption_true"] == shown.caption
    assert example["answer_true"] == NAMES[shown.main]
    assert len(example["pictures"]) == len(shown.kinds)
    assert json.loads((made.results / "demo.json").read_text()) == done.report
