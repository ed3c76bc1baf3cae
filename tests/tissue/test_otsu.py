"""The classical segmenter on drawn thumbnails: each case is one that fails in the field."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from tests.tissue import pictures as p
from wsiprep.testing.segmenter import SegmenterContract
from wsiprep.tissue.segmenters import otsu

SEGMENTER = otsu.create(otsu.Config())


def run(image, mpp=p.MPP, **options):
    segmenter = otsu.create(otsu.Config(**options)) if options else SEGMENTER
    return segmenter.segment(image, mpp)


class TestContract(SegmenterContract):
    @pytest.fixture
    def segmenter(self):
        return SEGMENTER


def test_plain_tissue():
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth)
    found = run(p.finish(image))
    assert p.iou(found.tissue, truth) > 0.95
    assert not found.pen.any()
    assert found.notes == ()


@pytest.mark.parametrize("pen", sorted(p.PENS))
def test_pen_on_glass_is_not_tissue(pen):
    image = p.glass()
    truth = p.ellipse(image.shape[:2], (0.55, 0.5), (0.22, 0.25))
    p.stain(image, truth)
    ink = p.stroke(image, [(0.08, 0.1), (0.12, 0.5), (0.08, 0.9), (0.3, 0.95)], pen)
    rgb = p.finish(image)
    found = run(rgb)
    assert p.recall(p.plain_otsu(rgb), ink) > 0.9, "the case is a hard one"
    assert p.recall(found.tissue, ink) < 0.01
    assert p.recall(found.pen, ink) > 0.95
    assert p.iou(found.pen, ink) > 0.75
    assert p.iou(found.tissue, truth) > 0.93
    assert not (found.tissue & ~truth).sum() > 0.03 * truth.sum()


@pytest.mark.parametrize("pen", sorted(p.PENS))
def test_pen_over_tissue_is_reported_as_pen(pen):
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth)
    ink = p.stroke(image, [(0.1, 0.2), (0.5, 0.55), (0.9, 0.7)], pen, width=36)
    found = run(p.finish(image))
    assert p.recall(found.pen, ink) > 0.9
    assert p.recall(found.tissue, ink & truth) < 0.05
    assert p.recall(found.tissue, truth & ~ink) > 0.93
    assert p.recall(found.tissue, ~truth) < 0.02


@pytest.mark.parametrize("pen", sorted(p.PENS))
def test_pen_on_an_empty_slide_is_not_tissue(pen):
    image = p.glass()
    ink = p.stroke(image, [(0.2, 0.2), (0.8, 0.3), (0.7, 0.8), (0.2, 0.7), (0.2, 0.2)], pen)
    found = run(p.finish(image))
    assert found.tissue.sum() < 50
    assert p.recall(found.pen, ink) > 0.95


def test_pen_detection_can_be_switched_off():
    image = p.glass()
    ink = p.stroke(image, [(0.2, 0.2), (0.8, 0.8)], "green")
    found = run(p.finish(image), pen=False)
    assert not found.pen.any()
    assert p.recall(found.tissue, ink) > 0.9


def test_a_pen_coloured_stain_is_said_so():
    image = p.glass(900, 1200)
    truth = p.ellipse(image.shape[:2], axes=(0.35, 0.35))
    p.stain(image, truth, (110, 180, 170))
    found = run(p.finish(image))
    assert any("pen=false" in note for note in found.notes)
    assert p.iou(run(p.finish(image), pen=False).tissue, truth) > 0.95


@pytest.mark.parametrize("sides", ["frame", "left", "top-right"])
def test_black_border(sides):
    image = p.glass()
    truth = p.ellipse(image.shape[:2], (0.52, 0.52), (0.25, 0.25))
    p.stain(image, truth)
    border = np.zeros(truth.shape, bool)
    border[:, :40] = sides in ("frame", "left")
    border[:30] |= sides in ("frame", "top-right")
    border[:, -50:] |= sides in ("frame", "top-right")
    border[-30:] |= sides == "frame"
    image[border] = 6 + 3 * np.abs(p.texture(truth.shape, 5))[border][:, None]
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    rgb = p.finish(image)
    found = run(rgb)
    assert p.recall(p.plain_otsu(rgb), border) > 0.9
    assert not (found.tissue & border).any()
    assert p.recall(found.pen, border) < 0.01
    assert p.iou(found.tissue, truth) > 0.93


def test_coverslip_edges_and_their_shade():
    image = p.glass()
    truth = p.ellipse(image.shape[:2], (0.6, 0.5), (0.22, 0.28))
    p.stain(image, truth)
    lines = np.zeros(truth.shape, np.uint8)
    cv2.line(lines, (90, 0), (60, 499), 1, 4)
    cv2.line(lines, (0, 40), (699, 25), 1, 2)
    image[:, :75] *= 0.93
    image[lines > 0] = (95, 94, 93)
    found = run(p.finish(image))
    assert p.recall(found.tissue, lines > 0) < 0.02
    assert p.iou(found.tissue, truth) > 0.94


def test_faint_tissue_beside_dark_tissue():
    image = p.glass()
    faint = p.ellipse(image.shape[:2], (0.27, 0.5), (0.18, 0.3))
    dark = p.ellipse(image.shape[:2], (0.75, 0.5), (0.15, 0.3))
    p.stain(image, faint, p.FAINT)
    p.stain(image, dark, (110, 60, 130))
    rgb = p.finish(image)
    found = run(rgb)
    assert p.recall(p.plain_otsu(rgb), faint) < 0.2, "plain Otsu loses it"
    assert p.recall(found.tissue, faint) > 0.93
    assert p.iou(found.tissue, faint | dark) > 0.92


def test_fat_is_one_area():
    image = p.glass()
    solid = p.ellipse(image.shape[:2], (0.3, 0.5), (0.15, 0.25))
    fatty = p.ellipse(image.shape[:2], (0.62, 0.5), (0.24, 0.3))
    p.fat(image, fatty)
    p.stain(image, solid)
    rgb = p.finish(image)
    found = run(rgb)
    inner = cv2.erode(fatty.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert p.recall(p.plain_otsu(rgb), inner) < 0.4
    assert p.recall(found.tissue, inner) > 0.85
    assert p.iou(found.tissue, fatty | solid) > 0.85


@pytest.mark.parametrize("rgb", [p.BROWN, p.COUNTERSTAIN, (150, 70, 160), (225, 120, 165)])
def test_stains(rgb):
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth, rgb)
    found = run(p.finish(image))
    assert p.iou(found.tissue, truth) > 0.95
    assert not found.pen.any()


def test_brown_islands_in_blue_tissue():
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth, p.COUNTERSTAIN)
    brown = truth & (p.texture(truth.shape, 9, sigma=8) > 0.6)
    p.stain(image, brown, p.BROWN)
    found = run(p.finish(image))
    assert p.iou(found.tissue, truth) > 0.95
    assert p.recall(found.pen, truth) < 0.001


@pytest.mark.parametrize(
    "rgb", [(205, 205, 206), (245, 236, 205), (255, 255, 255), (226, 234, 240), (180, 178, 176)]
)
def test_glass_of_any_cast(rgb):
    image = p.glass(rgb=rgb)
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth)
    found = run(p.finish(image))
    assert p.iou(found.tissue, truth) > 0.94
    empty = run(p.finish(p.glass(rgb=rgb)))
    assert not empty.tissue.any()
    assert not empty.pen.any()


def test_yellowish_glass_inside_white_padding():
    image = p.glass(rgb=(240, 230, 196))
    truth = p.ellipse(image.shape[:2], axes=(0.2, 0.2))
    p.stain(image, truth)
    outside = np.ones(truth.shape, bool)
    outside[60:-60, 90:-90] = False
    rgb = p.finish(image)
    rgb[outside] = 255
    found = run(rgb)
    assert p.iou(found.tissue, truth) > 0.93


def vignette(shape, depth):
    h, w = shape
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    return (1 - depth * (x * x + y * y) / 2)[..., None].astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_empty_slide_with_noise_and_vignetting(noise, seed):
    image = p.glass(noise=noise, seed=seed) * vignette((500, 700), 0.25)
    rgb = p.finish(image)
    assert p.plain_otsu(rgb).mean() > 0.05, "plain Otsu invents tissue"
    found = run(rgb)
    assert not found.tissue.any()
    assert not found.pen.any()


def test_tissue_under_a_coloured_vignette():
    image = p.glass()
    truth = p.ellipse(image.shape[:2], axes=(0.2, 0.2))
    p.stain(image, truth, p.FAINT)
    image[..., 2:] *= vignette(truth.shape, 0.08)
    found = run(p.finish(image))
    assert p.iou(found.tissue, truth) > 0.9


def test_grey_dust_is_not_tissue():
    image = p.glass()
    rng = np.random.default_rng(4)
    for x, y in rng.integers(10, 490, (60, 2)):
        cv2.circle(image, (int(x), int(y)), int(rng.integers(1, 4)), (90, 88, 86), -1)
    found = run(p.finish(image))
    assert not found.tissue.any()


def test_dark_background_is_named():
    image = np.zeros((400, 500, 3), np.float32) + 3
    image[p.ellipse((400, 500), axes=(0.1, 0.1))] = (20, 30, 230)
    found = run(p.finish(image))
    assert not found.tissue.any()
    assert "dark background: looks like fluorescence" in found.notes[0]


def test_thumbnail_filled_by_tissue():
    image = p.glass(300, 300)
    everywhere = np.ones((300, 300), bool)
    p.stain(image, everywhere, (190, 120, 165), depth=0.3)
    assert run(p.finish(image)).tissue.mean() > 0.98


@pytest.mark.parametrize("mpp", [4.0, 16.0, 32.0])
def test_sizes_are_micrometres(mpp):
    image = p.glass(1000, 1400)
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth)
    ink = p.stroke(image, [(0.05, 0.1), (0.1, 0.9)], "blue", width=60)
    scale = p.MPP / 2 / mpp
    rgb = cv2.resize(p.finish(image), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = [
        cv2.resize(m.astype(np.uint8), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        for m in (truth, ink)
    ]
    found = run(rgb, mpp)
    assert p.iou(found.tissue, small[0]) > 0.92
    assert p.recall(found.pen, small[1]) > 0.9


def test_a_large_picture_takes_no_more_steps_than_a_small_one():
    """Each is a pass of a library over the pixels: nothing is done pixel by pixel in Python."""
    small, large = (
        p.finish(cv2.resize(_busy(), (side, side), interpolation=cv2.INTER_CUBIC))
        for side in (1000, 3000)
    )
    run(small)  # what is imported or made once
    assert _calls(small) > 100
    assert _calls(large) < 1.5 * _calls(small)


def _calls(image):
    count = 0

    def see(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        run(image)
    finally:
        sys.setprofile(before)
    return count


def _busy():
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth)
    p.stroke(image, [(0.1, 0.2), (0.9, 0.8)], "red")
    return image


# -- real thumbnails; their resolution is not recorded, 16 to 40 µm/px by the size of the glass ----


def _real(path, mpp):
    rgb = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    return rgb, run(rgb, mpp)


def _mask(path):
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 128


def test_real_red_pen(shared_data):
    folder = shared_data / "masks"
    _, found = _real(folder / "hqc_pen_red.png", 16)
    ink = _mask(folder / "hqc_pen_red_mask.png")
    # The mask is sparse and misses ink; what it marks must be ink or at least not tissue.
    assert p.recall(found.pen, ink) > 0.75
    assert p.recall(found.tissue, ink) < 0.25
    assert 0.4 < found.tissue.mean() < 0.5


def test_real_pens_in_three_colours(shared_data):
    folder = shared_data / "masks"
    rgb = cv2.imread(str(folder / "dhp_combine-pens-background-original.png"))[48:445, 32:568]
    truth = _mask(folder / "dhp_combine-pens-background-mask.png")[48:445, 32:568]
    found = run(np.ascontiguousarray(rgb[..., ::-1]), 40.0)
    # The mask is another program's, with lacunae of fat left open.
    assert p.iou(found.tissue, truth) > 0.75
    assert p.recall(found.tissue, truth) > 0.93
    teal = (rgb[..., 2] < 150) & (rgb[..., 1] > 150)
    assert p.recall(found.pen, teal) > 0.95


def test_real_coverslip_edge(shared_data):
    folder = shared_data / "masks"
    _, found = _real(folder / "hqc_coverslip_he.png", 16)
    assert p.recall(found.tissue, _mask(folder / "hqc_coverslip_he_mask.png")) < 0.2
    assert 0.4 < found.tissue.mean() < 0.65


def test_real_prostate_against_its_mask(shared_data):
    import tifffile

    rgb, found = _real(shared_data / "masks" / "hs2p_slide-visu.jpg", 16)
    with tifffile.TiffFile(shared_data / "slides" / "hs2p_test-mask.tif") as tiff:
        truth = tiff.pages[0].asarray() > 0
    assert truth.shape == rgb.shape[:2]
    assert p.iou(found.tissue, truth) > 0.94


@pytest.mark.parametrize("name", ["dhp_purple-slide.png", "dhp_pink-and-purple-slide.png"])
def test_real_slides_without_pen(shared_data, name):
    _, found = _real(shared_data / "masks" / name, 40)
    assert not found.pen.any()
    assert 0.2 < found.tissue.mean() < 0.6
