"""A slide in memory, as the stage sees one."""

from __future__ import annotations

import cv2
import numpy as np

from wsiprep.core.types import Box, Size, SlideInfo


def make_info(width=4000, height=3000, mpp=0.5, name="fake", fingerprint="f" * 64):
    size = Size(width, height)
    return SlideInfo(
        id=name,
        uri=f"{name}.svs",
        reader="memory",
        reader_reason="asked for",
        vendor=None,
        size0=size,
        mpp=mpp,
        mpp_source="metadata",
        objective=20.0,
        downsamples=(1.0,),
        level_sizes=(size,),
        bounds0=Box(0, 0, width, height),
        fingerprint=fingerprint,
    )


class FakeSlide:
    """Implements `Slide` over an array of level 0."""

    def __init__(self, pixels, mpp=0.5, name="fake"):
        self.pixels = pixels
        self.info = make_info(pixels.shape[1], pixels.shape[0], mpp, name)
        self.thumbnails = 0

    def read(self, origin0, level, size):
        box = self.pixels[origin0.y : origin0.y + size.height, origin0.x : origin0.x + size.width]
        return np.ascontiguousarray(box)

    def thumbnail(self, mpp, bad=None):
        self.thumbnails += 1
        scale = min(1.0, self.info.mpp / mpp)
        w, h = (max(1, round(n * scale)) for n in self.pixels.shape[1::-1])
        return cv2.resize(self.pixels, (w, h), interpolation=cv2.INTER_AREA)

    def reopen(self):
        return FakeSlide(self.pixels, self.info.mpp, self.info.id)

    def close(self):
        pass
