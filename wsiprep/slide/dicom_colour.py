"""DICOM files that say RGB and hold YCbCr.

Some converters re-encode tiles as ordinary YCbCr JPEG and leave PhotometricInterpretation at RGB.
OpenSlide believes the DICOM attribute and hands out Y, Cb and Cr as if they were R, G and B:
white glass turns salmon pink. The JPEG stream itself tells: a JFIF marker means YCbCr, an Adobe
marker names the transform, and nobody subsamples the green and blue of RGB.

Source: DICOM PS3.5 A.4 (encapsulated pixel data); ITU-T T.81 B.2; JFIF 1.02; ITU-T T.872 6.5.3
(Adobe marker). The converters: github.com/ImagingDataCommons/libdicom issue 80,
github.com/openslide/openslide pull request 558.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from wsiprep.slide.dicom import read_header

__all__ = ["YCBCR_NOTE", "jpeg_is_ycbcr", "levels_mislabelled_rgb"]

YCBCR_NOTE = (
    "The DICOM files say RGB but hold YCbCr JPEG, as some converters write; it is corrected."
)
"""What a reader tells the user of such files."""

_JPEG_SYNTAXES = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
_PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
_ITEM = b"\xfe\xff\x00\xe0"
_JPEG_HEAD_BYTES = 1 << 16


def levels_mislabelled_rgb(instances: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """(width, height) of the levels whose files say RGB and hold YCbCr JPEG.

    Raises:
        OSError: a file cannot be read.
    """
    found = set()
    for path in instances:
        header = read_header(path)
        if (
            header is not None
            and header.photometric == "RGB"
            and header.transfer_syntax in _JPEG_SYNTAXES
            and jpeg_is_ycbcr(_first_frame(path))
        ):
            found.add((header.width, header.height))
    return frozenset(found)


def jpeg_is_ycbcr(data: bytes) -> bool:
    """Whether a JPEG stream of three channels says by itself that it is YCbCr.

    Args:
        data: The stream, at least up to its frame header.
    """
    at, jfif, adobe = 2, False, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif 0xC0 <= marker <= 0xC2:
            if len(body) < 15 or body[5] != 3:
                return False
            names, sampling = body[6:15:3], body[7:15:3]
            if adobe is not None:
                return adobe == 1
            return (jfif or len(set(sampling)) > 1) and names != b"RGB"
        at += 2 + length
    return False


def _first_frame(path: Path) -> bytes:
    """Beginning of the first encapsulated frame; empty where there is none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_PIXELS)
        if at < 0:
            return b""
        at += len(_PIXELS)
        if data[at : at + 4] != _ITEM:  # the offset table, present though it may be empty
            return b""
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] != _ITEM:
            return b""
        return data[at + 8 : at + 8 + _JPEG_HEAD_BYTES]
