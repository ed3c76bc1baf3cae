"""OME-TIFF: the scale in its XML, through both readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsiprep.core.errors import MissingMppError
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.ome import ome_mpp


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
