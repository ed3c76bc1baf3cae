"""Damaged and hostile tiles: an error that names the tile, never pixels."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile

from tests.slide.made import overwrite, tile_place, write_tiff
from tests.slide.made_tiff import jpeg_tiff, noise, opened
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide.readers._tiff_codec import PlainCodec


class TestDamage:
    @pytest.fixture
    def jpeg(self, tmp_path: Path) -> Path:
        return jpeg_tiff(tmp_path / "hurt.tif", "420")

    def test_what_libjpeg_complains_about_is_an_error(self, jpeg: Path) -> None:
        """As it is to OpenSlide. Other decoders go on with made-up pixels."""
        offset, length = tile_place(jpeg, 8)
        overwrite(jpeg, offset + length // 2, b"\xff\xd9")
        for reader, says in (("tiff", r"tile 8 .*premature"), ("openslide", "premature")):
            with opened(jpeg, reader) as slide, pytest.raises(SlideReadError, match=says):
                slide.read(Point(128, 64), 0, Size(64, 64))

    @pytest.mark.parametrize("compression", ["jpeg", "deflate"])
    @pytest.mark.parametrize("bad", [1, 4, 29, 30])
    def test_bad_tiles_come_to_light_where_they_are_read(
        self, tmp_path: Path, compression: str, bad: int
    ) -> None:
        """The level is refused where all are bad: then it is of a kind that is not read."""
        path = tmp_path / "first.tif"
        if compression == "jpeg":
            jpeg_tiff(path, "420", levels=1)
        else:
            write_tiff(path, noise(), tile=64)
        for tile in range(bad):
            offset, length = tile_place(path, tile)
            overwrite(path, offset, bytes(length))
        if bad == 30:
            with pytest.raises(SlideOpenError, match="not decoded here"):
                opened(path)
            return
        with opened(path) as slide:
            with pytest.raises(SlideReadError, match=rf"tile {bad - 1} of level 0"):
                slide.read(Point((bad - 1) % 6 * 64, (bad - 1) // 6 * 64), 0, Size(10, 10))
            assert np.ptp(slide.read(Point(5 * 64, 4 * 64), 0, Size(10, 40))) > 0

    def test_bytes_between_the_scan_and_its_end_do_no_harm(self, tmp_path: Path) -> None:
        tile = imagecodecs.jpeg8_encode(noise(64, 64), level=90, outcolorspace="YCBCR")
        path = tmp_path / "padded.tif"
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                iter([tile[:-2] + bytes(8) + tile[-2:]]), shape=(64, 64, 3), dtype=np.uint8,
                tile=(64, 64), compression="jpeg", photometric="ycbcr", subsampling=(1, 1),
                metadata=None, resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
            )  # fmt: skip
        with opened(path) as slide:
            pixels = slide.read(Point(0, 0), 0, Size(64, 64))
            assert np.array_equal(pixels, simplejpeg.decode_jpeg(tile))

    def test_a_file_that_shrinks_while_it_is_open(self, jpeg: Path) -> None:
        offset, length = tile_place(jpeg, 29)
        with opened(jpeg) as slide:
            with jpeg.open("r+b") as file:
                file.truncate(offset + length // 2)
            with pytest.raises(SlideReadError, match=r"tile 29 .*beyond the end of the file"):
                slide.read(Point(325, 295), 0, Size(4, 4))
            slide.read(Point(0, 0), 0, Size(4, 4))

    def test_a_tile_of_another_size(self, jpeg: Path) -> None:
        offset, length = tile_place(jpeg, 9)
        small = imagecodecs.jpeg8_encode(noise(32, 64), level=10, subsampling="420")
        assert len(small) < length
        overwrite(jpeg, offset, bytes(small))
        with opened(jpeg) as slide, pytest.raises(SlideReadError, match="tile 9 of level 0"):
            slide.read(Point(200, 70), 0, Size(4, 4))

    @pytest.mark.parametrize("size", [64 * 64 * 3 - 1, 64 * 64 * 3 + 1, 1 << 26])
    def test_a_tile_that_unpacks_to_more_or_less_than_its_pixels(
        self, tmp_path: Path, size: int
    ) -> None:
        path = tmp_path / "bomb.tif"
        tiles = [zlib.compress(bytes(64 * 64 * 3)), zlib.compress(bytes(size))]
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                iter(tiles), shape=(64, 128, 3), dtype=np.uint8, tile=(64, 64), metadata=None,
                compression="adobe_deflate", photometric="rgb",
                resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
            )  # fmt: skip
        with opened(path) as slide:
            assert not slide.read(Point(0, 0), 0, Size(64, 64)).any()
            with pytest.raises(SlideReadError, match="tile 1 of level 0"):
                slide.read(Point(64, 0), 0, Size(64, 64))

    def test_a_webp_bomb_is_not_unpacked(self, tmp_path: Path, monkeypatch: Any) -> None:
        bomb = imagecodecs.webp_encode(np.zeros((1024, 1024, 3), np.uint8), lossless=True)
        codec = PlainCodec(50001)
        monkeypatch.setattr(imagecodecs, "webp_decode", lambda data: pytest.fail("unpacked"))
        for data in (bomb, imagecodecs.webp_encode(noise(32, 32), level=80), b"RIFF"):
            with pytest.raises(ValueError, match="no WebP picture of 64 x 64 px"):
                codec.decode(data, np.empty((64, 64, 3), np.uint8))
