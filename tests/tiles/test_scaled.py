"""Patches cut from tiles that the decoder shrinks."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ArraySlide, TiledArraySlide
from tests.tiles.made import setup, single_reads, spans
from wsiprep.core.types import Size
from wsiprep.tiles.scaled import why_not_scaled
from wsiprep.tiles.stream import stream_tiles


class ShrinkingArraySlide(TiledArraySlide):
    """Shrinks its tiles by area, so that patches are those of the exact road."""

    can = True

    def shrinks(self, level):
        return self.can

    def decode_shrunk(self, level, tile, data, out):
        whole = np.empty((self.tile.height, self.tile.width, 3), np.uint8)
        self.decode_tile(level, tile, data, whole)
        out[...] = cv2.resize(whole, out.shape[1::-1], interpolation=cv2.INTER_AREA)

    def reopen(self):
        slide = ShrinkingArraySlide(
            self.pixels, self.info, tile=self.tile, broken=self.broken_tiles
        )
        slide.decoded = self.decoded
        return slide


def shrinking(tile=(64, 64), **how):
    slide, grid = setup(**{"mpp": 0.25, "size": (512, 384), **how})
    return ShrinkingArraySlide(slide.pixels, slide.info, tile=Size(*tile)), grid


@settings(deadline=None, max_examples=40)
@given(
    factor=st.sampled_from([2, 4, 8]),
    patch=st.sampled_from([16, 24, 32]),
    stride=st.sampled_from([8, 16, 32, 40]),
    tile=st.tuples(st.sampled_from([32, 64, 128]), st.sampled_from([16, 64, 256])),
    shift=st.sampled_from([-3, 0, 1, 7]),
    workers=st.integers(1, 3),
)
def test_they_are_the_patches_of_the_decoders_pixels(factor, patch, stride, tile, shift, workers):
    slide, grid = shrinking(
        tile, mpp=0.5 / factor, size=(512, 384), patch_size=patch, stride=stride
    )
    grid = replace(grid, origin0_px=grid.origin0_px + shift * factor)
    assert why_not_scaled(slide, grid) is None
    got = list(stream_tiles(slide.reopen, grid, spans(len(grid), 8), workers=workers, scaled=True))
    np.testing.assert_array_equal(
        np.concatenate([batch.pixels for batch in got]), single_reads(slide, grid)
    )
    assert len(set(slide.decoded)) == len(slide.decoded)


def test_a_last_column_that_is_not_whole_is_white():
    slide, grid = shrinking(size=(511, 384))
    pixels = np.concatenate(
        [b.pixels for b in stream_tiles(slide.reopen, grid, spans(len(grid), 8), scaled=True)]
    )
    last = grid.origin0_px[:, 0] + 128 > 511
    assert (pixels[last][:, :, -1] == 255).all()
    assert (pixels[last][:, :, -2] < 255).any()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"mpp": 0.5}, "not shrunk by 2, 4 or 8"),
        ({"mpp": 0.5 / 3}, "not shrunk by 2, 4 or 8"),
        ({"mpp": 0.37}, "not shrunk by 2, 4 or 8"),
        ({"tile": (50, 51)}, "tiles of 50 x 51 px do not divide by 2"),
    ],
)
def test_why_not(how, says):
    assert says in why_not_scaled(*shrinking(**how))


def test_why_not_for_the_slides_sake():
    slide, grid = shrinking()
    assert why_not_scaled(slide, grid) is None
    odd = replace(grid, origin0_px=grid.origin0_px + 1)
    assert "multiples of 2 px" in why_not_scaled(slide, odd)
    slide.can = False
    assert "level 0 is not stored as JPEG tiles" in why_not_scaled(slide, grid)
    assert "level 0 is not stored" in why_not_scaled(ArraySlide(slide.pixels, slide.info), grid)
