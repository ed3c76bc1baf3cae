"""Sharpness of patches: monotone in blur, whatever the stain; measured where patches lie."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from tests.fakes import ArraySlide, make_info
from wsiprep.core.types import Box, Point, Size, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.open import open_slide
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import CoordsConfig, SegmentConfig
from wsiprep.tasks.focus import RECOMMENDED, focus_of, measure_focus
from wsiprep.tasks.prepare import prepare

SIGMAS_UM = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@pytest.fixture(scope="module")
def tissue(small_slide):
    """uint8 (1024, 1024, 3) at 0.5 µm/px, tissue of the synthetic slide."""
    with open_slide(small_slide, SlideConfig()) as slide:
        return slide.read(Point(512, 256), 0, Size(1024, 1024))


def blur(pixels, sigma_um, mpp=0.5, jpeg=85):
    """Out of focus, then through JPEG as scanners write it."""
    soft = cv2.GaussianBlur(pixels, (0, 0), sigma_um / mpp) if sigma_um else pixels
    data = cv2.imencode(".jpg", soft[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def stronger(pixels, times):
    """The same tissue with another amount of dye (Beer and Lambert)."""
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    return np.clip(256 * np.exp(-times * density) - 1, 0, 255).round().astype(np.uint8)


def scores(pixels, mpp=0.5, **how):
    """Of all 128 µm patches."""
    info = make_info(mpp=mpp, size0=pixels.shape[1::-1])
    mask = np.ones((4, 4), bool)
    whole = TissueMask(mask, np.zeros_like(mask), 128.0, info.size0, "all")
    side = round(128 / mpp)
    grid = make_grid(info, whole, GridConfig(mpp=mpp, patch_size=side))
    return measure_focus(ArraySlide(pixels, info, **how), grid, workers=1)


def test_blur_lowers_it_and_the_threshold_parts(tissue):
    medians = [float(np.nanmedian(scores(blur(tissue, s)))) for s in SIGMAS_UM]
    assert all(b < a for a, b in pairwise(medians)), medians
    assert medians[0] > 2 * RECOMMENDED
    sharp, soft = scores(blur(tissue, 0.0)), scores(blur(tissue, 3.0))
    judged = np.isfinite(sharp)
    assert judged.mean() > 0.8, "the rest is glass"
    assert (sharp[judged] > RECOMMENDED).all()
    assert (soft[judged] < RECOMMENDED).all()


@pytest.mark.parametrize("sigma_um", [0.0, 1.0, 2.0])
def test_the_strength_of_the_stain_does_not_matter(tissue, sigma_um):
    usual = np.nanmedian(scores(blur(tissue, sigma_um)))
    for times in (0.5, 1.5):
        other = np.nanmedian(scores(blur(stronger(tissue, times), sigma_um)))
        assert other == pytest.approx(usual, rel=0.15)


def test_the_resolution_of_the_slide_hardly_matters(tissue):
    fine = cv2.resize(tissue, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    coarse = cv2.resize(tissue, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    usual = np.nanmedian(scores(tissue))
    assert np.nanmedian(scores(fine, 0.25)) == pytest.approx(usual, rel=0.1)
    assert np.nanmedian(scores(coarse, 1.0)) == pytest.approx(usual, rel=0.1)


def test_glass_is_not_judged_and_plain_colour_is_not_sharp():
    rng = np.random.default_rng(0)
    for level in (255, 243):
        glass = np.clip(level + rng.normal(0, 1.5, (64, 64, 3)), 0, 255).astype(np.uint8)
        assert np.isnan(focus_of(glass, 2.0))
    plain = np.clip(180 + rng.normal(0, 0.7, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert focus_of(plain, 2.0) < RECOMMENDED


def test_small_patches_and_those_that_cannot_be_read(tissue):
    info = make_info(mpp=0.5, size0=(1024, 1024))
    mask = np.ones((4, 4), bool)
    whole = TissueMask(mask, np.zeros_like(mask), 128.0, info.size0, "all")
    small = make_grid(info, whole, GridConfig(mpp=0.5, patch_size=32, stride=128))
    found = measure_focus(ArraySlide(tissue, info), small, workers=1)
    judged = np.isfinite(found)
    assert judged.mean() > 0.8
    assert (found[judged] > RECOMMENDED).mean() > 0.9
    broken = scores(tissue, broken=(Box(300, 10, 5, 5),))
    assert np.isnan(broken[1])
    np.testing.assert_array_equal(np.delete(broken, 1), np.delete(scores(tissue), 1))
    none = replace(small, plan=small.plan).only(np.zeros(len(small), bool))
    assert measure_focus(ArraySlide(tissue, info), none, workers=1).shape == (0,)


def test_a_run_drops_what_is_blurred(tissue, tmp_path):
    half = tissue.copy()
    half[:, 512:] = blur(tissue, 6.0)[:, 512:]
    slide = tmp_path / "half.png"
    cv2.imwrite(str(slide), half[..., ::-1])
    out = tmp_path / "o"
    common = {"slides": (str(slide),), "slide_mpp": 0.5, "output": out}
    assert prepare(SegmentConfig.of(**common)).exit_code == 0

    def grid(**more):
        seen = []
        report = prepare(CoordsConfig.of(**common, overlay=False, **more), seen.append)
        assert report.exit_code == 0, report.rows[0].reason
        return FeatureStore(out / "half.zarr").grid(), [e.text for e in seen if e.kind == "stage"]

    plain, stages = grid()
    assert np.isnan(plain.focus).all()
    assert stages == ["patches"]
    measured, stages = grid(focus=True, overwrite=True)
    assert len(measured) == len(plain)
    assert np.isfinite(measured.focus).all()
    assert stages == ["patches", "focus"]
    sharp, _ = grid(min_focus=RECOMMENDED, overwrite=True)
    assert 0 < len(sharp) < len(plain)
    assert (sharp.focus >= RECOMMENDED).all()
    assert (sharp.origin0_px[:, 0] < 512).all()
    again, stages = grid(min_focus=RECOMMENDED)
    assert stages == []
    np.testing.assert_array_equal(again.focus, sharp.focus)


def test_slides_that_are_too_coarse_have_no_focus_and_lose_nothing(tissue, tmp_path):
    assert np.isfinite(scores(tissue, 1.05)).any(), "a scan that calls itself 10x"
    assert np.isnan(scores(tissue, 1.2)).all()
    names = []
    for name in ("coarse", "other"):
        names.append(str(tmp_path / f"{name}.png"))
        picture = cv2.resize(tissue, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        cv2.imwrite(names[-1], picture[..., ::-1])
    seen = []
    common = {"slides": tuple(names), "slide_mpp": 4.0, "output": tmp_path / "o", "mpp": 4.0}
    prepare(SegmentConfig.of(**{k: v for k, v in common.items() if k != "mpp"}))
    report = prepare(
        CoordsConfig.of(**common, patch_size=64, min_focus=RECOMMENDED, overlay=False), seen.append
    )
    assert [row.status for row in report.rows] == ["ok", "ok"]
    assert all(row.patches for row in report.rows)
    assert all("focus is not measured at 4 µm/px" in row.notes[-1] for row in report.rows)
    told = [e.text for e in seen if e.kind == "note" and "--min-focus" in e.text]
    assert len(told) == 1, "once for all slides"
    assert np.isnan(FeatureStore(tmp_path / "o" / "coarse.zarr").grid().focus).all()


def test_a_slide_that_lost_all_patches_says_to_what(tissue, tmp_path):
    slide = tmp_path / "soft.png"
    cv2.imwrite(str(slide), blur(tissue, 8.0)[..., ::-1])
    common = {"slides": (str(slide),), "slide_mpp": 0.5, "output": tmp_path / "o"}
    prepare(SegmentConfig.of(**common))
    plain = prepare(CoordsConfig.of(**common, overlay=False, patch_size=512))
    config = CoordsConfig.of(**common, overlay=False, min_focus=0.6)
    for again in ("", " (recorded by an earlier run)"):
        report = prepare(config)
        (row,) = report.rows
        assert (row.status, row.patches) == ("empty", 0)
        assert row.blurred > plain.rows[0].patches > 0
        assert row.reason == f"all {row.blurred} patches are out of focus{again}"
        assert "--min-focus" in row.remedy
        assert report.out_of_focus == [row]
        assert report.without_tissue == []


def test_it_is_part_of_what_decides_a_grid():
    plain = GridConfig().canonical()
    assert "focus" not in plain
    assert GridConfig(focus=True).canonical() != plain
    assert (
        GridConfig(min_focus=0.3).canonical() == GridConfig(min_focus=0.3, focus=True).canonical()
    )
    assert GridConfig(min_focus=0.3).canonical() != GridConfig(focus=True).canonical()
