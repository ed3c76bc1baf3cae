# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Read features: rows with their places, windows of the grid, torch and dask.

python 05_read_features.py [SLIDE] [OUT]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import wsiprep
from wsiprep.core.config import build
from wsiprep.core.types import Size
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare


def main(path: Path) -> None:
    store = wsiprep.FeatureStore(path)
    grid = store.grids[0]
    print(f"{store.slide.id}: grid {grid}, encoders {', '.join(store.encoders(grid))}")
    features = store.features("lite0", grid)
    print(f"dense {features.shape} {features.dtype}, {len(features)} patches, not read yet")

    rows = features.rows()  # or rows(0, 100): the first hundred patches
    print(f"rows      {rows.vectors.shape}; row 0 is cell {tuple(rows.cell[0].tolist())}")
    bag = rows.torch()
    print(f"torch     {tuple(bag.shape)} {bag.dtype}, shares memory with the rows")

    row, col = (rows.cell[0] // 16 * 16).tolist()
    window = features.window(row, col, 16, 16)  # at multiples of 16 it is one chunk of the file
    print(f"window    {window.vectors.shape}, {window.valid.sum()} cells hold a vector")

    lazy = features.dask()
    mean = np.nanmean(lazy[..., :3].astype("float32").compute(), axis=(0, 1))
    print(f"dask      {lazy.shape}, means {', '.join(f'{m:.3f}' for m in mean)} ...")

    facts = features.attributes
    print(f"made with {facts['encoder']['name']} at {facts['mpp']:.4g} µm/px")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        slide = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "synthetic.svs"
        if len(sys.argv) < 2:
            write_slide(slide, SyntheticSlide(size=Size(2048, 1536)))
        out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch) / "out"
        settings = {"slides": (str(slide),), "output": out}
        report = prepare(build(PrepareConfig, ("this script", settings)))
        main(Path(report.rows[0].store))
