"""JPEG streams with restart markers: cut at the markers, a few intervals put together as a tile.

Between two restart markers lies an interval: so many MCUs that need nothing of the others to be
decoded. A picture too large to be decoded at once can be read interval by interval. One interval
is a flat strip (640 x 8 px, say), and starting a decoder costs as much as decoding it: intervals
that lie one below the other are put together as one taller JPEG. That changes no pixel where an
MCU is 8 rows high. Where it is 16, chroma is upsampled smoothly across the rows, so that the strips
would blend into each other at their borders: such are decoded one by one.

Source: ITU-T T.81 (markers; E.2.4, restart intervals); libjpeg's `jdsample.c` (context rows are
used only where chroma is halved vertically).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.slide.readers._jpeg import JpegCodec, padding_before, whole_jpeg

__all__ = ["IntervalCodec", "JpegFrame", "read_frame"]

EOI = b"\xff\xd9"
_BLOCK_PX = 8
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SOF, _SOS, _DRI = (0xC0, 0xC1), 0xDA, 0xDD
_OTHER_SOF = {0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """What comes before the first entropy-coded byte of a JPEG stream.

    Attributes:
        header: SOI to SOS; colours marked as in `_jpeg.py`.
        size_at: Where in `header` the size stands: height, then width, two bytes each.
        size: (width, height) as the stream says; 0 or too little of very large pictures.
        mcu: Size of an MCU in pixels.
        interval_mcus: MCUs between two restart markers; 0 where there are none.
        bytes_read: Length of the header in the file, which is not that of `header`.
        ycbcr: Whether the channels are YCbCr, as libjpeg judges it; otherwise RGB.
    """

    header: bytes
    size_at: int
    size: tuple[int, int]
    mcu: Size
    interval_mcus: int
    bytes_read: int
    ycbcr: bool

    @property
    def interval(self) -> Size:
        """Size of the picture of one interval."""
        return Size(self.mcu.width * self.interval_mcus, self.mcu.height)

    @property
    def stacks(self) -> bool:
        """Whether intervals put together decode to the pixels that each gives alone."""
        return self.mcu.height == _BLOCK_PX

    def stack(self, segments: Sequence[bytes]) -> bytes:
        """A JPEG of intervals one below the other.

        Args:
            segments: Entropy-coded bytes of each, without its marker.
        """
        height, width = self.interval.height * len(segments), self.interval.width
        at = self.size_at
        parts = [
            self.header[:at],
            height.to_bytes(2, "big"),
            width.to_bytes(2, "big"),
            self.header[at + 4 :],
            segments[0],
        ]
        for number, segment in enumerate(segments[1:]):
            parts += (bytes((0xFF, 0xD0 + number % 8)), segment)
        return b"".join((*parts, EOI))


@dataclass(frozen=True, slots=True)
class IntervalCodec:
    """Decodes tiles that `JpegFrame.stack` made.

    Attributes:
        frame: Header of the level.
    """

    frame: JpegFrame

    def decode(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a tile into `out`, uint8 (h, w, 3), contiguous.

        Raises:
            ValueError: the stream is damaged, cut short, or of another size.
        """
        jpeg = JpegCodec(b"", self.frame.ycbcr)
        if self.frame.stacks:
            try:
                jpeg.decode(data, out)
            except ValueError as err:
                if padding_before(err) is None:
                    raise
            else:
                return
        segments = _RESTART.split(data[len(self.frame.header) : -len(EOI)])
        rows = self.frame.interval.height
        if len(segments) * rows != out.shape[0]:
            raise ValueError(
                f"it has {len(segments)} restart intervals, not {out.shape[0] // rows}"
            )
        for number, segment in enumerate(segments):
            jpeg.decode(self.frame.stack([segment]), out[number * rows : (number + 1) * rows])


def read_frame(data: bytes) -> JpegFrame:
    """Read the header of a JPEG stream.

    Args:
        data: The stream, at least up to its first scan.

    Raises:
        ValueError: no JPEG, or one that is not sequential, 8-bit and of three channels in one scan.
    """
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG stream")
    at, interval, sof = 2, 0, None
    while True:
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF:
            raise ValueError("a JPEG whose header is damaged")
        marker, body = head[1], at + 4
        at += 2 + int.from_bytes(head[2:], "big")
        if at > len(data) or at < body:
            raise ValueError("a JPEG whose header is cut short")
        if marker in _OTHER_SOF:
            raise ValueError("a JPEG that is progressive, lossless or arithmetic-coded")
        if marker in _SOF:
            sof = body
        elif marker == _DRI:
            interval = int.from_bytes(data[body : body + 2], "big")
        elif marker == _SOS:
            scanned = data[body]
            break
    if sof is None or data[sof] != 8 or data[sof + 5] != 3 or scanned != 3:
        raise ValueError("a JPEG that is not of three channels of 8 bits in one scan")
    factors = data[sof + 7 : sof + 15 : 3]
    mcu = Size(
        _BLOCK_PX * max(factor >> 4 for factor in factors),
        _BLOCK_PX * max(factor & 15 for factor in factors),
    )
    if mcu.width == 0 or mcu.height == 0:
        raise ValueError("a JPEG whose header is damaged")
    sized = bytearray(data[:at])
    sized[sof + 1 : sof + 5] = b"\0\x08\0\x08"  # any that libjpeg takes, to have the colours judged
    ycbcr = simplejpeg.decode_jpeg_header(bytes(sized) + EOI)[2] != "RGB"
    header = whole_jpeg(data[:at], ycbcr=ycbcr)
    return JpegFrame(
        header=header,
        size_at=sof + 1 + len(header) - at,
        size=(
            int.from_bytes(data[sof + 3 : sof + 5], "big"),
            int.from_bytes(data[sof + 1 : sof + 3], "big"),
        ),
        mcu=mcu,
        interval_mcus=interval,
        bytes_read=at,
        ycbcr=ycbcr,
    )
