from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tissue.slides import make_info
from wsiprep.core.errors import TissueInputError
from wsiprep.tissue.given import given_digest, given_tissue
from wsiprep.tissue.polygons import fill_polygon

INFO = make_info(4000, 3000, 0.5)
TRUTH = np.zeros((30, 40), bool)
TRUTH[5:20, 8:30] = True
TRUTH[10, 10] = False
SQUARE = [[0, 0], [1600, 0], [1600, 800], [0, 800], [0, 0]]
HOLE = [[400, 200], [800, 200], [800, 400], [400, 400], [400, 200]]


def save(path, array, **how):
    if path.suffix == ".png":
        assert cv2.imwrite(str(path), array)
    else:
        tifffile.imwrite(path, array, **how)
    return path


def forms(name):
    grey = TRUTH.astype(np.uint8)
    return {
        "ones.png": grey,
        "grey.png": grey * 255,
        "sixteen.png": grey.astype(np.uint16) * 300,
        "rgb.png": np.dstack([0 * grey, grey * 9, 0 * grey]),
        "rgba.png": np.dstack([grey * 255] * 3 + [np.full_like(grey, 255)]),
        "clear.png": np.dstack([np.full_like(grey, 200)] * 3 + [grey * 255]),
        "grey.tif": grey * 255,
        "bool.tiff": TRUTH,
        "rgb.tif": np.dstack([grey, 0 * grey, grey]),
        "float.tif": grey.astype(np.float32) * 0.25,
    }[name]


NAMES = (
    "ones.png grey.png sixteen.png rgb.png rgba.png clear.png grey.tif bool.tiff rgb.tif float.tif"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_image_masks_are_taken_exactly(tmp_path, name):
    found = given_tissue(save(tmp_path / name, forms(name)), INFO, 8.0)
    np.testing.assert_array_equal(found.mask, TRUTH)
    assert found.method == f"mask:{name}"
    assert found.mpp == pytest.approx(50.0)
    assert found.size0 == INFO.size0
    assert not found.pen.any()


def test_min_is_white_is_taken_by_value_and_said_so(tmp_path):
    path = save(tmp_path / "m.tif", TRUTH, photometric="miniswhite")
    found = given_tissue(path, INFO, 8.0)
    np.testing.assert_array_equal(found.mask, TRUTH)
    assert "min-is-white" in found.notes[0]


def test_one_bit_png(tmp_path):
    path = tmp_path / "bit.png"
    cv2.imwrite(str(path), TRUTH.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    np.testing.assert_array_equal(given_tissue(path, INFO, 8.0).mask, TRUTH)


@pytest.mark.parametrize("subifds", [False, True])
def test_pyramid_gives_its_largest_page(tmp_path, subifds):
    path = tmp_path / "pyramid.tif"
    full = np.kron(TRUTH, np.ones((4, 4), bool)).astype(np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(full, subifds=1 if subifds else None)
        tiff.write(full[::4, ::4], subfiletype=1)
    np.testing.assert_array_equal(given_tissue(path, INFO, 8.0).mask, full > 0)


def test_pages_too_large_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("wsiprep.tissue.given.MAX_PIXELS", 5000)
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((120, 160), np.uint8))
        tiff.write(TRUTH.astype(np.uint8))
    np.testing.assert_array_equal(given_tissue(path, INFO, 8.0).mask, TRUTH)
    with pytest.raises(TissueInputError, match="no page below"):
        given_tissue(save(tmp_path / "b.tif", np.zeros((120, 160), np.uint8)), INFO, 8.0)
    with pytest.raises(TissueInputError, match="too large"):
        given_tissue(save(tmp_path / "b.png", np.zeros((120, 160), np.uint8)), INFO, 8.0)


def test_wrong_shape_names_both_sizes(tmp_path):
    path = save(tmp_path / "m.png", np.ones((40, 30), np.uint8))
    with pytest.raises(TissueInputError, match=r"30 x 40 .*4000 x 3000") as caught:
        given_tissue(path, INFO, 8.0)
    assert caught.value.slide == "fake"
    assert caught.value.stage == "tissue"
    assert "whole slide" in caught.value.hint


@pytest.mark.parametrize(("shape", "fits"), [((300, 407), True), ((300, 410), False)])
def test_two_percent(tmp_path, shape, fits):
    path = save(tmp_path / "m.png", np.ones(shape, np.uint8))
    if fits:
        assert given_tissue(path, INFO, 8.0).mask.all()
    else:
        with pytest.raises(TissueInputError):
            given_tissue(path, INFO, 8.0)


def test_tiny_masks_may_miss_by_a_pixel(tmp_path):
    assert given_tissue(save(tmp_path / "m.png", np.ones((2, 3), np.uint8)), INFO, 8.0).mask.all()


def test_empty_mask_is_a_result_with_a_note(tmp_path):
    found = given_tissue(save(tmp_path / "m.png", np.zeros((30, 40), np.uint8)), INFO, 8.0)
    assert found.empty
    assert "no tissue" in found.notes[0]


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.geojson"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\0"])
def test_garbage(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TissueInputError) as caught:
        given_tissue(path, INFO, 8.0)
    assert caught.value.slide == "fake"
    assert caught.value.hint


def test_truncated_tiff(tmp_path):
    path = save(tmp_path / "m.tif", np.ones((300, 400), np.uint8), compression="zlib")
    path.write_bytes(path.read_bytes()[:-120])
    with pytest.raises(TissueInputError):
        given_tissue(path, INFO, 8.0)


def test_missing_folder_and_unknown_suffix(tmp_path):
    with pytest.raises(TissueInputError, match="does not exist"):
        given_tissue(tmp_path / "no.png", INFO, 8.0)
    (tmp_path / "d.png").mkdir()
    with pytest.raises(TissueInputError, match="not a file"):
        given_tissue(tmp_path / "d.png", INFO, 8.0)
    (tmp_path / "m.jpg").write_bytes(b"x")
    with pytest.raises(TissueInputError, match="suffix"):
        given_tissue(tmp_path / "m.jpg", INFO, 8.0)


def test_digest(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    assert given_digest(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(TissueInputError):
        given_digest(tmp_path / "b.png")


# -- GeoJSON -------------------------------------------------------------------------------------


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def rasterise(tmp_path, data, tissue_mpp=8.0):
    path = tmp_path / "t.geojson"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return given_tissue(path, INFO, tissue_mpp)


ONE = polygon(SQUARE, HOLE)


@pytest.mark.parametrize(
    "data",
    [
        ONE,
        feature(ONE),
        [feature(ONE), feature(None)],
        {"type": "FeatureCollection", "features": [feature(ONE, isLocked=False)]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]},
        {"type": "GeometryCollection", "geometries": [ONE, ONE]},
        polygon(SQUARE[::-1], HOLE[::-1]),
        polygon(SQUARE[:-1], HOLE[:-1]),
        polygon([[*c, 0.0] for c in SQUARE], HOLE),
    ],
)
def test_every_form_of_geojson(tmp_path, data):
    found = rasterise(tmp_path, data)
    expected = np.zeros((188, 250), bool)
    expected[:50, :100] = True
    expected[13:25, 25:50] = False
    # 3000 px at 0.5 µm/px are 187.5 mask pixels, so rows are a little below 16 level-0 px.
    assert found.mask.shape == (188, 250)
    assert (found.mask != expected).mean() < 0.002
    assert found.method == "geojson:t.geojson"


def test_features_are_united_not_cancelled(tmp_path):
    other = polygon([[800, 0], [2400, 0], [2400, 800], [800, 800]])
    both = rasterise(tmp_path, [feature(polygon(SQUARE)), feature(other)])
    assert both.mask[:50, :150].all()


def test_classes(tmp_path):
    ink = polygon([[2000, 2000], [2400, 2000], [2400, 2400], [2000, 2400]])
    found = rasterise(
        tmp_path,
        [
            feature(polygon(SQUARE)),
            feature(ink, classification={"name": "Pen"}),
            feature(ink, classification={"name": "Ignore*"}),
        ],
    )
    assert found.pen.any()
    assert not (found.pen & found.mask).any()
    assert not found.mask[60:].any()
    assert not found.edge.any()
    for kind in ("Edge", "Fold"):
        over = [feature(polygon(SQUARE)), feature(polygon(SQUARE), classification={"name": kind})]
        found = rasterise(tmp_path, over)
        np.testing.assert_array_equal(getattr(found, kind.lower()), found.mask)
        assert found.mask[:50, :100].all(), "what is given as tissue is tissue"


@pytest.mark.parametrize("turn", [1, -1])
def test_what_is_to_be_ignored_is_taken_out_of_tissue(tmp_path, turn):
    whole = [
        feature(polygon(SQUARE), section=3),
        feature(polygon(SQUARE[:3]), classification={"name": "Fold"}),
        feature(polygon(HOLE), classification={"name": "Ignore*"}),
    ]
    found = rasterise(tmp_path, whole[::turn])
    with_hole = rasterise(tmp_path, feature(polygon(SQUARE, HOLE), section=3))
    np.testing.assert_array_equal(found.mask, with_hole.mask)
    np.testing.assert_array_equal(found.section, with_hole.section)
    assert found.fold[13:25, 25:50].any(), "what was seen there is still seen"


def test_points_and_lines_beside_polygons_are_left_out_and_counted(tmp_path):
    line = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
    point = {"type": "Point", "coordinates": [5, 6]}
    found = rasterise(
        tmp_path, [feature(line), feature(polygon(SQUARE)), feature(line), feature(point)]
    )
    np.testing.assert_array_equal(found.mask, rasterise(tmp_path, polygon(SQUARE)).mask)
    assert found.notes == ("t.geojson: what has no area is left out (2 LineString, 1 Point).",)


@pytest.mark.parametrize(
    "more",
    [
        {"section": 7},
        {"measurements": {"section": 7.0, "area": 1}},
        {"measurements": [{"name": "section", "value": 7}]},
    ],
)
def test_numbers_of_sections(tmp_path, more):
    far = polygon([[2000, 2000], [2400, 2000], [2400, 2400], [2000, 2400]])
    beside = polygon([[1600, 0], [1900, 0], [1900, 800], [1600, 800]])
    found = rasterise(tmp_path, [feature(polygon(SQUARE), **more), feature(far), feature(beside)])
    assert found.sections == [7, 8]
    assert found.section[10, 10] == found.section[10, 110] == 7
    assert found.section[140, 140] == 8
    plain = rasterise(tmp_path, [feature(polygon(SQUARE)), feature(far)])
    assert plain.sections == [1, 2]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "one", True, 1e9])
def test_numbers_that_are_none(tmp_path, wrong):
    with pytest.raises(TissueInputError, match="section is numbered"):
        rasterise(tmp_path, feature(polygon(SQUARE), section=wrong))


def test_outside_is_clipped_and_far_outside_refused(tmp_path):
    found = rasterise(tmp_path, polygon([[-500, -500], [5000, -500], [5000, 3500], [-500, 3500]]))
    assert found.mask.all()
    with pytest.raises(TissueInputError, match="far outside"):
        rasterise(tmp_path, polygon([[0, 0], [1e6, 0], [0, 10]]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "Point"),
        (feature({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}), "LineString"),
        ({"type": "MultiPoint", "coordinates": [[1, 2]]}, "MultiPoint"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1]]]}', "NaN"),
        ('{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 0], [1, 1]]]}', "finite"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "corners"),
        (polygon([["a", 0], [1, 1], [0, 0]]), "pairs"),
        (polygon([[1], [1, 1], [0, 0]]), "pairs"),
        (polygon(), "no rings"),
        ({"type": "Polygon"}, "coordinates"),
        ({"type": "FeatureCollection"}, "features"),
        ({"hello": 1}, "not GeoJSON"),
        ("3", "not GeoJSON"),
        ("[" * 100_000, "nested|JSON"),
        ("{", "not JSON"),
    ],
)
def test_bad_geojson_says_why(tmp_path, data, says):
    with pytest.raises(TissueInputError, match=says) as caught:
        rasterise(tmp_path, data)
    assert caught.value.slide == "fake"
    assert "QuPath" in caught.value.hint


def test_too_large_geojson(tmp_path, monkeypatch):
    monkeypatch.setattr("wsiprep.tissue.outlines.MAX_BYTES", 10)
    with pytest.raises(TissueInputError, match="larger"):
        rasterise(tmp_path, ONE)


def test_never_finer_than_level_0(tmp_path):
    path = tmp_path / "t.geojson"
    path.write_text(json.dumps(polygon([[0, 0], [40, 0], [40, 30]])))
    assert given_tissue(path, make_info(40, 30, 10.0), 8.0).mask.shape == (30, 40)


# -- filling -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 20)), min_size=3, max_size=7),
        min_size=1,
        max_size=3,
    )
)
def test_fill_is_even_odd_at_pixel_centres(rings):
    mask = np.zeros((12, 15), bool)
    rings = [np.array(r) for r in rings]
    fill_polygon(mask, rings)
    for r in range(12):
        for c in range(15):
            x, y, crossings, margin = c + 0.5, r + 0.5, 0, np.inf
            for ring in rings:
                for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                    margin = min(margin, abs(y0 - y))
                    if (y0 > y) != (y1 > y):
                        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                        margin = min(margin, abs(at - x))
                        crossings += at > x
            if margin > 1e-9:
                assert mask[r, c] == (crossings % 2 == 1)


def test_neighbours_share_no_pixel_and_leave_none():
    left, right = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    fill_polygon(left, [np.array([[0, 0], [4.5, 0], [4.5, 10], [0, 10.0]])])
    fill_polygon(right, [np.array([[4.5, 0], [10, 0], [10, 10], [4.5, 10.0]])])
    assert not (left & right).any()
    assert (left | right).all()
