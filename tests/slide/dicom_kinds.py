"""Whole-slide images in DICOM of every kind that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.slide.made import smooth
from tests.slide.made_dicom import (
    J2K,
    J2K_LOSSLESS,
    PLAIN,
    jpeg,
    jpeg2000,
    raw,
)
from wsiprep.core.contracts import Slide
from wsiprep.core.types import Point
from wsiprep.slide import SlideConfig, open_slide

VOLUME = {("ORIGINAL", "PRIMARY", "VOLUME", "NONE")}
KINDS: dict[str, dict[str, Any]] = {
    "jpeg 422": {},
    "jpeg 420": {"encode": jpeg("420")},
    "jpeg rgb": {"encode": jpeg("444", "RGB"), "photometric": "RGB"},
    "jpeg 2000 ict": {"encode": jpeg2000(mct=True, level=40), "syntax": J2K,
                      "photometric": "YBR_ICT"},
    "jpeg 2000 rgb": {"encode": jpeg2000(mct=False), "syntax": J2K_LOSSLESS, "photometric": "RGB"},
    "plain": {"encode": raw, "syntax": PLAIN, "photometric": "RGB"},
    "extended table": {"table": "extended"},
    "no table": {"table": "none"},
    "fragments": {"split": 3},
    "undefined lengths": {"undefined": True},
    "sparse": {"sparse": True},
    "sparse, undefined lengths": {"sparse": True, "undefined": True},
    "one sparse frame": {"sparse": True, "keep": [0]},
}  # fmt: skip


def opened(path: Path, reader: str = "dicom", **kwargs: object) -> Slide:
    return open_slide(path, SlideConfig(reader=reader, **kwargs))


def noisy(height: int = 300, width: int = 410, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-30, 31, (height, width, 3))
    return (smooth(height, width, seed).astype(int) + noise).clip(0, 255).astype(np.uint8)


def whole(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    return slide.read(Point(0, 0), level, slide.info.level_sizes[level])
