"""Slides made for the tests: smooth random colours in the TIFF layouts that scanners write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide

MPP = 0.5
APERIO = "Aperio Image Library v12.0.15 \r\n{w}x{h} [0,0 {w}x{h}] (128x128) JPEG/RGB Q=95{extra}"


def smooth(height: int = 500, width: int = 610, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): colour blobs, a gradient, no sharp edge."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (height // 50 + 2, width // 50 + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def write_tiff(
    path: Path,
    image: NDArray[Any],
    *,
    levels: int = 1,
    compression: str | None = "deflate",
    tile: int | None = 128,
    mpp: tuple[float, float] | None = (MPP, MPP),
    description: str | None = None,
    **kwargs: Any,
) -> Path:
    """Write a (pyramidal) TIFF; reduced levels are halves, rounded down, by area averaging."""
    resolution: dict[str, Any] = {}
    if mpp is not None:
        resolution = {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            h, w = image.shape[0] >> level, image.shape[1] >> level
            pixels = image if not level else cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
            tiff.write(
                pixels,
                tile=None if tile is None else (tile, tile),
                photometric=kwargs.get("photometric", "rgb"),
                compression=compression,
                compressionargs={"level": 95} if compression == "jpeg" else None,
                subfiletype=1 if level else 0,
                description=description,
                metadata=None,
                **{k: v for k, v in kwargs.items() if k != "photometric"},
                **resolution,
            )
    return path


def aperio(width: int, height: int, **said: object) -> str:
    """An Aperio ImageDescription with the given properties, e.g. MPP="0.25"."""
    extra = "".join(f"|{key} = {value}" for key, value in said.items())
    return APERIO.format(w=width, h=height, extra=extra)


def tile_place(path: Path, number: int) -> tuple[int, int]:
    """(offset, length) in bytes of a tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        return page.dataoffsets[number], page.databytecounts[number]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Replace bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def one_tile_is_lost(
    slide: Slide, lost: Point, match: str, sound: Size, wanted: NDArray[np.uint8]
) -> None:
    """Reading at `lost` is an error with a hint; the `sound` corner is as it was."""
    with slide:
        with pytest.raises(SlideReadError, match=match) as caught:
            slide.read(lost, 0, Size(30, 30))
        assert caught.value.hint is not None
        assert np.array_equal(slide.read(Point(0, 0), 0, sound), wanted)
        with pytest.raises(SlideReadError):
            slide.thumbnail(2.0)


def exact_average(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Mean over the area under each pixel, by weights, in double precision."""

    def weights(n: int, m: int) -> NDArray[np.float64]:
        low = np.arange(m)[:, None] * n / m
        high = low + n / m
        cell = np.arange(n)[None]
        return np.clip(np.minimum(high, cell + 1) - np.maximum(low, cell), 0, None) * m / n

    rows, cols = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("ry,yxc,kx->rkc", rows, image.astype(float), cols, optimize=True)


def reads_or_refuses(path: Path, reader: str, most_px: int) -> None:
    """Whatever was altered in a file: it is read, or refused by an error of ours."""
    try:
        with open_slide(path, SlideConfig(reader=reader, slide_mpp=0.5)) as slide:
            size0 = slide.info.size0
            size = Size(min(size0.width, most_px), min(size0.height, most_px))
            assert slide.read(Point(0, 0), 0, size).shape == (size.height, size.width, 3)
    except (SlideOpenError, SlideReadError):
        pass
