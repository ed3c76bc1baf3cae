from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.tissue import pictures as p
from tests.tissue.slides import make_info
from wsiprep.core.types import Size, TissueMask
from wsiprep.tissue import tissue_geojson
from wsiprep.tissue.given import given_tissue

GOLDEN = Path(__file__).with_name("golden_tissue.geojson")


def tissue_mask(mask, size0=None, pen=None, mpp=8.0, **more):
    mask = np.asarray(mask, bool)
    size0 = size0 or Size(mask.shape[1] * 16, mask.shape[0] * 16)
    pen = np.zeros_like(mask) if pen is None else np.asarray(pen, bool)
    return TissueMask(mask, pen, mpp, size0, "otsu", **more)


def signed_area(ring):
    x, y = np.asarray(ring).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def inside(point, ring):
    """Even-odd, for a point on no edge."""
    (x, y), found = point, False
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            found = not found
    return found


def check(text, mask):
    """Valid polygons by RFC 7946 and by the rules of geometry engines."""
    data = json.loads(text)
    assert data["type"] == "FeatureCollection"
    area = 0.0
    for feature in data["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        for ring in (outer, *holes):
            assert ring[0] == ring[-1]
            assert len(ring) >= 5
            corners = [tuple(c) for c in ring[:-1]]
            assert len(set(corners)) == len(corners), "a ring must not touch itself"
        assert signed_area(outer) > 0
        for hole in holes:
            assert signed_area(hole) < 0
            x, y = hole[0]
            assert inside((x + 1e-3, y + 1e-3), outer) or inside((x - 1e-3, y - 1e-3), outer)
        if feature["properties"]["classification"]["name"] == "Tissue":
            area += sum(signed_area(r) for r in (outer, *holes))
    sx, sy = mask.scale0
    assert abs(area - mask.mask.sum() * sx * sy) <= 1e-3 * max(1.0, area)
    return data["features"]


def back(text, mask):
    """Rasterise the text with the reader of user masks."""
    mpp = 0.5
    info = make_info(mask.size0.width, mask.size0.height, mpp)
    tissue_mpp = mpp * mask.size0.width / mask.mask.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.geojson"
        path.write_text(text)
        return given_tissue(path, info, tissue_mpp)


def example():
    mask = np.zeros((8, 10), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[6, 6] = True
    pen, edge, fold = np.zeros((3, 8, 10), bool)
    pen[1, 8] = edge[3, 8:] = fold[1:3, 1] = True
    section = mask.astype(np.int32)
    section[:, 5][mask[:, 5]] = 2
    return tissue_mask(mask, Size(1000, 800), pen, edge=edge, fold=fold, section=section)


def test_golden():
    assert tissue_geojson(example()) == GOLDEN.read_text()


def test_features_of_the_example():
    features = check(tissue_geojson(example()), example())
    names = ["tissue 1", "tissue 2", "tissue 3", "pen 1", "edge 1", "fold 1"]
    assert [f["properties"]["name"] for f in features] == names
    numbers = [f["properties"].get("measurements") for f in features]
    assert numbers == [{"section": 1}, {"section": 1}, {"section": 2}, None, None, None]
    assert len(features[0]["geometry"]["coordinates"]) == 2
    assert features[0]["properties"]["objectType"] == "annotation"
    assert features[0]["properties"]["isLocked"] is False
    assert features[0]["properties"]["classification"]["name"] == "Tissue"
    assert len(features[0]["properties"]["classification"]["color"]) == 3
    assert features[0]["geometry"]["coordinates"][0][0] == [100, 100]


def test_no_tissue_no_features():
    text = tissue_geojson(tissue_mask(np.zeros((4, 4), bool)))
    assert json.loads(text) == {"type": "FeatureCollection", "features": []}


def test_a_full_mask_is_one_rectangle():
    mask = tissue_mask(np.ones((3, 5), bool), Size(101, 67))
    (feature,) = check(tissue_geojson(mask), mask)
    assert feature["geometry"]["coordinates"] == [[[0, 0], [101, 0], [101, 67], [0, 67], [0, 0]]]


def test_chessboard_corners_do_not_join_and_holes_do_not_touch_themselves():
    board = np.indices((6, 7)).sum(axis=0) % 2 == 0
    check(tissue_geojson(tissue_mask(board)), tissue_mask(board))
    two_holes = np.ones((5, 5), bool)
    two_holes[1, 1] = two_holes[2, 2] = False
    mask = tissue_mask(two_holes)
    (feature,) = check(tissue_geojson(mask), mask)
    assert len(feature["geometry"]["coordinates"]) == 3


@settings(deadline=None, max_examples=200)
@given(npst.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 37))
def test_round_trip_is_exact(mask, scale):
    tissue = tissue_mask(mask, Size(mask.shape[1] * scale, mask.shape[0] * scale))
    text = tissue_geojson(tissue)
    check(text, tissue)
    np.testing.assert_array_equal(back(text, tissue).mask, mask)


def test_round_trip_of_a_slide_with_odd_sizes_and_pen():
    mask = p.texture((331, 417), 3, sigma=6) > 0.4
    pen = (p.texture((331, 417), 4, sigma=9) > 1.2) & ~mask
    size0 = Size(6673, 5297)
    tissue = tissue_mask(mask, size0, pen)
    text = tissue_geojson(tissue)
    assert text == tissue_geojson(tissue)
    check(text, tissue)
    again = back(text, tissue)
    np.testing.assert_array_equal(again.mask, mask)
    np.testing.assert_array_equal(again.pen, pen)


def test_everything_comes_back():
    """Edges and folds, ink over tissue, and numbers of sections, though sections touch."""
    rng = np.random.default_rng(1)
    mask = p.texture((150, 211), 3, sigma=6) > 0.2
    pen, edge, fold = (p.texture((150, 211), 4 + k, sigma=5) > 0.9 for k in range(3))
    stripes = np.repeat(rng.integers(1, 5, 211)[None], 150, axis=0)
    section = np.where(mask, stripes, 0).astype(np.int32)
    tissue = tissue_mask(mask, Size(3401, 2418), pen, edge=edge, fold=fold, section=section)
    assert (pen & mask).any()
    text = tissue_geojson(tissue)
    check(text, tissue)
    again = back(text, tissue)
    for name in ("mask", "pen", "edge", "fold", "section"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tissue, name), name)


def test_many_small_sections_are_quick():
    mask = np.zeros((160, 160), bool)
    mask[::4, ::4] = True
    section = np.zeros(mask.shape, np.int32)
    section[mask] = np.arange(1, mask.sum() + 1)
    tissue = tissue_mask(mask, section=section)
    again = back(tissue_geojson(tissue), tissue)
    np.testing.assert_array_equal(again.section, section)
