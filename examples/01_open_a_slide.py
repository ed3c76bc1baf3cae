# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Open a slide, see what is known of it, read a region and a thumbnail.

python 01_open_a_slide.py [SLIDE]
"""

import sys
import tempfile
from pathlib import Path

import wsiprep
from wsiprep.core.types import Point, Size
from wsiprep.synth import SyntheticSlide, write_slide


def main(path: Path) -> None:
    # For a slide whose file does not say: open_slide(path, SlideConfig(slide_mpp=0.25)).
    with wsiprep.open_slide(path) as slide:
        info = slide.info
        print(f"{info.id}: {info.size0.width} x {info.size0.height} px at {info.mpp:.4g} µm/px")
        print(f"reader      {info.reader} ({info.reader_reason})")
        for level, (size, by) in enumerate(zip(info.level_sizes, info.downsamples, strict=True)):
            print(f"level {level}     {size.width} x {size.height}, downsampled {by:g}")
        print(f"fingerprint {info.fingerprint[:16]}")

        # The corner is in pixels of level 0, the size in pixels of the level that is read.
        centre = Point(info.size0.width // 2, info.size0.height // 2)
        region = slide.read(centre, level=len(info.downsamples) - 1, size=Size(128, 64))
        print(f"region      {region.dtype} {region.shape}, mean {region.mean():.0f}")

        outside = slide.read(Point(-500, -500), level=0, size=Size(8, 8))
        print(f"outside     {outside.min()} (white)")

        thumbnail = slide.thumbnail(mpp=8.0)
        print(f"thumbnail   {thumbnail.shape} at 8 µm/px")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            path = Path(scratch) / "synthetic.svs"
            write_slide(path, SyntheticSlide(size=Size(2048, 1536)))
        main(path)
