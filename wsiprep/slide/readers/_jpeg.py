"""JPEG tiles of slides: abbreviated streams made whole, and decoded without guessing.

A JPEG tile of a TIFF lacks its tables, which the level holds once, and does not say by itself
whether its three channels are RGB or YCbCr: the container does. A decoder that is not told guesses
YCbCr and turns the RGB tiles of Aperio scanners into wrong colours. Here the tables are put in and
an Adobe marker says which it is, so that any decoder gives the colours that are meant.

Source: ITU-T T.81 (markers); ITU-T T.872 6.5.3 (Adobe marker); TIFF Technical Note 2 (JPEGTables).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

__all__ = ["JpegCodec", "padding_before", "whole_jpeg"]

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_APP0 = b"\xff\xe0"
_ADOBE = bytes.fromhex("ffee000e41646f6265006400000000")  # the transform follows
_RGB, _YCBCR = b"\x00", b"\x01"
_PADDED = re.compile(r"(\d+) extraneous bytes before marker 0xd([0-79])")
_MAX_PADDING_BYTES = 64
"""More than this between a scan and its end or restart marker is no padding but lost picture."""


@dataclass(frozen=True, slots=True)
class JpegCodec:
    """Decodes the JPEG tiles of a level to RGB.

    The inverse DCT is libjpeg's exact integer one and chroma is upsampled smoothly, as OpenSlide
    does: pixels are equal to the byte. A stream that libjpeg finds damaged is an error, also where
    it could have gone on with made-up pixels.

    Attributes:
        tables: JPEGTables of the level, or empty.
        ycbcr: Whether the channels are YCbCr; otherwise RGB.
    """

    tables: bytes
    ycbcr: bool

    def whole(self, data: bytes) -> bytes:
        """The tile as a JPEG file of its own, with its tables, and a marker of its colours."""
        if self.ycbcr and not self.tables and data[:4] == _SOI + _APP0 and data[6:10] == b"JFIF":
            return data  # a JFIF marker says YCbCr, whatever comes after it
        return whole_jpeg(data, self.tables, ycbcr=self.ycbcr)

    def size(self, data: bytes) -> tuple[int, int]:
        """(width, height) of a tile, from its header.

        Raises:
            ValueError: it is no JPEG that this codec decodes.
        """
        height, width, space, _ = simplejpeg.decode_jpeg_header(self.whole(data))
        if space == "GRAY":
            raise ValueError("it is greyscale")
        return width, height

    def decode(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h, w, 3).

        Raises:
            ValueError: the stream is damaged, cut short, or of another size.
        """
        self._decode(data, out, 0, 0)

    def decode_shrunk(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile by a smaller inverse DCT into `out`, uint8 (h // k, w // k, 3).

        At k = 8 a pixel is the mean of a block, but for rounding and chroma; at 2 and 4 it is not
        quite the mean of the pixels it covers.

        Raises:
            ValueError: as `decode`.
        """
        self._decode(data, out, out.shape[0], out.shape[1])

    def _decode(self, data: bytes, out: NDArray[np.uint8], height: int, width: int) -> None:
        """Decode as small as the inverse DCT can, but no smaller than (height, width); 0: whole."""
        jpeg = self.whole(data)
        # Exact DCT, smooth upsampling, and by which power of two it is made smaller at least.
        how = ("RGB", False, False, height, width, 1, out)
        try:
            pixels = simplejpeg.decode_jpeg(jpeg, *how)
        except ValueError as err:
            if padding_before(err) != "9":
                raise
            pixels = simplejpeg.decode_jpeg(jpeg, *how, strict=False)
        if pixels.shape != out.shape:
            raise ValueError(
                f"the JPEG is {pixels.shape[1]} x {pixels.shape[0]} px, "
                f"not {out.shape[1]} x {out.shape[0]}"
            )


def padding_before(err: ValueError) -> str | None:
    """Last digit of the marker that libjpeg found padding before: nothing is lost by it.

    `9` for the end marker, `0` to `7` for a restart marker, None where `err` is of anything else.
    """
    padded = _PADDED.search(str(err))
    return padded[2] if padded and int(padded[1]) <= _MAX_PADDING_BYTES else None


def whole_jpeg(data: bytes, tables: bytes = b"", *, ycbcr: bool) -> bytes:
    """A tile as a JPEG stream that needs nothing else to be decoded to the right colours.

    Args:
        data: The tile: SOI, ..., EOI.
        tables: JPEGTables (SOI, tables, EOI), or empty.
        ycbcr: What the three channels are; written as an Adobe marker in place of any JFIF or
            Adobe marker of the tile or of the tables.

    Raises:
        ValueError: `data` or `tables` is no JPEG stream.
    """
    if data[:2] != _SOI:
        raise ValueError("it does not begin as a JPEG stream")
    start = 2
    while data[start : start + 1] == b"\xff" and data[start + 1] & 0xF0 == 0xE0:  # APP0 to APP15
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    middle = _segments(tables) if tables else b""
    return b"".join((_SOI, _ADOBE, _YCBCR if ycbcr else _RGB, middle, data[start:]))


@functools.lru_cache(maxsize=64)  # the tiles of a level share their tables
def _segments(tables: bytes) -> bytes:
    """The segments of JPEGTables, but for APP0 to APP15: some of those speak of colours.

    Raises:
        ValueError: they are no JPEG stream.
    """
    end = len(tables) - 2
    at, kept = 2, []
    while at < end and tables[at] == 0xFF:
        marker, length = tables[at + 1], int.from_bytes(tables[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker & 0xF0 != 0xE0:
            kept.append(tables[at : at + 2 + length])
        at += 2 + length
    if tables[:2] != _SOI or tables[end:] != _EOI or at != end:
        raise ValueError("its JPEGTables are no JPEG stream")
    return b"".join(kept)
