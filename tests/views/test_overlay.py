from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsiprep.core.types import PatchGrid, ReadPlan, Size, TissueMask
from wsiprep.views import encode_jpeg, tissue_overlay
from wsiprep.views.overlay import EDGE_RGB, FOLD_RGB, PATCH_RGB, PEN_RGB, TISSUE_RGB

SIZE0 = Size(12800, 9600)


def make(shape=(600, 800), size0=SIZE0, tissue=True):
    mask, pen = np.zeros(shape, bool), np.zeros(shape, bool)
    h, w = shape
    if tissue:
        mask[h // 4 : h // 2, w // 4 : w // 2] = True
        mask[h * 5 // 16 : h * 3 // 8, w * 5 // 16 : w * 3 // 8] = False
        pen[h * 3 // 4 : h * 7 // 8, w // 2 : w * 3 // 4] = True
    return TissueMask(mask, pen, 8.0, size0, "otsu")


def grid_of(cells, side=512.0):
    cell = np.array(cells, np.int32).reshape(-1, 2)
    origin = np.rint(cell[:, ::-1] * side).astype(np.int64)
    plan = ReadPlan(0, 512, 1.0, 512, side, 0.5, 0.5, "native")
    return PatchGrid(plan, 512, side, (19, 25), cell, origin, np.ones(len(cell), np.float32))


def like(image, rgb, tolerance=12):
    return (np.abs(image.astype(int) - rgb) <= tolerance).all(axis=2)


def white(h=600, w=800):
    return np.full((h, w, 3), 240, np.uint8)


def test_outlines_lie_on_the_borders():
    thumbnail = white()
    before = thumbnail.copy()
    picture = tissue_overlay(thumbnail, make(), slide_id="s", slide_mpp=0.5)
    np.testing.assert_array_equal(thumbnail, before)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 800
    assert picture.shape[0] > 600
    green, orange = like(picture, TISSUE_RGB), like(picture, PEN_RGB)
    assert green[150, 250] or green[149, 250]
    assert like(picture, TISSUE_RGB, 50)[185:189, 275].any(), "the hole is outlined"
    assert not green[215, 275].any(), "and empty"
    rows, cols = np.nonzero(green[:600])
    assert 146 <= rows.min() <= 150 <= 299 <= rows.max() <= 303
    assert 196 <= cols.min() <= 200 <= 399 <= cols.max() <= 403
    assert orange[:600].any()
    assert not (orange[:440]).any()


def test_patches_are_tinted_and_bordered():
    plain = tissue_overlay(white(), make(), None)
    drawn = tissue_overlay(white(), make(), grid_of([(10, 20), (11, 20)]))
    changed = (plain != drawn).any(axis=2)[:600]
    rows, cols = np.nonzero(changed)
    # 512 level-0 px are 32 picture px: rows 320..384, columns 640..672.
    assert (rows.min(), rows.max()) == (320, 384)
    assert (cols.min(), cols.max()) == (640, 672)
    assert changed[320:384, 640:672].all()
    inner, line = drawn[336, 656].astype(int), drawn[352, 656].astype(int)
    assert inner[0] - line[0] > 40
    assert PATCH_RGB[2] <= line[2]


def test_sizes_come_from_the_mask_not_from_the_thumbnail():
    one = tissue_overlay(white(600, 800), make((75, 100)), grid_of([(2, 3)]))
    two = tissue_overlay(white(600, 800), make((1200, 1600)), grid_of([(2, 3)]))
    agree = (np.abs(one[:600].astype(int) - two[:600]) < 40).all(axis=2).mean()
    assert agree > 0.98


@pytest.mark.parametrize(
    ("shape", "side"), [((3000, 5000), 2048), ((1000, 900), 1000), ((20, 30), 640), ((1, 1), 640)]
)
def test_longest_side(shape, side):
    mask = make(shape, Size(shape[1] * 16, shape[0] * 16), tissue=False)
    picture = tissue_overlay(white(*shape), mask, slide_mpp=0.5, slide_id="x" * 300)
    assert max(picture.shape[1], round(picture.shape[1] * shape[0] / shape[1])) == side


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 2)])
def test_thin_slides(shape):
    mask = make(shape, Size(shape[1] * 16, shape[0] * 16), tissue=False)
    picture = tissue_overlay(white(*shape), mask, grid_of([]), slide_mpp=0.5)
    assert picture.shape[2] == 3


def test_empty_slide_says_so():
    blank = tissue_overlay(white(), make(tissue=False), grid_of([]), slide_id="s")
    dark = blank[:600].max(axis=2) < 80
    assert dark.sum() > 1000
    rows, cols = np.nonzero(dark)
    assert 200 < rows.mean() < 400
    assert 300 < cols.mean() < 500


def test_scale_bar_is_as_long_as_it_says():
    picture = tissue_overlay(white(), make(), slide_mpp=0.5)
    strip = picture[600:].max(axis=2) < 60
    # 800 px of 8 µm: the longest round bar within a seventh is 0.5 mm, 62.5 px.
    middle = strip[strip.shape[0] // 2]
    first = int(np.argmax(middle))
    assert 61 <= int(np.argmin(middle[first:])) <= 64
    without = tissue_overlay(white(), make())[600:]
    assert not (without.max(axis=2) < 60)[:, first : first + 62].all(axis=0).any()


def test_caption_text_differs_and_non_ascii_is_harmless():
    one = tissue_overlay(white(), make(), grid_of([(1, 1)]), slide_id="a")
    two = tissue_overlay(white(), make(), grid_of([(1, 1)]), slide_id="µ-Ω-日本")
    assert (one[600:] != two[600:]).any()
    np.testing.assert_array_equal(one[:600], two[:600])


def test_jpeg():
    picture = tissue_overlay(white(), make(), grid_of([(1, 1)]), slide_id="a", slide_mpp=0.5)
    data = encode_jpeg(picture)
    assert data[:3] == b"\xff\xd8\xff"
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < 2
    assert data == encode_jpeg(picture)
    assert len(encode_jpeg(picture, quality=30)) < len(data)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5), (5, 5, 4), (1, 70_000, 3)])
def test_jpeg_of_nonsense(shape):
    with pytest.raises(ValueError, match=r"picture|JPEG"):
        encode_jpeg(np.zeros(shape, np.uint8))


def test_edges_folds_and_numbers_of_sections():
    mask = make()
    plain = tissue_overlay(white(), mask)
    edge, fold = np.zeros((2, 600, 800), bool)
    edge[450:550, 50:150] = True
    fold[200:260, 350:380] = True
    seen = TissueMask(mask.mask, mask.pen, 8.0, SIZE0, "otsu", edge=edge, fold=fold)
    picture = tissue_overlay(white(), seen)
    assert like(picture, EDGE_RGB)[440:560, 40:160].sum() > 300
    assert like(picture, FOLD_RGB)[195:265, 345:385].sum() > 150
    assert not like(plain[:600], EDGE_RGB, 4)[440:560, 40:160].any()
    strip, before = picture[600:], plain[600:]
    assert like(strip, FOLD_RGB, 60).any(), "the caption names the colour"
    assert not like(before, FOLD_RGB, 60).any()

    section = mask.mask.astype(np.int32)
    section[:, 300:][mask.mask[:, 300:]] = 2
    two = tissue_overlay(
        white(), TissueMask(mask.mask, mask.pen, 8.0, SIZE0, "otsu", section=section)
    )
    for half in (np.s_[150:300, 205:295], np.s_[150:300, 305:395]):
        assert (two[half] != plain[half]).any()
        assert (two[half].max(axis=2) < 80).any(), "a number in ink"
    thin = section.copy()
    thin[mask.mask] = np.arange(1, mask.mask.sum() + 1)
    tissue_overlay(white(60, 80), TissueMask(mask.mask, mask.pen, 8.0, SIZE0, "o", section=thin))
