"""Each preset does on a picture what it is for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.tissue import pictures as p
from tests.tissue.slides import FakeSlide
from wsiprep.core.config import override
from wsiprep.core.errors import ConfigError
from wsiprep.grid import GridConfig, make_grid
from wsiprep.tasks.config import PrepareConfig, SegmentConfig
from wsiprep.tasks.setting_notes import preset_notes
from wsiprep.tissue import TissueConfig, detect_tissue
from wsiprep.tissue.presets import PATCH_PRESETS, PRESETS
from wsiprep.tissue.sections import find_sections

MPP = 4.0


def slide(*discs_mm, side_mm=6.0, mpp=MPP):
    """Round pieces of tissue (x, y, diameter, all mm) on glass."""
    side = round(side_mm * 1000 / mpp)
    image = p.glass(side, side)
    where = np.zeros((side, side), np.uint8)
    for x, y, diameter in discs_mm:
        place = (round(x * 1000 / mpp), round(y * 1000 / mpp))
        cv2.circle(where, place, max(1, round(diameter * 500 / mpp)), 1, -1)
    p.stain(image, where > 0)
    return FakeSlide(p.finish(image), mpp=mpp)


def found(picture, preset, **given):
    return detect_tissue(picture, TissueConfig(preset=preset, **given)).mask


def at(mask, x_mm, y_mm):
    return bool(mask.mask[round(y_mm * 1000 / mask.mpp), round(x_mm * 1000 / mask.mpp)])


def test_biopsies_keep_crumbs():
    picture = slide((2, 2, 1.0), (4.5, 4.5, 0.18))
    assert not at(found(picture, None), 4.5, 4.5)
    assert at(found(picture, "biopsy"), 4.5, 4.5)


def test_resections_drop_what_lies_beside():
    picture = slide((2, 2, 2.0), (4.8, 4.8, 0.5))
    assert at(found(picture, None), 4.8, 4.8)
    mask = found(picture, "resection")
    assert at(mask, 2, 2)
    assert not at(mask, 4.8, 4.8)


def test_cores_of_a_microarray_are_sections():
    rows = [(x, y, 0.6) for y in (1, 2, 3, 4, 5) for x in (1, 2, 3, 4, 5)]
    assert found(slide(*rows), "tma").section.max() == len(rows)


def test_gaps_between_stained_cells_are_filled_for_ihc():
    picture = slide((3, 3, 3.0))
    gap = FakeSlide(picture.pixels.copy(), mpp=MPP)
    cv2.circle(gap.pixels, (750, 750), 25, p.GLASS, -1)  # 0.03 mm2
    assert not at(found(gap, None, segmenter="otsu", segmenter_option=("close_um=0",)), 3, 3)
    assert at(found(gap, "ihc", segmenter="otsu", segmenter_option=("close_um=0",)), 3, 3)


def smear(cells, radius_um, seed=0, side_mm=4.0, mpp=1.0):
    """Lone cells, and which 128 px patches hold most of one."""
    rng = np.random.default_rng(seed)
    side = round(side_mm * 1000 / mpp)
    image = np.full((side, side, 3), 238, np.float32)
    truth = np.zeros((side, side), np.uint8)
    for x, y in rng.normal(side / 2, side / 6, (cells, 2)):
        r = rng.uniform(*radius_um) / mpp
        cv2.circle(image, (int(x), int(y)), int(r), (200, 180, 215), -1, cv2.LINE_AA)
        cv2.circle(image, (int(x), int(y)), int(r / 2), (90, 60, 140), -1, cv2.LINE_AA)
        cv2.circle(truth, (int(x), int(y)), int(r), 1, -1)
    image = cv2.GaussianBlur(image, (0, 0), 1.0) + rng.normal(0, 2, image.shape)
    whole = side // 128
    held = truth[: whole * 128, : whole * 128].reshape(whole, 128, whole, 128).sum((1, 3)) > 60
    return FakeSlide(np.clip(image, 0, 255).astype(np.uint8), mpp=mpp), held


@pytest.mark.parametrize(("cells", "radius_um"), [(600, (6, 12)), (300, (6, 9)), (150, (10, 20))])
def test_patches_of_cytology_hold_the_cells_and_little_else(cells, radius_um):
    picture, held = smear(cells, radius_um)
    mask = found(picture, "cytology")
    cfg = GridConfig(mpp=1.0, patch_size=128, **PATCH_PRESETS["cytology"])
    grid = make_grid(picture.info, mask, cfg)
    kept = np.zeros(grid.shape, bool)
    kept[grid.cell[:, 0], grid.cell[:, 1]] = True
    kept = kept[: held.shape[0], : held.shape[1]]
    assert (kept & held).sum() >= 0.98 * held.sum()
    assert (kept & ~held).sum() <= 0.1 * held.sum()
    assert mask.section.max() == 1


def test_glass_without_cells_is_empty_for_cytology():
    assert found(smear(0, (6, 9))[0], "cytology").empty


def test_a_preset_reaches_the_patches_unless_told_otherwise():
    def run(**given):
        return PrepareConfig.model_validate(
            {"inputs": {}, "slide": {}, "run": {"output": "o"}, "encoding": {"encoder": ("lite0",)},
             "tissue": {"preset": given.pop("preset", None)}, "patches": given}
        )  # fmt: skip

    def patches(**given):
        cfg = run(**given)
        assert cfg.canonical()["patches"]["min_tissue"] == cfg.patches.min_tissue  # as recorded
        return cfg.patches

    assert patches(preset="cytology").min_tissue == 0.01
    assert patches(preset="cytology", min_tissue=0.2).min_tissue == 0.2
    assert patches(preset="cytology", min_tissue=0.5).min_tissue == 0.5
    assert patches(preset="tma") == patches() == GridConfig()
    cells = run(preset="cytology")
    assert override(cells, {"preset": "tma"}, "a row").patches == GridConfig()
    assert override(run(), {"preset": "cytology"}, "a row").patches.min_tissue == 0.01
    told = preset_notes([cells, run(preset="cytology", min_tissue=0.3), run()])
    assert [note for note in told if note.startswith("For its patches")] == [
        "For its patches: --min-tissue 0.01."
    ]
    alone = SegmentConfig.model_validate(
        {"inputs": {}, "slide": {}, "run": {"output": "o"}, "tissue": {"preset": "cytology"}}
    )
    assert "coords" in preset_notes([alone])[-1]


def test_options_of_a_presets_segmenter_go_with_it_alone():
    cfg = TissueConfig(preset="cytology")
    assert (cfg.segmenter, cfg.segmenter_option) == ("otsu", ("thin_um=4", "close_um=20"))
    other = TissueConfig(preset="cytology", segmenter="net")
    assert (other.segmenter, other.segmenter_option) == ("net", ())
    assert "thin_um" not in other.preset_note()
    detect_tissue(slide((2, 2, 1.0)), other)  # whose options would be refused
    with pytest.raises(ConfigError, match="thin_um"):
        detect_tissue(slide(), TissueConfig(segmenter="net", segmenter_option=("thin_um=4",)))


def cores(count, apart_um, torn_um=0.0, shift_um=0.0):
    """bool (h, w) at the preset's µm/px: needle cores of 0.7 x 10 mm, each torn in two places."""
    mpp = PRESETS["biopsy"]["tissue_mpp"]

    def px(um):
        return round(um / mpp)

    mask = np.zeros((px(2000 + shift_um + count * (700 + apart_um)), px(12_000)), bool)
    for core in range(count):
        top = px(1000 + shift_um + core * (700 + apart_um))
        mask[top : top + px(700), px(1000) : px(11_000)] = True
        for left in (4000.0, 7200.0):
            mask[top : top + px(700), px(left) : px(left + torn_um)] = False
    return mask


@pytest.mark.parametrize("shift_um", [0.0, 12.0, 28.0])
@pytest.mark.parametrize(
    ("count", "apart_um", "torn_um"),
    [(6, 520, 0), (6, 450, 0), (6, 520, 300), (3, 1500, 300), (1, 0, 300)],
)
def test_biopsy_parts_parallel_cores_and_joins_what_was_one(count, apart_um, torn_um, shift_um):
    cfg = TissueConfig(preset="biopsy")
    mask = cores(count, apart_um, torn_um, shift_um)
    found = find_sections(mask, (cfg.tissue_mpp, cfg.tissue_mpp), gap_um=cfg.section_gap)
    assert found.max() == count
    rows = np.flatnonzero(mask.any(axis=1))
    for row in rows:
        assert len(np.unique(found[row][mask[row]])) == 1, "fragments of a core are one"
