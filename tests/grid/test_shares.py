"""What masks cover of patches, and the section each lies on."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from wsiprep.core.types import TissueMask
from wsiprep.grid.build import cell_origins, make_grid, tissue_share
from wsiprep.grid.config import GridConfig
from wsiprep.grid.plan import make_plan
from wsiprep.grid.shares import area_share, main_section


def tissue_of(mask, info, **more):
    return TissueMask(mask, np.zeros_like(mask), 8.0, info.size0, "test", **more)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(200, 3000), st.integers(200, 3000)),
)
def test_shares_are_those_of_the_whole_lattice(seed, shape, size0):
    info = make_info(mpp=0.37, size0=size0)
    mask = np.random.default_rng(seed).random(shape) < 0.5
    plan = make_plan(info, 0.5, 200, tolerance=0.0)
    rows, cols = (-(-n // 150) for n in (size0[1], size0[0]))
    tissue = tissue_of(mask, info)
    dense = tissue_share(tissue, plan, 150.0, (rows, cols))
    cell = np.argwhere(np.ones((rows, cols), bool)).astype(np.int32)
    shares = area_share(mask, tissue.scale0, cell_origins(cell, 150.0), plan.side0_px)
    np.testing.assert_allclose(shares, dense.ravel(), atol=1e-5)


def test_columns_of_a_grid():
    info = make_info(mpp=0.5, size0=(2048, 1024))
    mask = np.zeros((64, 128), bool)
    mask[16:64, :] = True
    pen, edge, fold = np.zeros((3, 64, 128), bool)
    pen[:, :8], edge[:16, :16], fold[32:48] = True, True, True
    section = np.where(mask, 5, 0).astype(np.int32)
    section[16:, 40:][mask[16:, 40:]] = 2
    tissue = TissueMask(mask, pen, 8.0, info.size0, "t", edge=edge, fold=fold, section=section)
    grid = make_grid(info, tissue, GridConfig(min_tissue=0.0))
    at = {tuple(cell): k for k, cell in enumerate(grid.cell.tolist())}
    assert grid.section[at[1, 0]] == 5
    assert grid.section[at[1, 2]] == 2, "columns 32 to 47: the half on either side, the lower wins"
    assert grid.section[at[1, 3]] == 2
    assert grid.section[at[0, 0]] == 0, "no tissue, no section"
    assert grid.pen[at[0, 0]] == 0.5
    assert grid.edge[at[0, 0]] == 1.0
    assert grid.edge[at[1, 0]] == 0.0
    assert grid.fold[at[2, 4]] == 1.0
    assert np.isnan(grid.focus).all()
    few = grid.only(grid.section == 2)
    assert (few.section == 2).all()
    assert len(few) == (grid.section == 2).sum()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_the_section_is_the_one_of_most_area(seed, count):
    rng = np.random.default_rng(seed)
    info = make_info(mpp=0.5, size0=(3000, 2000))
    section = np.kron(rng.integers(0, count + 1, (5, 6)), np.ones((4, 5))).astype(np.int32)
    tissue = tissue_of(section > 0, info, section=section)
    origins = rng.integers(-100, 2900, (40, 2))
    found = main_section(tissue, origins, 333.0)
    shares = np.array(
        [
            area_share(section == k, tissue.scale0, origins, 333.0) if k else np.full(40, 1e-6)
            for k in range(count + 1)
        ]
    )
    best = shares.max(axis=0)
    own = shares[found, np.arange(40)]
    np.testing.assert_allclose(own, best, atol=2e-6)
    assert ((found == 0) == (best <= 1.01e-6)).all()


def test_no_patches_no_columns():
    info = make_info()
    grid = make_grid(info, tissue_of(np.zeros((4, 4), bool), info), GridConfig())
    assert all(column.shape == (0,) for column in grid.columns().values())
