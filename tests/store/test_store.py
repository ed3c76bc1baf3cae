"""A slide's store: round trips, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.store.made import SPEC, claimed, tissue_of, write_all
from wsiprep.core.errors import MissingStageError, StoreMismatchError
from wsiprep.core.types import Size
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.claim import claim_store
from wsiprep.store.read import FeatureStore


def test_everything_comes_back(written, info):
    store, grid, vectors = written
    assert store.grids == ["g"]
    assert store.encoders() == ["fake-net"]
    assert replace(store.slide, reader_reason=info.reader_reason) == info
    tissue = store.tissue()
    for name in ("mask", "pen", "edge", "fold", "section"):
        np.testing.assert_array_equal(getattr(tissue, name), getattr(tissue_of(info), name))
    assert tissue.notes == ("a note",)
    back = store.grid()
    assert back.plan == grid.plan
    for name in ("cell", "origin0_px", *grid.columns()):
        np.testing.assert_array_equal(getattr(back, name), getattr(grid, name))
    assert set(grid.section) == {1, 2}
    assert grid.edge.any()
    assert grid.fold.any()
    features = store.features("fake:net")
    assert features.shape == (*grid.shape, SPEC.dim)
    rows = features.rows()
    np.testing.assert_array_equal(rows.vectors, vectors)
    np.testing.assert_array_equal(rows.cell, grid.cell)
    np.testing.assert_array_equal(rows.origin0_px, grid.origin0_px)
    for name, column in grid.columns().items():
        np.testing.assert_array_equal(getattr(rows, name), column)


def test_stores_of_format_1_are_read(tmp_path, written):
    """As one written before there were sections: without the arrays, and with its number."""
    store, grid, _ = written
    new = {"edge", "fold", "section", "focus"}
    path = store.path / "zarr.json"
    root = json.loads(path.read_text())
    ours = root["attributes"]["wsiprep"]
    ours["format"] = 1
    for name, unit in ours["units"].items():
        later = new | {"pen"} if name == "grids/g" else new
        gone = {file for file in unit["files"] if set(file.split("/")) & later}
        for file in gone:
            (store.path / name / file).unlink()
            del unit["files"][file]
    path.write_text(json.dumps(root))
    old = FeatureStore(store.path)
    tissue = old.tissue()
    assert not tissue.edge.any()
    assert not tissue.fold.any()
    assert tissue.sections == [1]
    back = old.grid()
    np.testing.assert_array_equal(back.tissue, grid.tissue)
    assert (back.section == 1).all()
    assert not back.pen.any()
    assert np.isnan(back.focus).all()
    assert len(old.features().rows().section) == len(grid)
    ours["format"] = 4
    path.write_text(json.dumps(root))
    with pytest.raises(StoreMismatchError, match="format 4; this version reads 1, 2, 3"):
        FeatureStore(store.path)


def test_any_zarr_library_reads_it(written):
    store, grid, vectors = written
    root = zarr.open_group(store.path, mode="r")
    values = root["grids/g/features/fake-net/values"]
    assert values.chunks == (16, 16, SPEC.dim)
    np.testing.assert_array_equal(values[:][grid.cell[:, 0], grid.cell[:, 1]], vectors)
    assert {name for name, _ in root.members(max_depth=1)} >= {"tissue", "grids"}


def test_a_handful_of_files(written):
    store, _, _ = written
    files = [p for p in store.path.rglob("*") if p.is_file()]
    assert len(files) <= 36


def test_the_same_input_gives_the_same_bytes(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    contents = []
    for name in ("a", "b"):
        write_all(tmp_path / name, info, grid)
        root = tmp_path / name
        contents.append(
            {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        )
    assert contents[0] == contents[1]


def test_what_is_missing_is_said_with_what_to_run(tmp_path, info):
    claimed(tmp_path, info)
    store = FeatureStore(tmp_path / "slide.zarr")
    with pytest.raises(MissingStageError, match="wsiprep coords"):
        store.grid()
    with pytest.raises(MissingStageError, match="is not there"):
        store.attributes("grids/x")
    assert store.has_tissue


def test_names_are_needed_only_where_there_are_several(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    write_all(tmp_path, info, grid)
    with claim_store(tmp_path, info) as store:
        store.put_grid("h", grid, "k", "tissue-key", {})
    store = FeatureStore(tmp_path / "slide.zarr")
    with pytest.raises(MissingStageError, match=r"more than one grid.* g, h"):
        store.grid()
    with pytest.raises(MissingStageError, match="no grid 'x'"):
        store.grid("x")
    with pytest.raises(MissingStageError, match="wsiprep embed"):
        store.features(grid="h")


def test_attributes_hold_what_is_needed_to_trust_it(written):
    store, _, _ = written
    values = store.attributes("grids/g/features/fake-net")
    assert values["encoder"]["weights_sha256"] == "ab"
    assert values["mpp"] == 0.5
    assert {"torch", "timm"} <= set(values["versions"])
    root = json.loads((store.path / "zarr.json").read_text())["attributes"]["wsiprep"]
    assert root["format"] == 2
    assert root["slide"]["fingerprint"] == store.slide.fingerprint
    assert {"wsiprep", "zarr", "openslide-python"} <= set(root["versions"])
    assert Size(*root["slide"]["size0"]) == store.slide.size0
