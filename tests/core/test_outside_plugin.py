"""A package that is not ours adds a reader, a segmenter and an encoder by entry points."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

READER = """
import numpy as np
from wsiprep.core.types import Box, Size, SlideInfo
from wsiprep.slide.readers import openslide
EXTENSIONS = (".mine",)
def create(uri, cfg, *, slide_id, reason):
    return openslide.create(open(uri).read(), cfg, slide_id=slide_id, reason=reason)
"""
SEGMENTER = """
import numpy as np
from wsiprep.core.config import Settings
from wsiprep.core.types import Segmentation
VERSION = 1
class Config(Settings):
    left: float = 0.5
    '''Share of the width that is tissue.'''
class Left:
    def __init__(self, cfg): self.cfg = cfg
    def segment(self, thumbnail, mpp):
        tissue = np.zeros(thumbnail.shape[:2], bool)
        tissue[:, : round(tissue.shape[1] * self.cfg.left)] = True
        return Segmentation(tissue, np.zeros_like(tissue))
def create(cfg): return Left(cfg)
"""
ENCODER = """
import numpy as np
from wsiprep.core.types import EncoderSpec
SPECS = (EncoderSpec("brightness", 1, None, (0,) * 3, (1,) * 3, weights="none", license="MIT"),)
class Brightness:
    spec = SPECS[0]
    def __call__(self, pixels):
        return pixels.reshape(len(pixels), -1).mean(1, dtype=np.float32)[:, None]
def create(model, cfg, device): return Brightness()
"""
POINTS = """
[wsiprep.readers]
pointer = outside.reader
[wsiprep.segmenters]
left = outside.segmenter
[wsiprep.encoders]
brightness = outside.encoder
"""


def test_it_is_found_and_used(small_slide: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "outside").mkdir(parents=True)
    for name, text in (("reader", READER), ("segmenter", SEGMENTER), ("encoder", ENCODER)):
        (site / "outside" / f"{name}.py").write_text(text)
    (site / "outside" / "__init__.py").write_text("")
    info = site / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "a.mine").write_text(str(small_slide))
    done = subprocess.run(
        [sys.executable, "-m", "wsiprep", "run", str(slides), "-o", str(tmp_path / "out"),
         "--segmenter", "left", "--segmenter-option", "left=0.25", "--encoder", "brightness",
         "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["slides"]
    assert row["status"] == "ok"
    # A quarter of 2048 x 1536 px is two columns of six 256 px patches.
    assert row["patches"] == 12
