"""Codecs of TIFF tiles other than JPEG: lossless ones, WebP, and Aperio's JPEG 2000.

Source: TIFF 6.0 (compression, predictor, photometric interpretation); the Aperio compressions
33003 (YCbCr) and 33005 (RGB) hold a bare JPEG 2000 codestream a tile; JFIF 1.02 (YCbCr to
RGB); ITU-T T.800 A.5.1 (size of a codestream); RFC 9649 (WebP).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Jpeg2000Codec", "PlainCodec", "ycbcr_to_rgb"]

NONE, LZW, DEFLATE, ADOBE_DEFLATE, PACKBITS = 1, 5, 32946, 8, 32773
ZSTD, WEBP = 50000, 50001
PLAIN = frozenset({NONE, LZW, DEFLATE, ADOBE_DEFLATE, PACKBITS, ZSTD, WEBP})
"""Compressions of `PlainCodec`."""

_SIZ = b"\xff\x4f\xff\x51"  # the first two markers of a JPEG 2000 codestream
_JP2_HEAD_BYTES = 1024  # boxes of the JP2 format may come before it


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """Tiles whose bytes decompress to RGB pixels.

    Attributes:
        compression: TIFF compression, one of `PLAIN`.
        difference: Whether pixels are stored as differences along a row (predictor 2).
    """

    compression: int
    difference: bool = False

    def decode(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h, w, 3).

        Raises:
            ValueError: another number of bytes than the tile has; the decoders raise their own.
        """
        if self.compression == WEBP:
            if _webp_size(data) != out.shape[:2]:
                raise ValueError(f"it is no WebP picture of {out.shape[1]} x {out.shape[0]} px")
            pixels = _decoder(WEBP)(data)
        else:
            # The length is a bound: a tile cannot unpack to more than its pixels.
            raw = _decoder(self.compression)(data, out.nbytes)
            if len(raw) != out.nbytes:
                raise ValueError(f"it holds {len(raw)} bytes of pixels, not {out.nbytes}")
            pixels = np.frombuffer(raw, np.uint8).reshape(out.shape)
        if pixels.shape != out.shape or pixels.dtype != np.uint8:
            raise ValueError(f"it is {pixels.dtype} {pixels.shape}, not {out.shape}")
        if self.difference:
            np.cumsum(pixels, axis=1, dtype=np.uint8, out=out)
        else:
            out[...] = pixels


@dataclass(frozen=True, slots=True)
class Jpeg2000Codec:
    """Tiles that are JPEG 2000, whose size is looked at before memory is taken for them.

    Attributes:
        ycbcr: Whether the channels are YCbCr (33003); otherwise RGB (33005).
    """

    ycbcr: bool

    def decode(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h, w, 3).

        Raises:
            ValueError: it has another size or depth; the decoder raises its own.
        """
        import imagecodecs

        if _jpeg2000_size(data) != out.shape[:2]:
            raise ValueError(f"it is no JPEG 2000 picture of {out.shape[1]} x {out.shape[0]} px")
        pixels = imagecodecs.jpeg2k_decode(data)
        if pixels.shape != out.shape or pixels.dtype != np.uint8:
            raise ValueError(f"it is {pixels.dtype} {pixels.shape}, not {out.shape}")
        if self.ycbcr:
            ycbcr_to_rgb(pixels, out)
        else:
            out[...] = pixels


def _jpeg2000_size(data: bytes) -> tuple[int, int]:
    """(height, width) that a JPEG 2000 stream says.

    Raises:
        ValueError: its channels are of different sizes: what the decoder makes of their colours
            is not what they are.
    """
    at = data.find(_SIZ, 0, _JP2_HEAD_BYTES)
    head = data[at + 8 : at + 8 + 34 + 9] if at >= 0 else b""  # past length and capabilities
    if len(head) < 34 + 9:
        return 0, 0
    x1, y1, x0, y0 = (int.from_bytes(head[i : i + 4], "big") for i in range(0, 16, 4))
    steps = {head[i : i + 2] for i in range(35, 34 + 9, 3)}  # of each of three channels
    if steps != {b"\x01\x01"}:
        raise ValueError("a JPEG 2000 picture with subsampled colours")
    return y1 - y0, x1 - x0


def _webp_size(data: bytes) -> tuple[int, int]:
    """(height, width) that a WebP stream says; (0, 0) where it is none."""
    kind = data[12:16] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else b""
    little = int.from_bytes
    if kind == b"VP8 ":
        return little(data[28:30], "little") & 0x3FFF, little(data[26:28], "little") & 0x3FFF
    if kind == b"VP8L":
        both = little(data[21:25], "little")
        return (both >> 14 & 0x3FFF) + 1, (both & 0x3FFF) + 1
    if kind == b"VP8X":
        return little(data[27:30], "little") + 1, little(data[24:27], "little") + 1
    return 0, 0


def ycbcr_to_rgb(ycbcr: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Full-range BT.601 with the five digits of JFIF, in 16-bit fractions rounded half up.

    Args:
        ycbcr: uint8 (h, w, 3).
        out: uint8 (h, w, 3); filled with RGB.
    """
    red, green_cb, green_cr, blue = _chroma_tables()
    y = ycbcr[..., 0].astype(np.int32)
    cb, cr = ycbcr[..., 1], ycbcr[..., 2]
    for channel, added in enumerate(
        (red[cr], (green_cb[cb] + green_cr[cr]) >> 16, blue[cb])
    ):  # fmt: skip
        out[..., channel] = np.clip(y + added, 0, 255)


@functools.cache
def _chroma_tables() -> tuple[NDArray[np.int32], ...]:
    x = np.arange(-128, 128)

    def fixed(weight: float) -> NDArray[np.int32]:
        rounded: NDArray[np.int32] = np.floor(weight * (1 << 16) * x + 0.5).astype(np.int32)
        return rounded

    half = 1 << 15
    red, blue = (fixed(1.402) + half) >> 16, (fixed(1.772) + half) >> 16
    return red, fixed(-0.34414) + half, fixed(-0.71414), blue


def _decoder(compression: int) -> Callable[..., Any]:
    import imagecodecs

    decoders: dict[int, Callable[..., Any]] = {
        NONE: lambda data, _: data,
        LZW: lambda data, size: imagecodecs.lzw_decode(data, out=size),
        DEFLATE: lambda data, size: imagecodecs.zlib_decode(data, out=size),
        ADOBE_DEFLATE: lambda data, size: imagecodecs.zlib_decode(data, out=size),
        PACKBITS: lambda data, size: imagecodecs.packbits_decode(data, out=size),
        ZSTD: lambda data, size: imagecodecs.zstd_decode(data, out=size),
        WEBP: imagecodecs.webp_decode,
    }
    return decoders[compression]
