"""Coordinates in the forms that other tools read."""

from __future__ import annotations

import csv
import io

import h5py
import numpy as np

from tests.fakes import make_info
from wsiprep.core.types import TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.grid.export import export_coords


def small_grid():
    info = make_info(mpp=0.25, size0=(2048, 1024))
    mask = np.ones((16, 32), bool)
    pen = np.zeros_like(mask)
    pen[:4, :4] = True
    tissue = TissueMask(mask, pen, 16.0, info.size0, "test")
    return info, make_grid(info, tissue, GridConfig(mpp=0.5, stride=128))


def test_csv_has_a_line_for_each_patch():
    info, grid = small_grid()
    rows = list(csv.DictReader(io.StringIO(export_coords("csv", info, grid).decode())))
    assert len(rows) == len(grid)
    assert [int(rows[5]["x0_px"]), int(rows[5]["y0_px"])] == grid.origin0_px[5].tolist()
    assert float(rows[5]["side0_px"]) == 512
    known = ["tissue", "section", "pen", "edge", "fold", "focus"]
    assert list(rows[0]) == ["row", "col", "x0_px", "y0_px", "side0_px", *known]
    assert {(row["section"], row["focus"]) for row in rows} == {("1", "")}
    assert float(rows[0]["pen"]) == 0.25


def test_h5_has_what_neighbours_need():
    info, grid = small_grid()
    with h5py.File(io.BytesIO(export_coords("h5", info, grid))) as file:
        np.testing.assert_array_equal(file["coords"][:], grid.origin0_px)
        assert file["coords"].dtype == np.int64
        attrs = dict(file["coords"].attrs)
        for name, column in grid.columns().items():
            np.testing.assert_array_equal(file[name][:], column)
    assert attrs["patch_size"] == 256
    assert attrs["patch_size_level0"] == 512
    assert attrs["level0_magnification"] == 40
    assert attrs["target_magnification"] == 20
    assert attrs["overlap"] == 128
    assert (attrs["level0_width"], attrs["level0_height"]) == (2048, 1024)


def test_exports_are_the_same_bytes_each_time():
    info, grid = small_grid()
    for kind in ("csv", "h5"):
        assert export_coords(kind, info, grid) == export_coords(kind, info, grid)
