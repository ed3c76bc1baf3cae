from __future__ import annotations

from pathlib import Path

import pytest

from tests.slide.made import smooth, write_tiff


@pytest.fixture(scope="session")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless tiled pyramid of three levels at 0.5 µm/px; level 0 is `smooth()`."""
    return write_tiff(tmp_path_factory.mktemp("made") / "pyramid.tiff", smooth(), levels=3)


@pytest.fixture(scope="session")
def jpeg_pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG tiles; level 0 is about `smooth(512, 640)`, whole tiles, so that no padding rings."""
    folder = tmp_path_factory.mktemp("made")
    return write_tiff(folder / "jpeg.tiff", smooth(512, 640), levels=3, compression="jpeg")
