from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.slide.made import smooth
from wsiprep.core.types import Point, Size
from wsiprep.slide import open_slide
from wsiprep.slide.dicom import slide_instances
from wsiprep.slide.dicom_colour import jpeg_is_ycbcr, levels_mislabelled_rgb


def adobe(transform: int) -> bytes:
    return bytes.fromhex("ffee000e41646f6265006400000000") + bytes([transform])


def without_app(data: bytes) -> bytes:
    """The stream without the JFIF and Adobe markers that the encoder writes."""
    at = 2
    while data[at + 1] in (0xE0, 0xEE):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return b"\xff\xd8" + data[at:]


def encode(colour: str, subsampling: str = "444") -> bytes:
    return imagecodecs.jpeg8_encode(
        smooth(), colorspace="RGB", outcolorspace=colour, subsampling=subsampling
    )


def test_markers_decide() -> None:
    bare = without_app(encode("YCBCR"))
    assert jpeg_is_ycbcr(encode("YCBCR"))  # JFIF
    assert not jpeg_is_ycbcr(bare)
    assert jpeg_is_ycbcr(bare[:2] + adobe(1) + bare[2:])
    assert not jpeg_is_ycbcr(bare[:2] + adobe(0) + bare[2:])
    assert not jpeg_is_ycbcr(encode("RGB"))


def test_subsampled_chroma_decides_where_markers_lack() -> None:
    assert jpeg_is_ycbcr(without_app(encode("YCBCR", "420")))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", bytes(50)])
def test_what_is_no_jpeg_is_not(data: bytes) -> None:
    assert not jpeg_is_ycbcr(data)


def test_grey_is_not() -> None:
    assert not jpeg_is_ycbcr(imagecodecs.jpeg8_encode(smooth()[..., 0].copy()))


def test_real_files(shared_data: Path) -> None:
    slides = shared_data / "slides"
    levels = levels_mislabelled_rgb(slide_instances(slides / "dicom_cmu1"))
    assert len(levels) == 12
    assert (2220, 2967) in levels
    honest = [slides / "osp_boxes_0.dcm", slides / "osp_boxes_1.dcm",
              slides / "highdicom_sm_image.dcm"]  # fmt: skip
    assert levels_mislabelled_rgb(honest) == frozenset()


def test_the_glass_of_a_mislabelled_slide_is_white_at_every_level(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "dicom_cmu1") as slide:
        for level in range(5):
            corner = slide.read(Point(2100, 0), level, Size(6, 6))
            assert np.abs(corner.astype(int) - 243).max() < 10, level
