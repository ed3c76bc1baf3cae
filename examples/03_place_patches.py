# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Place patches at two magnifications, see the reading plan, and read pixels batch by batch.

python 03_place_patches.py [SLIDE]
"""

import sys
import tempfile
from pathlib import Path

import wsiprep
from wsiprep.core.types import Size
from wsiprep.grid import GridConfig, export_coords
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tiles import stream_tiles
from wsiprep.tissue import TissueConfig


def main(path: Path) -> None:
    with wsiprep.open_slide(path) as slide:
        tissue = wsiprep.detect_tissue(slide, TissueConfig()).mask
        fine = slide.info.mpp
        for mpp in (fine, 2 * fine):
            cfg = GridConfig(mpp=mpp, patch_size=256, min_tissue=0.4)
            grid = wsiprep.make_grid(slide.info, tissue, cfg)
            rows, cols = grid.shape
            print(f"{len(grid)} of {rows} x {cols} cells; {grid.plan.describe()}")

            # Corners are round(cell * stride) in level-0 pixels, so grids share those they can.
            for (row, col), (x, y) in zip(grid.cell[:3], grid.origin0_px, strict=False):
                print(f"  cell ({row}, {col}) at x {x}, y {y}")
        csv = export_coords("csv", slide.info, grid).decode()
        print(f"as CSV: {csv.splitlines()[0]}")

        spans = [(start, min(start + 8, len(grid))) for start in range(0, len(grid), 8)]
        for batch in stream_tiles(slide.reopen, grid, spans[:4]):
            shape, mean = batch.pixels.shape, batch.pixels.mean()
            print(f"rows {batch.index[0]} to {batch.index[-1]}: {shape}, mean {mean:.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            path = Path(scratch) / "synthetic.svs"
            write_slide(path, SyntheticSlide(size=Size(2048, 1536)))
        main(path)
