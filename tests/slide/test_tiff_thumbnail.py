"""Thumbnails from stored tiles, and tiles decoded smaller."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.slide.made import exact_average, overwrite, smooth, tile_place, write_tiff
from tests.slide.made_tiff import MPP, opened
from wsiprep.core.contracts import ShrinkingSlide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide.readers import _tiled
from wsiprep.slide.readers._jpeg import JpegCodec


class TestThumbnail:
    @pytest.fixture
    def jpeg(self, tmp_path: Path) -> Path:
        """One level of 1024 x 960 px, without sharp edges, as JPEG."""
        return write_tiff(tmp_path / "one.tif", smooth(960, 1024), compression="jpeg", tile=64)

    @pytest.mark.parametrize(
        ("factor", "most", "mean"),
        [(16.0, 3, 0.5), (17.0, 6, 1), (23.7, 6, 1), (40.0, 7, 1.5), (100.0, 9, 2)],
    )
    def test_shrunk_tiles_average_to_about_the_same(
        self, jpeg: Path, factor: float, most: float, mean: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shrunk: list[int] = []
        honest = JpegCodec.decode_shrunk

        def spy(self: JpegCodec, data: bytes, out: NDArray[np.uint8]) -> None:
            shrunk.append(1)
            honest(self, data, out)

        monkeypatch.setattr(JpegCodec, "decode_shrunk", spy)
        with opened(jpeg) as slide:
            got = slide.thumbnail(MPP * factor).astype(float)
            level0 = slide.read(Point(0, 0), 0, slide.info.size0)
        # The borders of pixels move as `area_average` says where the factor is no multiple.
        difference = np.abs(got - exact_average(level0, got.shape[1], got.shape[0]))
        assert difference.max() <= most
        assert difference.mean() <= mean
        assert len(shrunk) >= 15 * 16

    def test_finer_ones_are_exact(self, jpeg: Path) -> None:
        with opened(jpeg) as slide, opened(jpeg, "openslide") as whole:
            for factor in (1.0, 2.0, 3.3, 15.0):
                assert np.array_equal(
                    slide.thumbnail(MPP * factor), whole.thumbnail(MPP * factor)
                ), factor

    def test_it_does_not_depend_on_threads_or_blocks(
        self, jpeg: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(jpeg) as slide:
            wanted = [slide.thumbnail(MPP * factor) for factor in (4.0, 7.0, 20.0)]
            for threads, block in ((1, 2048), (5, 128), (3, 200)):
                monkeypatch.setattr(_tiled, "available_cores", lambda n=threads: n)
                monkeypatch.setattr("wsiprep.slide.readers._thumbnail.BLOCK_PX", block)
                for factor, picture in zip((4.0, 7.0, 20.0), wanted, strict=True):
                    assert np.array_equal(slide.thumbnail(MPP * factor), picture)

    @pytest.mark.parametrize("factor", [4.0, 20.0])
    def test_a_broken_tile_is_an_error_and_no_thread_stays(self, jpeg: Path, factor: float) -> None:
        overwrite(jpeg, tile_place(jpeg, 100)[0], bytes(2))
        with opened(jpeg) as slide, pytest.raises(SlideReadError, match="tile 100 of level 0"):
            slide.thumbnail(MPP * factor)
        assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-thumbnail")]

    @pytest.mark.parametrize("factor", [4.0, 20.0])
    def test_a_broken_tile_is_white_and_told_where_that_is_asked(
        self, jpeg: Path, factor: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(jpeg) as slide:
            sound = slide.thumbnail(MPP * factor)
        overwrite(jpeg, tile_place(jpeg, 100)[0], bytes(2))  # row 6, column 4 of 64 px
        for block in (2048, 200):  # tiles whole and cut
            monkeypatch.setattr("wsiprep.slide.readers._thumbnail.BLOCK_PX", block)
            bad: set[str] = set()
            with opened(jpeg) as slide:
                got = slide.thumbnail(MPP * factor, bad)
            (told,) = bad
            assert told.startswith("tile 100 of level 0, at level-0 origin (256, 384)")
            x, y, side = round(256 / factor), round(384 / factor), round(64 / factor)
            assert (got[y + 1 : y + side - 1, x + 1 : x + side - 1] == 255).all()
            changed = np.argwhere((got != sound).any(axis=2))
            assert (changed >= (y - 1, x - 1)).all()
            assert (changed <= (y + side + 1, x + side + 1)).all()

    def test_an_absent_tile_is_white(self, jpeg: Path) -> None:
        with tifffile.TiffFile(jpeg, mode="r+b") as tiff:
            page: Any = tiff.pages.first
            for name in ("TileOffsets", "TileByteCounts"):
                values = list(page.tags[name].value)
                values[17] = 0
                page.tags[name].overwrite(values)
        with opened(jpeg) as slide:
            assert (slide.thumbnail(MPP * 16)[4:8, 4:8] == 255).all()

    def test_shrunk_thumbnails_are_not_stretched(self, tmp_path: Path) -> None:
        image = np.full((327, 327, 3), 240, np.uint8)
        image[300:], image[:, 300:] = 10, 10
        path = write_tiff(tmp_path / "a.tif", image, compression="jpeg", tile=64)
        with opened(path) as slide:
            got = slide.thumbnail(MPP * 327 / 20).astype(float)
        wanted = exact_average(image, 20, 20)
        assert np.abs(got - wanted).max() < 12


class TestShrunk:
    def test_tiles_decoded_smaller_are_near_the_mean(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(512, 512), compression="jpeg", tile=128)
        with opened(path) as slide:
            assert isinstance(slide, ShrinkingSlide)
            assert slide.shrinks(0)
            data, whole = slide.fetch_tile(0, 5), slide.read(Point(128, 128), 0, Size(128, 128))
            for factor in (2, 4, 8):
                side = 128 // factor
                out = np.empty((side, side, 3), np.uint8)
                slide.decode_shrunk(0, 5, data, out)
                mean = whole.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
                assert np.abs(out - mean).max() < 4
            with pytest.raises(SlideReadError, match="tile 5 of level 0"):
                slide.decode_shrunk(0, 5, data[:100], out)
            slide.decode_shrunk(0, 5, b"", out)
            assert (out == 255).all()

    def test_other_codecs_do_not_shrink(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(), compression="deflate")
        with opened(path) as slide:
            assert isinstance(slide, ShrinkingSlide)
            assert not slide.shrinks(0)
            with pytest.raises(SlideReadError, match="not decoded smaller"):
                slide.decode_shrunk(0, 0, b"x", np.empty((16, 16, 3), np.uint8))
