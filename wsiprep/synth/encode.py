"""Compression of the tiles of a TIFF."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Codec", "Compression", "codec"]

Compression = Literal["jpeg", "jpeg2000", "deflate"]


@dataclass(frozen=True, slots=True)
class Codec:
    """How a tile becomes bytes.

    Attributes:
        label: Name in an image description.
        encode: uint8 (h, w, 3) RGB to bytes.
        tags: Arguments of `tifffile` that say how to read them.
        expected_ratio: Compressed over raw size, on the safe side.
    """

    label: str
    encode: Callable[[NDArray[np.uint8]], bytes | bytearray]
    tags: dict[str, Any]
    expected_ratio: float


def codec(compression: Compression, quality: int) -> Codec:
    """The codec of that name.

    Args:
        compression: `jpeg`, `jpeg2000` or `deflate`.
        quality: 1 to 100; of JPEG directly, of JPEG 2000 as PSNR of `quality` * 2 / 3 dB; deflate
            has none.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, not {quality}")
    if compression == "jpeg":
        encode = functools.partial(
            imagecodecs.jpeg8_encode,
            level=quality,
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling="420",
        )
        tags = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
        return Codec("JPEG", encode, tags, 0.5)
    if compression == "jpeg2000":
        encode = functools.partial(
            imagecodecs.jpeg2k_encode, level=quality * 2 // 3, codecformat="j2k", mct=True
        )
        tags = {"compression": "aperio_jp2000_rgb", "photometric": "rgb"}
        return Codec("J2K", encode, tags, 0.5)
    if compression == "deflate":
        encode = functools.partial(imagecodecs.zlib_encode, level=6)
        return Codec("ZIP", encode, {"compression": "adobe_deflate", "photometric": "rgb"}, 1.1)
    raise ValueError(f"compression must be jpeg, jpeg2000 or deflate, not {compression}")
