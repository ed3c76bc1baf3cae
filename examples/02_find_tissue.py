# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Find tissue: mask, area, outlines for QuPath, and a picture to judge it by.

python 02_find_tissue.py [SLIDE] [OUT]
"""

import sys
import tempfile
from pathlib import Path

import wsiprep
from wsiprep.core.types import Size
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tissue import TissueConfig, tissue_geojson
from wsiprep.views.overlay import encode_jpeg, tissue_overlay


def main(path: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # The settings are those of `wsiprep segment`, under the same names.
    cfg = TissueConfig(tissue_mpp=8.0, min_tissue_area=0.02, holes="keep")
    with wsiprep.open_slide(path) as slide:
        tissue, thumbnail = wsiprep.detect_tissue(slide, cfg)
        mpp = slide.info.mpp
    h, w = tissue.mask.shape
    print(f"mask {w} x {h} px by '{tissue.method}': {tissue.area_mm2(mpp):.2f} mm² of tissue")
    print(f"share of the slide: {tissue.mask.mean():.1%}; ink: {tissue.pen.mean():.1%}")
    for note in tissue.notes:
        print(f"note: {note}")

    outlines = out / f"{slide.info.id}.geojson"
    outlines.write_text(tissue_geojson(tissue), encoding="utf-8")
    picture = out / f"{slide.info.id}.jpg"
    overlay = tissue_overlay(thumbnail, tissue, None, slide_id=slide.info.id, slide_mpp=mpp)
    picture.write_bytes(encode_jpeg(overlay))
    print(f"wrote {outlines.name} ({outlines.stat().st_size} bytes), {picture.name}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            path = Path(scratch) / "synthetic.svs"
            write_slide(path, SyntheticSlide(size=Size(2048, 1536)))
        main(path, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch) / "out")
