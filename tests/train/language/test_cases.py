"""Samples from stores: what is drawn is read, and is what reading everything would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train.language.made import SHAPE, reads_of, write_blank, write_grid, write_store
from wsiprep.core.errors import (
    ManifestError,
    MissingStageError,
    SlideError,
    StoreMismatchError,
)
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.sampling import Sampling, sample
from wsiprep.train.language.bags import read_case
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.manifest import Sample

torch.set_num_threads(1)

SLIDES = ("a", "b")
SAMPLINGS = {
    "all": Sampling(),
    "uniform": Sampling(method="uniform", patches=90),
    "stratified": Sampling(method="stratified", patches=90),
    "regions": Sampling(method="regions", regions=4, region_patches=40),
    "capped": Sampling(method="regions", regions=4, region_patches=40, max_patches=30),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for number, name in enumerate(SLIDES):
        ok = np.random.default_rng(number).random(300) < 0.9
        write_store(folder, name, number=number, ok=ok)
    return folder


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("slides", [("a",), SLIDES])
def test_what_is_read_is_what_is_drawn_of_everything(stores, name, slides):
    cfg = SAMPLINGS[name]
    (cases,) = Cases.of_splits([[Sample(id="x", slides=slides, caption="-")]], stores, cfg, seed=5)
    whole = read_case([stores / f"{slide}.zarr" for slide in slides]).bag
    drawn = []
    for epoch in range(3):
        old = sample(whole, cfg, seed=5, epoch=epoch, slide_id=" + ".join(slides))
        new = cases.bag(0, epoch)
        assert new.features.dtype == old.features.dtype
        for part in ("features", "cell", "slide"):
            assert torch.equal(getattr(new, part), getattr(old, part))
        drawn.append(tuple(old.features.flatten().tolist()))
    assert len(set(drawn)) == (1 if name == "all" else 3)


def test_of_regions_drawn_their_chunks_are_read_and_no_other(tmp_path, monkeypatch):
    write_store(tmp_path, "full", cells=np.argwhere(np.ones(SHAPE, bool)))
    cfg = Sampling(method="regions", regions=2)
    (cases,) = Cases.of_splits([[Sample(id="x", slides=("full",), caption="-")]], tmp_path, cfg)
    asked = reads_of(monkeypatch)
    bag = cases.bag(0, 0)
    chunks = np.unique(bag.cell.numpy() // CHUNK_CELLS, axis=0)
    assert [(rows.start // CHUNK_CELLS, cols.start // CHUNK_CELLS) for rows, cols in asked] == [
        tuple(chunk) for chunk in chunks.tolist()
    ]
    assert len(asked) == 2
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in asked) == len(bag)


def said_of(*slides):
    return [Sample(id=f"q-{slide}", slides=(slide,), caption="-") for slide in slides]


def unit_store(folder, slide, number):
    """A store whose vectors have length 1, so that a slide without any cannot be like it."""
    vectors = np.random.default_rng(number).normal(size=(300, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_store(folder, slide, number=number, vectors=vectors)


@pytest.mark.parametrize("order", [("blank", "a", "b"), ("a", "blank", "b")])
def test_a_slide_without_tissue_is_left_out_wherever_it_stands(tmp_path, order):
    unit_store(tmp_path, "a", 1)
    unit_store(tmp_path, "b", 2)
    write_blank(tmp_path, "blank", 3)
    (cases,) = Cases.of_splits([said_of(*order)], tmp_path, Sampling())
    assert [one.id for one in cases.samples] == ["q-a", "q-b"]
    assert cases.names == ("a", "b")
    assert cases.fingerprint.normalised is True
    assert cases.left_out.empty == {"q-blank": ("blank",)}
    assert [len(cases.bag(row, 0)) for row in range(2)] == [300, 300]
    # Beside a slide that has patches it is part of a case as any other, also in the first place.
    both = [Sample(id="x", slides=("blank", "a"), caption="-"), *said_of("b")]
    (cases,) = Cases.of_splits([both], tmp_path, Sampling())
    assert (len(cases), len(cases.left_out)) == (2, 0)
    assert torch.equal(cases.bag(0, 0).slide, torch.ones(300, dtype=torch.int64))
    # A checkpoint of normalised vectors takes it too.
    (expected,) = Cases.of_splits([both], tmp_path, Sampling(), expect=cases.fingerprint)
    assert expected.fingerprint == cases.fingerprint


def test_where_no_slide_has_tissue_there_is_nothing_to_learn_from(tmp_path):
    write_blank(tmp_path, "blank")
    with pytest.raises(SlideError, match="no patch with features: no sample is left of the 1"):
        Cases.of_splits([said_of("blank")], tmp_path, Sampling())


def test_what_is_missing_in_any_split_is_told_at_once(tmp_path):
    write_store(tmp_path, "a", number=1)
    write_store(tmp_path, "b", number=2)
    write_grid(tmp_path, "bare", 3)
    splits = [said_of("a", "gone", "bare"), said_of("b", "lost")]
    with pytest.raises(MissingStageError) as caught:
        Cases.of_splits(splits, tmp_path, Sampling())
    assert "3 of 5 samples" in str(caught.value)
    assert "gone, bare, lost" in str(caught.value)
    learn, val = Cases.of_splits(splits, tmp_path, Sampling(), skip_missing=True)
    assert [one.id for one in (*learn.samples, *val.samples)] == ["q-a", "q-b"]
    assert learn.account()["left_out"]["missing"] == {
        "n": 2, "samples": {"q-gone": ["gone"], "q-bare": ["bare"]}
    }  # fmt: skip
    with pytest.raises(MissingStageError, match="no sample is left of the 1"):
        Cases.of_splits([said_of("a"), said_of("lost")], tmp_path, Sampling(), skip_missing=True)
    with pytest.raises(ManifestError, match="there is no sample"):
        Cases.of_splits([said_of("a"), []], tmp_path, Sampling())


def test_slides_of_which_one_is_made_otherwise_are_refused_by_name(tmp_path):
    write_blank(tmp_path, "blank", 3)
    write_store(tmp_path, "a", number=1)
    unit_store(tmp_path, "b", 2)
    with pytest.raises(StoreMismatchError) as caught:
        Cases.of_splits([said_of("blank", "a", "b")], tmp_path, Sampling())
    assert "normalised is no in slide 'a', yes in slide 'b'" in caught.value.message
