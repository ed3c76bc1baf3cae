"""Slides as what tissue segmenters learn from: their thumbnails, with masks brought to these."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from tests.train.tissue_pairs import table
from wsiprep import open_slide
from wsiprep.cli.main import app
from wsiprep.core.errors import ManifestError
from wsiprep.store import FeatureStore
from wsiprep.train.tissue.data import read_pairs

SIZE0 = (2048, 1536)
"""Of `small_slide`, at 0.5 µm/px."""


def quarter(folder):
    """Masks of the upper left quarter of the slide, by kind of file."""
    w, h = SIZE0
    mask = np.zeros((h, w), np.uint8)
    mask[: h // 2, : w // 2] = 255
    cv2.imwrite(str(folder / "coarse.png"), mask[::64, ::64])
    cv2.imwrite(str(folder / "fine.png"), mask[::4, ::4])
    tifffile.imwrite(folder / "level0.tif", mask)
    ring = [[0, 0], [w // 2, 0], [w // 2, h // 2], [0, h // 2], [0, 0]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    (folder / "q.geojson").write_text(json.dumps(shape))
    return ("coarse.png", "fine.png", "level0.tif", "q.geojson")


def test_a_slide_is_read_as_its_thumbnail(tmp_path, small_slide):
    rows = [
        {"image": str(small_slide), "mpp": mpp, "tissue": mask}
        for mpp in ("", "16")
        for mask in quarter(tmp_path)
    ]
    with open_slide(small_slide) as slide:
        for pair, row in zip(read_pairs(table(tmp_path, *rows)), rows, strict=True):
            mpp = float(row["mpp"] or 8)
            np.testing.assert_array_equal(pair.thumbnail.pixels, slide.thumbnail(mpp))
            assert pair.thumbnail.mpp == mpp
            h, w = pair.thumbnail.label.shape
            assert (w, h) == (SIZE0[0] * 0.5 // mpp, SIZE0[1] * 0.5 // mpp)
            there = np.zeros((h, w), np.bool_)
            there[: h // 2, : w // 2] = True
            np.testing.assert_array_equal(pair.thumbnail.mask("tissue"), there)


def test_what_segment_writes_is_what_is_learnt(tmp_path, small_slide):
    out = tmp_path / "out"
    args = ["segment", str(small_slide), "-o", str(out), "--segmenter", "otsu"]
    assert CliRunner().invoke(app, args).exit_code == 0
    (outlines,) = (out / "geojson").iterdir()
    row = {"image": str(small_slide), "tissue": str(outlines)}
    (pair,) = read_pairs(table(tmp_path, row))
    (store,) = out.glob("*.zarr")
    found = FeatureStore(store).tissue().mask
    assert 0.05 < found.mean() < 0.95
    np.testing.assert_array_equal(pair.thumbnail.mask("tissue"), found)


def flat(folder, name, **how):
    """A picture of 100 x 60 px as TIFF."""
    pixels = np.full((60, 100, 3), 230, np.uint8)
    pixels[:, :50] = (150, 80, 160)
    tifffile.imwrite(folder / name, pixels, photometric="rgb", **how)
    return pixels


def test_a_flat_tiff_is_a_picture(tmp_path):
    pixels = flat(tmp_path, "a.tif", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    (pair,) = read_pairs(table(tmp_path, {"image": "a.tif"}))
    np.testing.assert_array_equal(pair.thumbnail.pixels, pixels)
    assert pair.thumbnail.mpp == 8.0


def test_a_slide_that_does_not_say_how_fine_it_is(tmp_path):
    flat(tmp_path, "a.tif", tile=(32, 32))
    with pytest.raises(ManifestError, match=r"line 2.*how many µm") as err:
        read_pairs(table(tmp_path, {"image": "a.tif"}))
    assert "`slide_mpp`" in err.value.hint
    (pair,) = read_pairs(table(tmp_path, {"image": "a.tif", "slide_mpp": "4"}))
    assert pair.thumbnail.pixels.shape == (30, 50, 3)
    assert pair.thumbnail.mpp == 8.0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tissue": "narrow.png"}, "not the shape of the slide"),
        ({"mpp": "-1"}, "no number above 0"),
        ({"slide_mpp": "nan"}, "no number above 0"),
        ({"image": "a.tif", "slide_mpp": "0.5"}, "a.tif is a picture"),
        ({"image": "broken.svs"}, r"broken\.svs: no reader opens it"),
        ({"mpp": "0.5", "slide_mpp": "8"}, "too large"),
    ],
)
def test_slides_that_cannot_be_used_are_refused(tmp_path, small_slide, monkeypatch, row, says):
    monkeypatch.setattr("wsiprep.train.tissue.data.MAX_PIXELS", 3_000_000)
    flat(tmp_path, "a.tif")
    cv2.imwrite(str(tmp_path / "narrow.png"), np.zeros((96, 60), np.uint8))
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    with pytest.raises(ManifestError, match=rf"line 2.*{says}"):
        read_pairs(table(tmp_path, {"image": str(small_slide), **row}))
