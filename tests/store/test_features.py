"""Features, by rows and by windows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from tests.store.made import SPEC, grid_of, tissue_of, write_all
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output


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
