"""The synthetic slide: the same however it is cut, and looking like what its map says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.types import Box, Size
from wsiprep.synth import CLASS_NAMES, TISSUE_CLASSES, SyntheticSlide, TissueClass
from wsiprep.synth.he import _block, _painter

# 2.4 x 1.8 mm: every class is there, and there are seams of blocks at 1024.
SMALL = SyntheticSlide(seed=3, size=Size(1536, 1152), mpp=1.6)
WHOLE = Box(0, 0, 1536, 1152)


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return SMALL.render(WHOLE)


def test_same_seed_same_pixels(whole: np.ndarray) -> None:
    _block.cache_clear()
    _painter.cache_clear()
    again = SyntheticSlide(seed=3, size=Size(1536, 1152), mpp=1.6).render(WHOLE)
    assert np.array_equal(whole, again)


def test_another_seed_is_another_slide(whole: np.ndarray) -> None:
    other = SyntheticSlide(seed=4, size=Size(1536, 1152), mpp=1.6)
    assert (other.truth(8) != SMALL.truth(8)).mean() > 0.05
    difference = np.abs(other.render(Box(0, 0, 512, 512)).astype(int) - whole[:512, :512])
    assert difference.mean() > 2


@settings(deadline=None, max_examples=60)
@given(
    x=st.integers(-80, 1600),
    y=st.integers(-80, 1200),
    width=st.integers(1, 700),
    height=st.integers(1, 700),
)
def test_cutting_does_not_matter(x: int, y: int, width: int, height: int) -> None:
    pad = 800
    framed = np.full((1152 + 2 * pad, 1536 + 2 * pad, 3), 255, np.uint8)
    framed[pad:-pad, pad:-pad] = SMALL.render(WHOLE)
    expected = framed[y + pad : y + pad + height, x + pad : x + pad + width]
    assert np.array_equal(SMALL.render(Box(x, y, width, height)), expected)


@pytest.mark.parametrize("pen", ["green", "blue", None])
def test_blocks_join_without_a_seam(pen: str | None) -> None:
    # A block in another place must paint the same there: nothing depends on where a block ends.
    slide = SyntheticSlide(seed=3, size=Size(1536, 1152), mpp=1.6, pen=pen)  # type: ignore[arg-type]
    there = slide.render(WHOLE)
    shifted = _painter(slide).block(512, 320, 640)
    difference = np.abs(shifted.astype(int) - there[320:960, 512:1152])
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02


def test_truth_covers_the_slide_with_every_class() -> None:
    truth = SMALL.truth(8)
    assert truth.shape == (round(1152 * 1.6 / 8), round(1536 * 1.6 / 8))
    assert truth.dtype == np.uint8
    share = np.bincount(truth.ravel(), minlength=len(CLASS_NAMES)) / truth.size
    assert len(share) == len(CLASS_NAMES) == len(TissueClass)
    assert (share > 0.004).all(), dict(zip(CLASS_NAMES, share, strict=True))
    assert 0.3 < share[TissueClass.GLASS] < 0.75


def test_no_pen_no_pen_in_truth() -> None:
    clean = SyntheticSlide(seed=3, size=SMALL.size, mpp=1.6, pen=None)
    assert not (clean.truth(8) == TissueClass.PEN).any()
    pen = SMALL.truth(8) == TissueClass.PEN
    assert np.array_equal(clean.truth(8)[~pen], SMALL.truth(8)[~pen])


def _per_cell(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA).astype(int)


def test_pixels_agree_with_truth(whole: np.ndarray) -> None:
    truth = SMALL.truth(8)
    seen = _per_cell(whole, truth.shape)
    inner = cv2.erode((truth != TissueClass.GLASS).astype(np.uint8), np.ones((9, 9))) > 0
    outer = cv2.dilate((truth != TissueClass.GLASS).astype(np.uint8), np.ones((9, 9))) == 0
    luminance, saturation = seen.mean(axis=2), seen.max(axis=2) - seen.min(axis=2)
    stroma = inner & (truth == TissueClass.STROMA)
    lymph = inner & (truth == TissueClass.LYMPHOCYTES)
    fat = inner & (truth == TissueClass.ADIPOSE)
    pen = inner & (truth == TissueClass.PEN)
    # All glass but for specks of dust.
    assert (luminance[outer] > 225).mean() > 0.997
    assert (saturation[outer] < 12).mean() > 0.997
    assert luminance[stroma].mean() < luminance[outer].mean() - 45
    assert saturation[stroma].mean() > 40
    assert luminance[lymph].mean() < luminance[stroma].mean() - 10
    assert luminance[stroma].mean() + 20 < luminance[fat].mean() < luminance[outer].mean() - 3
    red, green, blue = np.moveaxis(seen, -1, 0)
    assert (red[stroma] > green[stroma] + 15).mean() > 0.9
    assert (blue[stroma] > green[stroma]).mean() > 0.9
    assert (green[pen] > red[pen]).mean() > 0.9
    # Nearly every tissue cell that is not hollow differs from glass.
    solid = inner & np.isin(truth, [c for c in TISSUE_CLASSES if c != TissueClass.ADIPOSE])
    assert (saturation[solid] > 16).mean() > 0.85


def test_strength_makes_a_faint_slide(whole: np.ndarray) -> None:
    faint = SyntheticSlide(seed=3, size=SMALL.size, mpp=1.6, strength=0.3).render(WHOLE)
    solid = whole.min(axis=2) < 170
    assert faint[solid].mean() > whole[solid].mean() + 20


def test_default_slide_suits_a_demo() -> None:
    slide = SyntheticSlide()
    truth = slide.truth(128)  # a cell is a patch of 256 px at 0.5 µm
    assert truth.shape == (30, 40)
    tissue = np.isin(SyntheticSlide().truth(8), TISSUE_CLASSES)
    patches = tissue.reshape(30, 16, 40, 16).mean(axis=(1, 3))
    assert 450 <= (patches >= 0.5).sum() <= 750


@pytest.mark.parametrize("bad", [{"mpp": 0.0}, {"mpp": 9.0}, {"strength": 0.0}])
def test_bad_specs_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SyntheticSlide(**bad)  # type: ignore[arg-type]
