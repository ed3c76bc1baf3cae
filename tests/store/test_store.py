"""A slide's store: round trips, claims, damage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from wsiprep.core.errors import (
    MissingStageError,
    StoreBusyError,
    StoreCorruptError,
    StoreMismatchError,
)
from wsiprep.core.types import EncoderSpec, PatchGrid, Size, TissueMask
from wsiprep.grid.build import cell_origins, chunk_order, make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.grid.plan import make_plan
from wsiprep.store.claim import claim_store, find_store
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output

SPEC = EncoderSpec("fake:net", 6, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), weights_sha256="ab")


def tissue_of(info, share=0.6, seed=0) -> TissueMask:
    mask = np.random.default_rng(seed).random((48, 64)) < share
    left = np.where(np.arange(64) < 30, 1, 2).astype(np.int32)
    edge, fold = np.random.default_rng(seed + 1).random((2, 48, 64)) < 0.1
    return TissueMask(
        mask=mask,
        pen=np.zeros_like(mask),
        mpp=32.0,
        size0=info.size0,
        method="test",
        notes=("a note",),
        edge=edge,
        fold=fold,
        section=mask * left,
    )


def grid_of(cells: np.ndarray, shape: tuple[int, int]) -> PatchGrid:
    info = make_info(size0=(shape[1] * 256, shape[0] * 256))
    cell = cells.astype(np.int32).reshape(-1, 2)
    cell = cell[chunk_order(cell)]
    return PatchGrid(
        make_plan(info, 0.5, 256, tolerance=0.05),
        256,
        256.0,
        shape,
        cell,
        cell_origins(cell, 256.0),
        np.ones(len(cell), np.float32),
    )


def write_all(out, info, grid, dtype="float16", ok=None, seed=1):
    vectors = np.random.default_rng(seed).normal(size=(len(grid), SPEC.dim)).astype(dtype)
    ok = np.ones(len(grid), bool) if ok is None else ok
    with claim_store(out, info) as store:
        store.put_tissue(tissue_of(info), "tissue-key", {"segmenter": "test"})
        store.put_grid("g", grid, "grid-key", "tissue-key", {"mpp": 0.5, "min_tissue": 0.5})
        journal = store.journal("g", SPEC.name, "features-key", len(grid), SPEC.dim, dtype)
        if len(grid):
            journal.append(0, vectors, ok)
        store.put_features(
            "g",
            grid,
            SPEC,
            journal,
            "features-key",
            "grid-key",
            {"store_dtype": dtype, "on_bad_tile": "mask"},
            "fake",
        )
    return vectors


def claimed(out, info, **kwargs) -> str:
    """Claim a store and put something into it, so that it stays; returns its name."""
    with claim_store(out, info, **kwargs) as store:
        if store.unit("tissue") is None:
            store.put_tissue(tissue_of(info), "tissue-key", {"segmenter": "test"})
        return store.name


@pytest.fixture
def info():
    return make_info(size0=(16384, 12288))


@pytest.fixture
def written(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    vectors = write_all(tmp_path, info, grid)
    return FeatureStore(tmp_path / "slide.zarr"), grid, vectors


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


def test_rows_in_part(written):
    store, _, vectors = written
    np.testing.assert_array_equal(store.features().rows(10, 50).vectors, vectors[10:50])
    assert len(store.features().rows(5, 5)) == 0


def test_as_torch_and_dask(written):
    store, grid, vectors = written
    features = store.features()
    tensor = features.rows().torch()
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), vectors)
    lazy = features.dask()
    assert lazy.shape == features.shape
    dense = lazy.compute()
    np.testing.assert_array_equal(dense[grid.cell[:, 0], grid.cell[:, 1]], vectors)
    values, valid = features.window(0, 0).torch()
    assert values.shape == (16, 16, SPEC.dim)
    assert valid.dtype == torch.bool


def test_a_cell_without_tissue_is_never_a_vector_of_zeros(written):
    store, grid, _ = written
    features = store.features()
    dense = features.window(0, 0, *grid.shape)
    np.testing.assert_array_equal(dense.valid, features.valid)
    assert features.valid.sum() == len(grid) < grid.shape[0] * grid.shape[1]
    assert np.isnan(dense.vectors[~dense.valid]).all()
    assert np.isfinite(dense.vectors[dense.valid]).all()


def test_windows_reach_beyond_the_lattice(written):
    store, grid, _ = written
    features = store.features()
    window = features.window(-3, grid.shape[1] - 2, 8, 6)
    assert not window.valid[:3].any()
    assert not window.valid[:, 2:].any()
    assert np.isnan(window.vectors[:3]).all()
    np.testing.assert_array_equal(window.valid[3:, :2], features.valid[:5, grid.shape[1] - 2 :])


def test_unreadable_tiles_are_not_valid(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    ok = np.ones(len(grid), bool)
    ok[[3, 7]] = False
    vectors = write_all(tmp_path, info, grid, ok=ok)
    features = FeatureStore(tmp_path / "slide.zarr").features()
    assert features.attributes["bad_tiles"] == 2
    assert len(features) == len(grid) - 2
    rows = features.rows()
    np.testing.assert_array_equal(rows.vectors, vectors[ok])
    np.testing.assert_array_equal(rows.cell, grid.cell[ok])


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_grid_round_trips(tmp_path_factory, data):
    """Shapes around the chunk and shard borders, any set of cells, both dtypes."""
    shape = data.draw(st.tuples(*[st.sampled_from([1, 2, 15, 16, 17, 33, 127, 128, 129, 150])] * 2))
    seed = data.draw(st.integers(0, 2**31))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    cells = np.argwhere(np.random.default_rng(seed).random(shape) < share)
    grid = grid_of(cells, shape)
    info = make_info(size0=(shape[1] * 256, shape[0] * 256))
    out = tmp_path_factory.mktemp("out")
    vectors = write_all(out, info, grid, dtype)
    features = FeatureStore(out / "slide.zarr").features()
    np.testing.assert_array_equal(features.rows().vectors, vectors)
    assert features.dtype == dtype
    assert not verify_output(out).findings


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


def test_a_store_that_nothing_came_of_is_removed(tmp_path, info):
    with claim_store(tmp_path, info) as store:
        assert store.path.is_dir()
    assert not (tmp_path / "slide.zarr").exists()


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


def test_a_missing_shard_is_an_error_not_fill_values(written):
    store, _, _ = written
    shard = next(store.path.glob("grids/g/features/fake-net/values/c/*/*/*"))
    shard.unlink()
    with pytest.raises(StoreCorruptError, match=r"missing.*wsiprep verify"):
        FeatureStore(store.path).features()


def test_a_flipped_byte_is_an_error(written):
    store, _, _ = written
    shard = next(store.path.glob("grids/g/features/fake-net/values/c/*/*/*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0x55
    shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="does not decode"):
        FeatureStore(store.path).features().rows()
    findings = verify_output(store.path.parent).findings
    assert [f.part for f in findings] == ["grids/g/features/fake-net"]
    assert "sha256" in findings[0].problem
    assert "wsiprep embed" in findings[0].remedy


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreCorruptError),
        (b"{", StoreCorruptError),
        (b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', StoreCorruptError),
        (b'{"attributes": {"wsiprep": {"format": 99}}}', StoreMismatchError),
        (b'{"attributes": {"wsiprep": {"format": 1}}}', StoreCorruptError),
    ],
)
def test_a_root_that_is_not_ours(tmp_path, content, error):
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / "zarr.json").write_bytes(content)
    with pytest.raises(error):
        FeatureStore(path)
    assert len(verify_output(tmp_path).findings) == 1


def test_verify_sees_strays_and_journals(written, info):
    store, grid, _ = written
    out = store.path.parent
    assert verify_output(out).findings == ()
    with claim_store(out, info) as held:
        held.journal("g", "late", "k", len(grid), 3, "float16").close()
        held.put_tissue(tissue_of(info, seed=5), "another-key", {})
        held.forget("grids/g/features/fake-net")
    problems = {(f.part, f.problem.split(",")[0]) for f in verify_output(out).findings}
    assert ("grids/g", "it was made from another tissue than is there now") in problems
    assert ("grids/g/features/fake-net", "it was not finished") in problems
    assert any(part == "g/late (journal)" for part, _ in problems)


def test_two_slides_with_one_stem_do_not_collide(tmp_path):
    first = make_info(uri="a/x.svs", fingerprint="a" * 64)
    second = make_info(uri="b/x.svs", fingerprint="b" * 64)
    names = []
    for info in (first, second, first, second):
        names.append(claimed(tmp_path, info))
        store = FeatureStore(tmp_path / f"{names[-1]}.zarr")
        assert store.slide.fingerprint == info.fingerprint
    assert names == ["slide", "slide-bbbbbbbb"] * 2
    assert find_store(tmp_path, "slide", "b" * 64).slide.uri == "b/x.svs"
    assert find_store(tmp_path, "slide", "c" * 64) is None


def test_an_id_that_the_user_gave_is_never_changed(tmp_path):
    claimed(tmp_path, make_info(uri="a/x.svs", fingerprint="a" * 64), fixed_id=True)
    second = make_info(uri="b/x.svs", fingerprint="b" * 64)
    with (
        pytest.raises(StoreMismatchError, match=r"already holds another slide.*slide_id"),
        claim_store(tmp_path, second, fixed_id=True),
    ):
        pass


def test_a_slide_that_changed_under_its_name_is_refused(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    write_all(tmp_path, info, grid)
    changed = replace(info, fingerprint="f" * 64)
    with (
        pytest.raises(StoreMismatchError, match=r"has changed.*--overwrite"),
        claim_store(tmp_path, changed),
    ):
        pass
    with claim_store(tmp_path, changed, overwrite=True) as store:
        assert store.manifest.units == {}


def test_another_mpp_is_refused(tmp_path, info):
    claimed(tmp_path, info)
    with (
        pytest.raises(StoreMismatchError, match=r"0\.5 µm/px.*--slide-mpp"),
        claim_store(tmp_path, replace(info, mpp=0.25)),
    ):
        pass


def test_one_writer_at_a_time(tmp_path, info):
    with (
        claim_store(tmp_path, info),
        pytest.raises(StoreBusyError, match="another process"),
        claim_store(tmp_path, info),
    ):
        pass
    with claim_store(tmp_path, info):
        pass
    assert not [p for p in (tmp_path / ".work").rglob("*") if p.is_file()]


def test_a_part_with_a_missing_file_counts_as_not_there(written, info):
    store, _, _ = written
    next(store.path.glob("tissue/mask/c/*/*")).unlink()
    with claim_store(store.path.parent, info) as held:
        assert held.unit("tissue") is None
        assert held.unit("grids/g") is not None


def test_odd_names_round_trip(tmp_path):
    name = "Schnitt 3 - «ä»\u0301 🧫 'x'"
    info = make_info(slide_id=name, uri=f"x/{name}.svs")
    assert claimed(tmp_path, info) == name
    assert FeatureStore(tmp_path / f"{name}.zarr").slide.uri == info.uri
    undecodable = "x/\udce4.svs"
    claimed(tmp_path, make_info(slide_id="u", uri=undecodable, fingerprint="9" * 64))
    assert FeatureStore(tmp_path / "u.zarr").slide.uri == undecodable


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
