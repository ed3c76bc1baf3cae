"""Outlines and patches as GeoJSON: at their places, cut to the slide, for QuPath."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.train.language.made import grid_of
from wsiprep.core.types import Size
from wsiprep.tasks.heat_geojson import cell_boxes, heat_geojson, highest

SIZE0 = Size(36 * 256 - 100, 40 * 256)


def test_highest():
    scores = np.array([1, 5, 3, 5, 0], np.float32)
    assert highest(scores, 0.2).tolist() == [False, True, False, True, False]  # a tie
    assert highest(scores, 0.6).sum() == 3
    assert highest(scores, 0.01).sum() == 2
    assert highest(scores, 1.0).all()
    assert not highest(np.ones(4, np.float32), 0.5).any()
    assert highest(np.ones(4, np.float32), 1.0).all()
    assert highest(np.zeros(0, np.float32), 0.5).shape == (0,)


def test_boxes_with_overlap_and_gaps():
    grid = grid_of(np.array([[0, 0], [2, 3], [0, 35]]))
    rows = np.arange(3)
    by_cell = dict(zip(map(tuple, grid.cell.tolist()), cell_boxes(grid, rows, SIZE0), strict=True))
    assert by_cell[2, 3].tolist() == [768, 512, 1024, 768]
    assert by_cell[0, 35].tolist() == [35 * 256, 0, SIZE0.width, 256]  # cut to the slide
    half = replace(grid, stride_px=128, stride0_px=128.0)
    by_cell = dict(zip(map(tuple, half.cell.tolist()), cell_boxes(half, rows, SIZE0), strict=True))
    # The patch covers 384 to 640 and 256 to 512; its square is the middle of it.
    assert by_cell[2, 3].tolist() == [448, 320, 576, 448]
    wide = replace(grid, stride_px=512, stride0_px=512.0)
    by_cell = dict(zip(map(tuple, wide.cell.tolist()), cell_boxes(wide, rows, SIZE0), strict=True))
    assert by_cell[0, 0].tolist() == [0, 0, 384, 384]


@pytest.mark.parametrize("stride", [256, 128])
def test_outlines_go_round_the_highest_and_patches_have_measurements(stride):
    cells = np.argwhere(np.ones((6, 6), bool))
    grid = replace(grid_of(cells), stride_px=stride, stride0_px=float(stride))
    rows = np.arange(len(grid))
    hot = ((grid.cell >= 2) & (grid.cell < 4)).all(axis=1)
    scores = np.stack([hot, ~hot]).astype(np.float32) / 3
    text = heat_geojson(grid, rows, scores, ["in", "out"], SIZE0, top=hot.mean())
    assert text == heat_geojson(grid, rows, scores, ["in", "out"], SIZE0, top=hot.mean())
    features = json.loads(text)["features"]
    kinds = [f["properties"]["objectType"] for f in features]
    assert kinds.count("detection") == 36
    inner = [f for f in features if f["properties"].get("classification", {}).get("name") == "in"]
    (ring,) = inner[0]["geometry"]["coordinates"]
    shift = (256 - stride) / 2
    low, high = 2 * stride + shift, 4 * stride + shift
    assert len(inner) == 1
    assert sorted(map(tuple, ring[:-1])) == [(low, low), (low, high), (high, low), (high, high)]
    (outer,) = [
        f for f in features if f["properties"].get("classification", {}).get("name") == "out"
    ]
    assert len(outer["geometry"]["coordinates"]) == 2  # a ring with a hole
    patch = features[kinds.index("detection")]["properties"]["measurements"]
    assert patch == {"in": 0.0, "out": float(f"{np.float32(1 / 3):.7g}")}
