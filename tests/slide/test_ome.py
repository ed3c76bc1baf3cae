"""OME-TIFF: the scale in its XML, through both readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsiprep.core.errors import MissingMppError, SlideOpenError
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.ome import channels_apart, ome_mpp


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.26"', (0.25, 0.26)),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.00025"', (0.25, 0.00025)),
        ('PhysicalSizeX="0.0005" PhysicalSizeXUnit="mm"', (0.5, None)),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"', (None, None)),
        ('PhysicalSizeX="many"', (None, None)),
        ("", (None, None)),
    ],
)
def test_attributes_and_units(attributes, expected):
    text = f'<?xml version="1.0"?><OME><Image><Pixels ID="P" {attributes} SizeX="9"/></Image></OME>'
    assert ome_mpp(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", [None, "", "Aperio Image Library|MPP = 0.5", "<OME>", 7])
def test_what_is_no_ome_says_nothing(text):
    assert ome_mpp(text) == (None, None)


def test_entities_are_not_expanded():
    bomb = (
        '<!DOCTYPE x [<!ENTITY a "1"><!ENTITY b "&a;&a;">]><OME><Pixels PhysicalSizeX="&b;"/></OME>'
    )
    assert ome_mpp(bomb) == (None, None)


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide"])
@pytest.mark.parametrize("said", [True, False])
def test_an_ome_tiff_opens(tmp_path: Path, reader: str, said: bool):
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} if said else {}
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        file.write(pixels, subifds=1, metadata={"axes": "YXS", **sizes}, **options)
        file.write(pixels[::2, ::2], subfiletype=1, **options)
    if not said:
        with pytest.raises(MissingMppError, match="OME PhysicalSizeX"):
            open_slide(path, SlideConfig(reader=reader))
        return
    with open_slide(path, SlideConfig(reader=reader)) as slide:
        assert slide.info.mpp == 0.5
        assert slide.info.mpp_source == "metadata"
        np.testing.assert_array_equal(
            slide.read(Point(100, 50), 0, Size(300, 200)), pixels[50:250, 100:400]
        )


def _pyramid(path: Path, pixels: np.ndarray, axes: str, **how: object) -> Path:
    """An OME-TIFF of two levels, the lesser in a SubIFD."""
    said = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    half = pixels[..., ::2, ::2] if axes != "YXS" else pixels[::2, ::2]
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=1, metadata=said, tile=(64, 64), **how)
        file.write(np.ascontiguousarray(half), subfiletype=1, tile=(64, 64), **how)
    return path


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "tiffslide"])
def test_channels_that_are_pages_are_not_taken_for_grey(
    tmp_path: Path, reader: str, channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (channels, 200, 300), np.uint8)
    path = _pyramid(tmp_path / "a.ome.tif", pixels, "CYX", photometric="minisblack")
    with pytest.raises(SlideOpenError, match="OME-TIFF") as caught:
        open_slide(path, SlideConfig(reader=reader))
    assert f"of {channels} channels that are pages of their own" in str(caught.value.hint)
    assert "RGB picture (axes YXS)" in str(caught.value.hint)


@pytest.mark.parametrize("reader", ["auto", "image"])
def test_nor_are_those_of_a_flat_file(tmp_path: Path, reader: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(SlideOpenError, match=r"image.*: an OME-TIFF of 3 channels"):
        open_slide(path, SlideConfig(reader=reader, slide_mpp=0.5))


def test_one_channel_is_grey(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300), np.uint8)
    path = _pyramid(tmp_path / "a.ome.tif", pixels, "YX", photometric="minisblack")
    with open_slide(path) as slide:
        got = slide.read(Point(0, 0), 0, Size(300, 200))
    np.testing.assert_array_equal(got, np.dstack([pixels] * 3))


def test_planes_are_read_and_the_lost_levels_told_of(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 300), np.uint8)
    how = {"photometric": "rgb", "planarconfig": "separate"}
    path = _pyramid(tmp_path / "a.ome.tif", pixels, "SYX", **how)
    with open_slide(path) as slide:
        assert "each a plane of its own" in slide.info.reader_reason
        assert slide.info.reader == "openslide"
        (note,) = slide.info.notes
        assert "the other levels of this OME-TIFF are SubIFDs" in note
        got = slide.read(Point(0, 0), 0, Size(300, 200))
    np.testing.assert_array_equal(got, pixels.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("attributes", "samples", "apart"),
    [
        ('SizeC="3"', 3, False),
        ('SizeC="4" SizeZ="1"', 3, True),
        ('SizeC = "3"', 1, True),
        ('SizeC="1"', 1, False),
        ('SizeC="1"', 3, False),
        ('SizeC="many"', 1, False),
        ('NotSizeC="3"', 1, False),
        ("", 1, False),
    ],
)
def test_channels_are_counted(attributes: str, samples: int, apart: bool) -> None:
    text = f'<?xml version="1.0"?><OME><Image><Pixels ID="P" {attributes}/></Image></OME>'
    assert (channels_apart(text, samples) is not None) is apart
    assert channels_apart(text.replace("OME", "OMO"), samples) is None
