"""The lattice: anchored, aligned, exact in its tissue shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from wsiprep.core.types import CHUNK_CELLS, TissueMask
from wsiprep.grid.build import cell_origins, chunk_order, grid_name, make_grid, tissue_share
from wsiprep.grid.config import GridConfig
from wsiprep.grid.plan import make_plan


def mask_of(array: np.ndarray, info) -> TissueMask:
    mask = np.asarray(array, bool)
    return TissueMask(mask, np.zeros_like(mask), 8.0, info.size0, "test")


def test_origins_do_not_drift():
    """256 px at 0.5 of a 0.2528 slide, tolerance 0: repeated addition would lose 63 px."""
    info = make_info(mpp=0.2528, size0=(98304, 76800))
    plan = make_plan(info, 0.5, 256, tolerance=0.0)
    cell = np.array([[57, 100], [0, 193]], np.int32)
    origins = cell_origins(cell, plan.side0_px)
    exact = cell[:, ::-1] * plan.side0_px
    assert np.abs(origins - exact).max() <= 0.5


def test_grids_of_several_magnifications_share_corners():
    info = make_info(mpp=0.25, downsamples=(1.0, 2.0, 4.0), size0=(40000, 30000))
    tissue = mask_of(np.ones((30, 40)), info)
    fine = make_grid(info, tissue, GridConfig(mpp=0.25, min_tissue=0))
    coarse = make_grid(info, tissue, GridConfig(mpp=1.0, min_tissue=0))
    corners = {tuple(p) for p in fine.origin0_px}
    assert all(tuple(p) in corners for p in coarse.origin0_px)


def test_the_lattice_covers_the_slide():
    info = make_info(mpp=0.5, size0=(1000, 513))
    grid = make_grid(info, mask_of(np.ones((33, 63)), info), GridConfig(min_tissue=0))
    assert grid.shape == (3, 4)
    assert len(grid) == 12


def test_share_at_the_edge_counts_padding_as_glass():
    info = make_info(mpp=0.5, size0=(384, 256))
    grid = make_grid(info, mask_of(np.ones((16, 24)), info), GridConfig(min_tissue=0))
    assert grid.shape == (1, 2)
    np.testing.assert_allclose(grid.tissue, [1.0, 0.5], atol=1e-6)


def test_no_tissue_no_patches_even_when_all_are_kept():
    info = make_info()
    grid = make_grid(info, mask_of(np.zeros((10, 10)), info), GridConfig(min_tissue=0))
    assert len(grid) == 0
    assert grid.cell.shape == (0, 2)
    assert grid.origin0_px.shape == (0, 2)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_share_equals_brute_force(data):
    """Against a mask blown up to one mask pixel = k level-0 pixels and counted."""
    h, w = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 2**31))
    mask = np.random.default_rng(seed).random((h, w)) < 0.5
    info = make_info(mpp=1.0, size0=(w * k, h * k))
    patch = data.draw(st.integers(8, 20))
    stride = data.draw(st.integers(1, 20))
    cfg = GridConfig(mpp=1.0, patch_size=patch, stride=stride)
    plan = make_plan(info, 1.0, patch, tolerance=0.05)
    shape = (-(-h * k // stride), -(-w * k // stride))
    share = tissue_share(mask_of(mask, info), plan, cfg.stride_px, shape)
    full = np.kron(mask, np.ones((k, k)))
    for r in range(shape[0]):
        for c in range(shape[1]):
            y, x = r * stride, c * stride
            count = full[y : y + patch, x : x + patch].sum()
            assert share[r, c] == pytest.approx(count / patch**2, abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_chunk_order_is_a_permutation_in_chunks(rows, cols, seed):
    rng = np.random.default_rng(seed)
    cell = np.argwhere(rng.random((rows, cols)) < 0.5).astype(np.int32)
    rng.shuffle(cell)
    ordered = cell[chunk_order(cell)]
    assert {tuple(c) for c in cell} == {tuple(c) for c in ordered}
    keys = [(r // CHUNK_CELLS, c // CHUNK_CELLS, r, c) for r, c in ordered.tolist()]
    assert keys == sorted(keys)


def test_order_does_not_depend_on_the_run():
    info = make_info(size0=(20000, 20000))
    mask = mask_of(np.random.default_rng(0).random((300, 300)) < 0.6, info)
    first, second = (make_grid(info, mask, GridConfig()) for _ in range(2))
    np.testing.assert_array_equal(first.cell, second.cell)
    np.testing.assert_array_equal(first.tissue, second.tissue)


@pytest.mark.parametrize(
    ("values", "same_as"),
    [
        ({"mag": 20}, {"mpp": 0.5}),
        ({"overlap": 128}, {"stride": 128}),
        ({"patch_size": 512, "overlap": 0}, {"patch_size": 512}),
    ],
)
def test_two_ways_to_say_one_thing_are_one_grid(values, same_as):
    first, second = GridConfig(**values), GridConfig(**same_as)
    assert first.canonical() == second.canonical()
    assert grid_name(first) == grid_name(second)


@pytest.mark.parametrize(
    "values",
    [
        {"mag": 20, "mpp": 0.5},
        {"stride": 10, "overlap": 10},
        {"mag": 0},
        {"mpp": -1},
        {"overlap": 0.5},
        {"min_tissue": 3},
        {"stride": 0},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(ValueError, match=r"."):
        GridConfig(**values)


@pytest.mark.parametrize("overlap", [256, 300, -1])
def test_an_overlap_that_leaves_no_stride_is_refused_by_its_name(overlap):
    with pytest.raises(ValueError, match=rf"--overlap must be .* 256 \(given: {overlap}\)") as said:
        GridConfig(overlap=overlap)
    assert "stride" not in str(said.value)


def test_export_of_coordinates_is_no_part_of_the_identity():
    assert GridConfig(export_coords=("csv",)).canonical() == GridConfig().canonical()
    assert GridConfig(min_tissue=0.4).canonical() != GridConfig().canonical()
