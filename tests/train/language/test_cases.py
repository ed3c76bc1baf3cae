"""Samples from stores: what is drawn is read, and is what reading everything would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train.language.made import SHAPE, reads_of, write_store
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
    cases = Cases.of_stores([Sample(id="x", slides=slides, caption="-")], stores, cfg, seed=5)
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
    cases = Cases.of_stores([Sample(id="x", slides=("full",), caption="-")], tmp_path, cfg)
    asked = reads_of(monkeypatch)
    bag = cases.bag(0, 0)
    chunks = np.unique(bag.cell.numpy() // CHUNK_CELLS, axis=0)
    assert [(rows.start // CHUNK_CELLS, cols.start // CHUNK_CELLS) for rows, cols in asked] == [
        tuple(chunk) for chunk in chunks.tolist()
    ]
    assert len(asked) == 2
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in asked) == len(bag)
