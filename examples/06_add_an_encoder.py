# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep[test]"]
# ///
"""An encoder of your own, used by name on [SLIDE]; pytest on this file runs its contract."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from wsiprep.core.config import build
from wsiprep.core.types import EncoderSpec, Size
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare
from wsiprep.testing.encoder import EncoderContract

SPECS = (EncoderSpec("histogram", 48, None, (0, 0, 0), (1, 1, 1), weights="none"),)
ENTRY_POINTS = f"[wsiprep.encoders]\nhistogram = {Path(__file__).stem}\n"


class Histogram:  # a network would be wrapped in wsiprep.encoders.torch_encoder.TorchEncoder
    """Share of pixels in 16 bins of R, G and B: uint8 (B, T, T, 3) to float32 (B, 48)."""

    spec = SPECS[0]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Encode patches."""
        bins = pixels.reshape(len(pixels), -1, 3, 1) // 16 == np.arange(16)
        return bins.mean(axis=1).reshape(len(pixels), -1).astype(np.float32)


def create(model: str | None, cfg: object, device: object) -> Histogram:
    return Histogram()


class TestHistogram(EncoderContract):  # in a package of yours this lives in its tests
    """What every encoder must do."""

    encoder = pytest.fixture(lambda self: Histogram())
    known = pytest.fixture(lambda self: SPECS[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        # `pip install` of a package with [project.entry-points."wsiprep.encoders"] leaves this:
        metadata = Path(scratch) / "histogram-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Name: histogram\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
        sys.path.append(scratch)
        slide = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "synthetic.svs"
        if len(sys.argv) < 2:
            write_slide(slide, SyntheticSlide(size=Size(2048, 1536)))
        settings = {"slides": (str(slide),), "output": scratch, "encoder": ("histogram",)}
        row = prepare(build(PrepareConfig, ("this script", settings))).rows[0]
        print(f"{row.slide}: {row.status}, {row.encoded} patches encoded in {row.seconds} s")
