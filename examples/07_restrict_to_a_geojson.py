# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Restrict a slide to an annotation: polygons in level-0 pixels, as QuPath exports them.

python 07_restrict_to_a_geojson.py [SLIDE] [OUT]

On the command line: `wsiprep run SLIDE -o OUT --mask tumour.geojson`; for many slides, a manifest
with the columns `path` and `mask`.
"""

import json
import sys
import tempfile
from pathlib import Path

import wsiprep
from wsiprep.core.config import build
from wsiprep.core.types import Size
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare


def diamond(width: int, height: int) -> dict:
    ring = [[width / 2, 0], [width, height / 2], [width / 2, height], [0, height / 2]]
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    feature = {"type": "Feature", "geometry": polygon, "properties": {"name": "tumour"}}
    return {"type": "FeatureCollection", "features": [feature]}


def main(path: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with wsiprep.open_slide(path) as slide:
        size = slide.info.size0
    outline = out / "tumour.geojson"
    outline.write_text(json.dumps(diamond(size.width, size.height)))
    for name, mask in (("all tissue", {}), ("tumour only", {"mask": outline})):
        # Another mask makes other patches, so it gets a folder of its own.
        settings = {"slides": (str(path),), "output": out / name, "encoder": ("test",), **mask}
        row = prepare(build(PrepareConfig, ("this script", settings))).rows[0]
        print(f"{name:11} {row.status}: {row.patches} patches, {row.tissue_mm2:.2f} mm²")
        tissue = wsiprep.FeatureStore(row.store).tissue()
        print(f"{'':11} tissue by '{tissue.method}', picture {Path(row.overlay).name}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            path = Path(scratch) / "synthetic.svs"
            write_slide(path, SyntheticSlide(size=Size(2048, 1536)))
        main(path, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch) / "out")
