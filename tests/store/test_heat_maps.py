"""Heat maps in the store: whole, read back, tied to the features they were made from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.train.language.made import SPEC, write_store
from wsiprep.core.errors import MissingStageError, StoreBusyError, StoreCorruptError
from wsiprep.store.claim import claim_store, hold_store
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output

TEXTS = ["tumour", "necrosis"]


def scores_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((len(TEXTS), count)).astype(np.float32)


def put(path, name="cosine-1", key="map-key", rows=None):
    store = FeatureStore(path)
    grid = store.grid()
    rows = np.arange(len(grid)) if rows is None else rows
    scores = scores_of(len(rows))
    with hold_store(path) as held:
        held.put_heat_map("g", SPEC.name, name, grid, rows, scores, key, {"texts": TEXTS})
    return grid, scores


def findings(folder):
    """What `verify` says, but that the grid of these stores stands on no tissue."""
    return [f for f in verify_output(folder).findings if f.part != "grids/g"]


def root_of(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["wsiprep"]


def test_round_trip_and_format(tmp_path):
    ok = np.random.default_rng(1).random(300) < 0.8
    path, grid, _ = write_store(tmp_path, "s", ok=ok)
    assert root_of(path)["format"] == 2
    assert FeatureStore(path).heat_maps() == []
    rows = np.flatnonzero(ok)
    _, scores = put(path, rows=rows)
    assert root_of(path)["format"] == 3
    store = FeatureStore(path)
    assert store.encoders() == ["fake-net"]
    assert store.heat_maps() == ["cosine-1"]
    found = store.heat_map()
    assert found.texts == tuple(TEXTS)
    assert found.attributes["parent"] == "key"
    assert found.scores.dtype == np.float32
    cell = grid.cell[rows]
    np.testing.assert_array_equal(found.scores[:, cell[:, 0], cell[:, 1]], scores)
    assert np.isfinite(found.scores).sum() == scores.size
    assert len(store.features()) == len(rows)  # the features are what they were
    assert findings(tmp_path) == []
    put(path, rows=rows)  # the same again is the same
    put(path, name="other", key="k2", rows=rows)
    assert FeatureStore(path).heat_maps() == ["cosine-1", "other"]
    with pytest.raises(MissingStageError, match="more than one heat map"):
        FeatureStore(path).heat_map()
    with pytest.raises(MissingStageError, match="no heat map 'x'"):
        FeatureStore(path).heat_map("x")
    assert findings(tmp_path) == []


def test_a_store_that_was_renamed_is_held_by_its_name(tmp_path):
    path, _, _ = write_store(tmp_path, "s")
    path = path.rename(tmp_path / "other.zarr")
    put(path)
    assert FeatureStore(path).heat_maps() == ["cosine-1"]
    assert not (tmp_path / "s.zarr").exists()


def test_one_writer(tmp_path):
    path, _, _ = write_store(tmp_path, "s")
    with hold_store(path), pytest.raises(StoreBusyError), hold_store(path):
        pass


def test_it_goes_with_the_features(tmp_path):
    path, grid, vectors = write_store(tmp_path, "s")
    put(path)
    info = FeatureStore(path).slide

    def embed(key, values):
        with claim_store(tmp_path, info) as store:
            journal = store.journal("g", SPEC.name, key, len(grid), SPEC.dim, "float16")
            journal.append(0, values, np.ones(len(grid), bool))
            config = {"store_dtype": "float16", "on_bad_tile": "mask"}
            store.put_features("g", grid, SPEC, journal, key, "grid-key", config, "fake")

    embed("key", vectors)  # the same to the byte: what stands on it stays
    assert FeatureStore(path).heat_maps() == ["cosine-1"]
    embed("key-2", vectors + np.float16(1))
    assert FeatureStore(path).heat_maps() == []
    assert root_of(path)["format"] == 2
    assert not list(path.glob("grids/g/features/*/maps"))
    put(path)
    with claim_store(tmp_path, info) as store:
        store.put_grid("g", replace(grid, tissue=grid.tissue / 2), "grid-2", "tissue-key", {})
    assert FeatureStore(path).grids == ["g"]
    assert FeatureStore(path).encoders() == []
    assert findings(tmp_path) == []


def test_damage_is_found(tmp_path):
    path, _, _ = write_store(tmp_path, "s")
    put(path)
    chunk = next((path / "grids/g/features/fake-net/maps/cosine-1/scores").glob("c/*/*/*"))
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-3] + b"xyz")
    (finding,) = findings(tmp_path)
    assert "sha256" in finding.problem
    assert "wsiprep ground" in finding.remedy
    chunk.unlink()
    with pytest.raises(StoreCorruptError, match="missing"):
        FeatureStore(path).heat_map()
    (path / "grids/g/features/fake-net/maps/zarr.json").unlink()
    assert any("zarr.json is missing" in f.problem for f in verify_output(tmp_path).findings)
    put(path)
    assert findings(tmp_path) == []


def test_what_is_refused(tmp_path):
    path, _, _ = write_store(tmp_path, "s")
    store = FeatureStore(path)
    grid, rows = store.grid(), np.arange(2)
    with hold_store(path) as held:
        args = ("m", grid, rows)
        bad = np.array([[1.0, np.nan]] * 2, np.float32)
        with pytest.raises(ValueError, match="finite"):
            held.put_heat_map("g", SPEC.name, *args, bad, "k", {"texts": TEXTS})
        with pytest.raises(ValueError, match="a row a text"):
            held.put_heat_map("g", SPEC.name, *args, bad[:1], "k", {"texts": TEXTS})
        with pytest.raises(MissingStageError):
            held.put_heat_map("g", "nobody", *args, np.ones((2, 2)), "k", {"texts": TEXTS})
    assert FeatureStore(path).heat_maps() == []
