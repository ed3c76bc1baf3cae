"""Stored tiles as JPEG files of their own: any decoder gives the pixels that the reader gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from tests.slide.made import smooth, write_tiff
from tests.slide.made_dicom import J2K_LOSSLESS, jpeg, jpeg2000, write_series
from tests.slide.made_ndpi import pages_of, write_ndpi
from tests.slide.made_tiff import jpeg_tiff
from tests.slide.test_ndpi import noisy
from wsiprep.core.contracts import JpegSlide
from wsiprep.core.errors import SlideReadError
from wsiprep.slide import open_slide


def made(kind: str, folder: Path) -> Path:
    match kind.split():
        case ["tiff", subsampling, space]:
            return jpeg_tiff(folder / "a.tif", subsampling, space=space)
        case ["ndpi", subsampling]:
            return write_ndpi(folder / "a.ndpi", pages_of(noisy(), subsampling, 4))
        case ["dicom", colours]:
            return write_series(folder / "case", noisy(), **DICOM[colours])
    raise KeyError(kind)


DICOM: dict[str, dict[str, Any]] = {
    "ybr": {},
    "rgb": {"encode": jpeg("444", "RGB"), "photometric": "RGB"},
}
WAVELETS: dict[str, Any] = {
    "encode": jpeg2000(mct=False), "syntax": J2K_LOSSLESS, "photometric": "RGB",
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "tiff 444 YCBCR",
        "tiff 420 YCBCR",
        "tiff 444 RGB",
        "ndpi 422",
        "ndpi 444",
        "dicom ybr",
        "dicom rgb",
    ],
)
def test_tiles_stand_alone(kind: str, tmp_path: Path) -> None:
    with open_slide(made(kind, tmp_path)) as slide:
        assert isinstance(slide, JpegSlide)
        assert slide.info.reader == kind.split()[0]
        for level in range(len(slide.info.level_sizes)):
            assert slide.stores_jpeg(level)
            tiling = slide.tiling(level)
            wanted = np.empty((tiling.tile.height, tiling.tile.width, 3), np.uint8)
            for tile in {0, tiling.shape[0] * tiling.shape[1] - 1}:
                data = slide.fetch_tile(level, tile)
                slide.decode_tile(level, tile, data, wanted)
                jpeg = slide.jpeg_tile(level, tile, data)
                np.testing.assert_array_equal(simplejpeg.decode_jpeg(jpeg, "RGB"), wanted)


def test_levels_that_are_not_jpeg_or_whose_tiles_blend_say_so(tmp_path: Path) -> None:
    plain = write_tiff(tmp_path / "a.tif", smooth())
    blending = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy(), "420", 4, shrinks=[1]))
    wavelets = write_series(tmp_path / "case", noisy(), **WAVELETS)
    for path in (plain, blending, wavelets):
        with open_slide(path) as slide:
            assert isinstance(slide, JpegSlide), path
            assert not slide.stores_jpeg(0)


def test_bytes_that_are_no_jpeg_are_an_error_that_names_the_tile(tmp_path: Path) -> None:
    with open_slide(jpeg_tiff(tmp_path / "a.tif", "444")) as slide:
        assert isinstance(slide, JpegSlide)
        with pytest.raises(SlideReadError, match=r"tile 3 of level 0, .* begin as a JPEG"):
            slide.jpeg_tile(0, 3, b"nothing of the kind")
