"""Slides with a damaged tile where tissue is looked for: they fail, or go on without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.slide.made import overwrite, tile_place
from tests.tasks.runs import run, tree
from wsiprep.core.types import Size
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.synth import SyntheticSlide
from wsiprep.synth.write import write_pyramid
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.estimate import estimate

WIDTH, HEIGHT, TILE = 2048, 1536, 256
LOST = 3 * 8 + 3
"""A tile amid the tissue: third column, third row, from 0."""
OTSU = {"segmenter": "otsu", "min_hole_area": 0.0}


def made(path: Path, downsamples: tuple[int, ...] = (1,)) -> Path:
    slide = SyntheticSlide(seed=3, size=Size(WIDTH, HEIGHT))
    write_pyramid(path, slide.size, slide.mpp, slide.render, downsamples=downsamples)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("sound") / "one.tiff")


@pytest.fixture
def damaged(sound, tmp_path) -> Path:
    """A slide of one level with one tile that cannot be decoded."""
    path = tmp_path / "damaged.tiff"
    path.write_bytes(sound.read_bytes())
    offset, length = tile_place(path, LOST)
    overwrite(path, offset, bytes(length))
    return path


def on_lost(x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Whether squares lie wholly on the lost tile."""
    row, col = divmod(LOST, WIDTH // TILE)
    inside = (x >= col * TILE) & (x + side <= (col + 1) * TILE)
    return inside & (y >= row * TILE) & (y + side <= (row + 1) * TILE)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
@pytest.mark.parametrize("model", [SegmentConfig, PrepareConfig])
def test_a_thumbnail_with_a_damaged_tile_fails_the_slide_or_is_white_there(
    damaged, sound, tmp_path, reader, model
):
    (row,) = run(model, damaged, tmp_path / "a", reader=reader, **OTSU).rows
    assert (row.status, row.error) == ("failed", "SlideReadError")
    assert "--on-bad-tile mask" in row.remedy
    out = tmp_path / "b"
    (row,) = run(model, damaged, out, reader=reader, on_bad_tile="mask", **OTSU).rows
    assert row.status == "ok", row
    assert row.thumbnail_bad_tiles >= 1
    if reader == "tiff":
        assert row.thumbnail_bad_tiles == 1
        assert any("White in the thumbnail: tile 27 of level 0" in note for note in row.notes)
    assert any("White in the overlay" in note for note in row.notes)
    tissue = FeatureStore(row.store).tissue()
    assert tissue.bad_tiles == row.thumbnail_bad_tiles
    assert set(tissue.notes) <= set(row.notes)
    (whole,) = run(model, sound, tmp_path / "c", reader=reader, **OTSU).rows
    there = FeatureStore(whole.store).tissue()
    row_px, col_px = (n * TILE // 16 for n in divmod(LOST, WIDTH // TILE))
    lost = (slice(row_px + 2, row_px + 14), slice(col_px + 2, col_px + 14))
    assert there.mask[lost].all(), "tissue is there, were it not for the damage"
    assert not tissue.mask[lost].any()
    assert (there.bad_tiles, whole.thumbnail_bad_tiles) == (0, 0)
    assert verify_output(out).findings == ()
    if model is PrepareConfig:
        grid = FeatureStore(row.store).grid()
        assert row.patches == row.encoded > 10
        assert not on_lost(*grid.origin0_px.T, 128).any()
        assert on_lost(*FeatureStore(whole.store).grid().origin0_px.T, 128).any()


def test_only_the_level_of_the_thumbnail_is_damaged(tmp_path):
    path = made(tmp_path / "levels.svs", (1, 4))
    with tifffile.TiffFile(path) as tiff:
        page = next(page for page in tiff.pages if page.shape[:2] == (384, 512) and page.is_tiled)
        offset, length = page.dataoffsets[3], page.databytecounts[3]
    overwrite(path, offset, bytes(length))
    (row,) = run(PrepareConfig, path, tmp_path / "a", **OTSU).rows
    assert (row.status, row.error) == ("failed", "SlideReadError")
    (row,) = run(PrepareConfig, path, tmp_path / "b", on_bad_tile="mask", **OTSU).rows
    assert (row.status, row.thumbnail_bad_tiles, row.bad_tiles) == ("ok", 1, 0)
    assert any("tile 3 of level 1" in note for note in row.notes)


def test_stages_one_by_one_are_as_all_at_once(damaged, tmp_path):
    masks = {"on_bad_tile": "mask"}
    run(PrepareConfig, damaged, tmp_path / "a", **masks, **OTSU)
    run(SegmentConfig, damaged, tmp_path / "b", overlay=False, **masks, **OTSU)
    for model in (CoordsConfig, EmbedConfig):
        (row,) = run(model, damaged, tmp_path / "b", **masks).rows
        assert (row.status, row.thumbnail_bad_tiles) == ("ok", 1)
        assert any("White in the thumbnail" in note for note in row.notes)
    assert tree(tmp_path / "a" / "damaged.zarr") == tree(tmp_path / "b" / "damaged.zarr")


def test_what_was_masked_is_kept_and_never_taken_for_the_whole(damaged, tmp_path):
    run(PrepareConfig, damaged, tmp_path, on_bad_tile="mask", **OTSU)
    before = tree(tmp_path / "damaged.zarr")
    (row,) = run(PrepareConfig, damaged, tmp_path, on_bad_tile="mask", **OTSU).rows
    assert (row.status, row.thumbnail_bad_tiles) == ("skipped", 1)
    assert any("White in the thumbnail" in note for note in row.notes)
    (row,) = run(PrepareConfig, damaged, tmp_path, **OTSU).rows
    assert (row.status, row.error) == ("failed", "StoreMismatchError")
    assert "(on_bad_tile 'mask' -> 'fail')" in row.reason
    (row,) = run(SegmentConfig, damaged, tmp_path, on_bad_tile="mask", smooth=8, **OTSU).rows
    assert "(smooth 0.0 -> 8.0)" in row.reason
    assert tree(tmp_path / "damaged.zarr") == before


@pytest.mark.parametrize("policies", [("fail", "mask"), ("mask", "fail")])
def test_of_a_sound_slide_either_policy_takes_what_the_other_made(sound, tmp_path, policies):
    run(PrepareConfig, sound, tmp_path, on_bad_tile=policies[0], **OTSU)
    before = tree(tmp_path / "one.zarr")
    assert b"bad_tiles" not in before["tissue/zarr.json"]
    assert "on_bad_tile" not in json.loads(before["tissue/zarr.json"])["attributes"]
    (row,) = run(PrepareConfig, sound, tmp_path, on_bad_tile=policies[1], **OTSU).rows
    assert (row.status, row.encoded, row.notes) == ("skipped", 0, ())
    assert tree(tmp_path / "one.zarr") == before


def test_a_slide_of_which_nothing_is_left_fails(sound, tmp_path):
    path = tmp_path / "lost.tiff"
    path.write_bytes(sound.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    for offset, length in places:  # their headers stay, by which readers know the file
        overwrite(path, offset + length // 2, bytes(length - length // 2))
    for reader in ("tiff", "openslide"):
        out = tmp_path / reader
        (row,) = run(SegmentConfig, path, out, reader=reader, on_bad_tile="mask", **OTSU).rows
        assert (row.status, row.error) == ("failed", "SlideReadError")
        assert "nothing is left of level 0" in row.reason
        assert "--on-bad-tile" not in row.remedy


def test_each_slide_may_have_its_policy(damaged, sound, tmp_path):
    manifest = tmp_path / "slides.csv"
    manifest.write_text(
        f"path,slide_id,on_bad_tile\n{damaged},a,fail\n{damaged},b,mask\n{sound},c,\n"
    )
    report = run(SegmentConfig, (), tmp_path / "o", manifest=manifest, overlay=False, **OTSU)
    assert [row.status for row in report.rows] == ["failed", "ok", "ok"]
    assert [row.thumbnail_bad_tiles for row in report.rows] == [0, 1, 0]


def test_a_given_mask_is_taken_whole_and_the_picture_is_white(damaged, tmp_path):
    import cv2

    given = tmp_path / "given.png"
    cv2.imwrite(str(given), np.full((96, 128), 255, np.uint8))
    (row,) = run(SegmentConfig, damaged, tmp_path / "a", mask=given).rows
    assert row.error == "SlideReadError"
    (row,) = run(SegmentConfig, damaged, tmp_path / "b", mask=given, on_bad_tile="mask").rows
    assert (row.status, row.thumbnail_bad_tiles) == ("ok", 1)
    assert FeatureStore(row.store).tissue().mask.all()


def test_a_dry_run_says_it_too(damaged, tmp_path):
    def of(policy: str):
        told = []
        cfg = SegmentConfig.of(
            slides=(str(damaged),), output=tmp_path / "o", on_bad_tile=policy, **OTSU
        )
        (row,) = estimate(cfg, told.append).slides
        return row, [event.text for event in told if event.kind == "note"]

    row, notes = of("fail")
    assert "--on-bad-tile mask" in row.remedy
    assert notes == []
    row, notes = of("mask")
    assert row.error == ""
    assert row.tissue_mm2 > 0
    assert any("White in the thumbnail" in note for note in notes)
