"""NDPI files written by hand: classic TIFF with Hamamatsu's tags and 64-bit offsets."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.slide.made import smooth
from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.types import Point
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.readers.ndpi import NdpiSlide

SUBSAMPLING = {"444": 0, "422": 1, "420": 2}
_TYPES = {"H": 3, "I": 4, "i": 9, "f": 11}


@dataclass
class Page:
    """A directory: a JPEG and what is said of it."""

    jpeg: bytes
    width: int
    height: int
    lens: float = 40.0
    focal_plane: int = 0
    tags: dict[int, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    with_starts: bool = True


def encode(
    image: NDArray[np.uint8], subsampling: str = "444", interval_mcus: int = 0, **kwargs: Any
) -> bytes:
    """A JPEG with a restart marker after so many MCUs (0: none)."""
    out = io.BytesIO()
    Image.fromarray(image).save(
        out, "JPEG", quality=90, subsampling=SUBSAMPLING[subsampling],
        restart_marker_blocks=interval_mcus, **kwargs,
    )  # fmt: skip
    return out.getvalue()


def interval_starts(jpeg: bytes) -> list[int]:
    """Positions of the entropy-coded bytes of each restart interval."""
    at = 2
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == 0xDA:
            break
    return [at, *(m.end() for m in re.finditer(rb"\xff[\xd0-\xd7]", jpeg) if m.start() >= at)]


def pages_of(
    image: NDArray[np.uint8],
    subsampling: str = "444",
    interval_mcus: int = 8,
    shrinks: Sequence[int] = (1, 4),
    **kwargs: Any,
) -> list[Page]:
    """Levels of a slide; widths must be whole numbers of intervals."""
    pages = []
    for shrink in shrinks:
        w, h = image.shape[1] // shrink, image.shape[0] // shrink
        small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) if shrink > 1 else image
        jpeg = encode(small, subsampling, interval_mcus, **kwargs)
        pages.append(Page(jpeg, w, h, 40.0 / shrink))
    return pages


def write_ndpi(
    path: Path, pages: Sequence[Page], *, at: int = 12, resolution: tuple[int, int] = (20000, 1)
) -> Path:
    """Write an NDPI file.

    Args:
        path: Where.
        pages: Directories in order.
        at: Position of the first byte after the header; a hole before it.
        resolution: Pixels per centimetre of the first directory, as a fraction.
    """
    with path.open("wb") as file:
        file.seek(at)
        directories = []
        for page in pages:
            offset = file.tell()
            file.write(page.jpeg)
            directories.append(_entries(page, offset, resolution))
        link = 4
        for entries in directories:
            link = _write_directory(file, entries, link)
        file.seek(0)
        file.write(b"II*\0")
    return path


def _entries(
    page: Page, offset: int, resolution: tuple[int, int]
) -> list[tuple[int, int, int, bytes | int]]:
    """(tag, type, count, bytes or the value itself)."""
    entries: dict[int, tuple[int, int, bytes | int]] = {
        256: (4, 1, page.width),
        257: (4, 1, page.height),
        258: (3, 3, struct.pack("<3H", 8, 8, 8)),
        259: (3, 1, 7),
        262: (3, 1, 6),
        271: (2, 10, b"Hamamatsu\0"),
        273: (4, 1, offset),
        277: (3, 1, 3),
        278: (4, 1, page.height),
        279: (4, 1, len(page.jpeg)),
        282: (5, 1, struct.pack("<2I", *resolution)),
        283: (5, 1, struct.pack("<2I", *resolution)),
        296: (3, 1, 3),
        65420: (3, 1, 1),
        65421: (11, 1, struct.pack("<f", page.lens)),
        65424: (9, 1, struct.pack("<i", page.focal_plane)),
    }
    starts = interval_starts(page.jpeg)
    if page.with_starts and len(starts) > 1:
        entries[65426] = (4, len(starts), struct.pack(f"<{len(starts)}I", *starts))
    for tag, (kind, values) in page.tags.items():
        data = struct.pack(f"<{len(values)}{kind}", *values)
        entries[tag] = (_TYPES[kind], len(values), data)
    return [(tag, *entries[tag]) for tag in sorted(entries)]


def _write_directory(file: Any, entries: list[tuple[int, int, int, bytes | int]], link: int) -> int:
    """Write a directory at the end and its place at `link`; returns where the next is linked."""
    body, high = b"", b""
    for tag, kind, count, value in entries:
        if isinstance(value, bytes) and len(value) > 4:
            place = file.tell()
            file.write(value + b"\0" * (len(value) % 2))
            value = place
        number = int.from_bytes(value, "little") if isinstance(value, bytes) else value
        body += struct.pack("<HHII", tag, kind, count, number & 0xFFFFFFFF)
        high += struct.pack("<I", number >> 32)
    start = file.tell()
    file.write(struct.pack("<H", len(entries)) + body + bytes(8) + high)
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<Q", start))
    file.seek(end)
    return start + 2 + len(body)


def opened(path: Path, reader: str = "ndpi", **kwargs: object) -> Slide:
    return open_slide(path, SlideConfig(reader=reader, **kwargs))


def tiled(path: Path) -> NdpiSlide:
    slide = opened(path)
    assert isinstance(slide, NdpiSlide)
    assert isinstance(slide, TiledSlide)
    return slide


def noisy(height: int = 640, width: int = 1024, seed: int = 0) -> NDArray[np.uint8]:
    """Sharp colours, so that every way of upsampling chroma shows."""
    noise = np.random.default_rng(seed).integers(-30, 31, (height, width, 3))
    return (smooth(height, width, seed).astype(int) + noise).clip(0, 255).astype(np.uint8)


def interval_mcus(subsampling: str) -> int:
    return 8 if subsampling == "444" else 4  # 64 px


def same_as_openslide(path: Path, levels: int) -> None:
    """Info but for OpenSlide's own levels, and every pixel of the stored levels."""
    with opened(path) as ours, opened(path, "openslide") as theirs:
        a, b = ours.info, theirs.info
        for name in ("vendor", "size0", "mpp", "mpp_source", "objective", "bounds0", "fingerprint"):
            assert getattr(a, name) == getattr(b, name), name
        assert len(a.level_sizes) == levels
        for level, size in enumerate(a.level_sizes):
            twin = b.level_sizes.index(size)
            assert a.downsamples[level] == b.downsamples[twin]
            wanted = theirs.read(Point(0, 0), twin, size)
            assert np.array_equal(ours.read(Point(0, 0), level, size), wanted), level
