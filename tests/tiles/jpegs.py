"""A slide in memory that is stored as JPEG tiles, and a decoder that is a device's in name."""

from __future__ import annotations

import numpy as np
import simplejpeg
import torch

from tests.fakes import TiledArraySlide
from wsiprep.core.errors import SlideReadError
from wsiprep.slide.readers._jpeg import JpegCodec, whole_jpeg

CODEC = JpegCodec(b"", ycbcr=True)


class JpegArraySlide(TiledArraySlide):
    """Tiles of an array, JPEG-coded; `broken_tiles` are cut short, `absent` are not there."""

    trailer = b""

    def stored(self, tile):
        pixels = np.full((self.tile.height, self.tile.width, 3), 77, np.uint8)
        row, col = divmod(tile, self.tiling(0).shape[1])
        x, y = col * self.tile.width, row * self.tile.height
        part = self.pixels[y : y + self.tile.height, x : x + self.tile.width]
        pixels[: part.shape[0], : part.shape[1]] = part
        return simplejpeg.encode_jpeg(pixels, 90, "RGB", "420")

    def fetch_tile(self, level, tile):
        self.decoded.append(tile)
        if tile in self.absent:
            return b""
        data = self.stored(tile)
        return data[: len(data) // 2] if tile in self.broken_tiles else data + self.trailer

    def stores_jpeg(self, level):
        return True

    def jpeg_tile(self, level, tile, data):
        return whole_jpeg(data, ycbcr=True)

    def decode_tile(self, level, tile, data, out):
        if not data:
            out[...] = 255
            return
        try:
            CODEC.decode(data, out)
        except ValueError as err:
            raise SlideReadError(f"tile {tile} is broken", slide=self.info.id) from err

    def reopen(self):
        slide = JpegArraySlide(self.pixels, self.info, tile=self.tile, broken=self.broken_tiles)
        slide.decoded, slide.absent, slide.trailer = self.decoded, self.absent, self.trailer
        self.opened.append(slide)
        return slide


class CpuDecoder:
    """What the CPU decodes, as tensors; batches that it was given are counted."""

    name = "fake"
    device = torch.device("cpu")

    def __init__(self):
        self.batches = []

    def one(self, jpeg):
        try:
            return torch.from_numpy(simplejpeg.decode_jpeg(jpeg, "RGB"))
        except ValueError:
            return None

    def decode(self, jpegs):
        self.batches.append(len(jpegs))
        return [self.one(jpeg) for jpeg in jpegs]
