"""A store that everything is in."""

from __future__ import annotations

import pytest

from tests.fakes import make_info
from tests.store.made import tissue_of, write_all
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.read import FeatureStore


@pytest.fixture
def info():
    return make_info(size0=(16384, 12288))


@pytest.fixture
def written(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    vectors = write_all(tmp_path, info, grid)
    return FeatureStore(tmp_path / "slide.zarr"), grid, vectors
