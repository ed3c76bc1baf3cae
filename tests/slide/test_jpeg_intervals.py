"""Headers of JPEG streams with restart intervals, and intervals put together."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from tests.slide.made_ndpi import (
    encode,
    interval_starts,
    noisy,
)
from wsiprep.core.types import Size
from wsiprep.slide.readers._jpeg_intervals import read_frame


class TestFrame:
    def test_says_what_the_stream_is(self) -> None:
        jpeg = encode(noisy(), "422", 4)
        frame = read_frame(jpeg)
        assert (frame.size, frame.mcu, frame.interval_mcus) == ((1024, 640), Size(16, 8), 4)
        assert frame.bytes_read == interval_starts(jpeg)[0]
        assert frame.ycbcr
        assert not read_frame(encode(noisy(), keep_rgb=True)).ycbcr

    def test_all_intervals_stacked_are_the_picture(self) -> None:
        image = noisy(200, 64)
        jpeg = encode(image, "444", 8)
        starts = [*interval_starts(jpeg), len(jpeg)]
        segments = [jpeg[a : b - 2] for a, b in itertools.pairwise(starts)]
        stacked = read_frame(jpeg).stack(segments)
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(stacked))), np.asarray(Image.open(io.BytesIO(jpeg)))
        )

    def test_no_size_in_the_stream(self) -> None:
        jpeg = bytearray(encode(noisy(), "444", 8))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = struct.pack(">HH", 0, 0)  # how pictures above 65,535 px are marked
        frame = read_frame(bytes(jpeg))
        assert frame.size == (0, 0)
        assert frame.ycbcr

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0", bytes(50)])
    def test_what_is_no_jpeg(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="JPEG"):
            read_frame(data)
