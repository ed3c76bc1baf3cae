"""Levels whose downsample is no whole number: stored pixels here, shifted ones of OpenSlide."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.slide.made import smooth, write_tiff
from tests.slide.made_tiff import opened
from wsiprep.core.types import Point, Size

LEVEL = 2
SIZE = Size(75, 62)
"""Of 300 x 250 px, so that OpenSlide takes the downsample for 4.016."""
SHIFT_PX = 0.5 / 4
"""Half a level-0 pixel, in pixels of the level."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiff(tmp_path / "odd.tif", smooth(250, 300), levels=3, tile=64)


def stored() -> np.ndarray:
    size = (SIZE.width, SIZE.height)
    return np.asarray(cv2.resize(smooth(250, 300), size, interpolation=cv2.INTER_AREA))


def boxes() -> list[tuple[int, int, Size]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        x, y = int(rng.integers(0, SIZE.width)), int(rng.integers(0, SIZE.height))
        width, height = rng.integers(1, (SIZE.width - x + 1, SIZE.height - y + 1))
        found.append((x, y, Size(int(width), int(height))))
    return found


def test_the_reader_gives_stored_pixels(path: Path) -> None:
    with opened(path) as slide:
        assert slide.info.level_sizes[LEVEL] == SIZE
        assert slide.info.downsamples == (1, 2, 4)
        for x, y, size in boxes():
            wanted = stored()[y : y + size.height, x : x + size.width]
            assert np.array_equal(slide.read(Point(4 * x, 4 * y), LEVEL, size), wanted)


def test_openslide_shifts_them_by_half_a_level_0_pixel_at_most(path: Path) -> None:
    """As the documentation says: so far from the step to the next pixel along each axis."""
    kernel = np.ones((3, 3), np.uint8)
    step = cv2.dilate(stored(), kernel).astype(int) - cv2.erode(stored(), kernel)
    most, at_the_end = 0, 0
    with opened(path) as ours, opened(path, "openslide") as theirs:
        for x, y, size in boxes():
            box = Point(4 * x, 4 * y), LEVEL, size
            off = np.abs(ours.read(*box).astype(int) - theirs.read(*box))
            allowed = 2 * SHIFT_PX * step[y : y + size.height, x : x + size.width] + 1
            inside = off[: SIZE.height - 1 - y, : SIZE.width - 1 - x]
            assert (inside <= allowed[: inside.shape[0], : inside.shape[1]]).all()
            most = max(most, int(inside.max(initial=0)))
            at_the_end = max(at_the_end, int(off.max()))
    assert 1 <= most <= 4
    # White from beyond the level gets into its last row and column.
    assert 4 < at_the_end <= (1 - (1 - SHIFT_PX) ** 2) * 255 + 1
