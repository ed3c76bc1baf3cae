"""What a segmenter finds, as pictures for the docs.

tissue_cases.jpg   thumbnails drawn for what people ask about, and what is found; and
                   CMU-1-Small-Region (OpenSlide's test data, CC0) where WSIPREP_SHARED has it
tissue_<pair>.png  where the segmenter and the mask of a real pair disagree, without pixels of the
                   slide. Green: both. Red: the mask alone. Blue: found alone. Grey: nobody can
                   tell.
pen_<pair>.png     the same of ink

    [WSIPREP_SHARED=...] python benchmarks/tissue_pictures.py FOLDER [--segmenter net]
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tissue import ours, real, tissue_of

from wsiprep import open_slide
from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.labels import Thumbnail
from wsiprep.synth.thumbnails.scene import sample_scene
from wsiprep.views.contact_sheet import SheetCell, draw_sheet

SHARED = Path(os.environ.get("WSIPREP_SHARED", "."))
BOTH, MASK, FOUND, UNKNOWN = (96, 174, 39), (43, 43, 210), (200, 90, 30), (200, 200, 200)  # BGR
WIDTH = 1000


SEED = 77_100_000
SIDE = 512
PLAIN: dict[str, Any] = {
    "inks": 0, "edges": 0, "bubbles": 0, "dust": 0, "folds": 0, "border": False, "fat": 0.0,
    "holes": 0.05, "mpp": 12.0, "share": 0.4, "strength": 0.9, "colourfulness": 1.0, "real": 0.0,
    "layout": "resection", "stain": "he",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "fat, faint": {"fat": 0.95, "strength": 0.2},
    "pale cores": {"layout": "cores", "strength": 0.35, "share": 0.1},
    "ink round and over tissue": {"inks": 3},
    "ink and no tissue": {"layout": "empty", "inks": 3},
    "empty glass, dust": {"layout": "empty", "dust": 40},
    "coverslip edges": {"edges": 2},
    "edges and no tissue": {"layout": "empty", "edges": 2},
    "bubbles": {"bubbles": 3},
    "folds": {"folds": 4},
    "fragments": {"layout": "fragments", "share": 0.15},
    "microarray": {"layout": "tma", "stain": "ihc-dab"},
    "several sections": {"layout": "sections"},
    "black frame": {"border": True},
    "blue stain, never seen": {"stain": "toluidine"},
    "green stain, never seen": {"stain": "masson-green"},
}
COLOURS = {
    "tissue": (0, 150, 60),
    "pen": (255, 140, 0),
    "edge": (150, 60, 200),
    "fold": (220, 0, 60),
}


def found_on(pixels: NDArray[np.uint8], mpp: float, segmenter: str) -> NDArray[np.uint8]:
    """The picture, and beside it what is found: uint8 (h, 2 w, 3) RGB."""
    seen = ours(segmenter).segment(pixels, mpp)
    page = pixels.copy()
    for name, colour in COLOURS.items():
        mask = getattr(seen, name)
        if mask is not None and mask.any():
            page[mask] = (0.5 * page[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    return np.concatenate([pixels, page], axis=1)


def cases(segmenter: str) -> NDArray[np.uint8]:
    """The sheet, uint8 (H, W, 3) RGB."""
    cells = []
    for number, (name, wanted) in enumerate(CASES.items()):
        scene = replace(sample_scene(SEED + number), **{**PLAIN, **wanted})
        drawn = draw_scene(scene, (SIDE, SIDE))
        cells.append(SheetCell(found_on(drawn.pixels, drawn.mpp, segmenter), (name,)))
    real_slide = SHARED / "data" / "slides" / "cmu-1-small-region.svs"
    if real_slide.is_file():
        with open_slide(real_slide) as slide:
            pixels = slide.thumbnail(8.0)
        cells.append(SheetCell(found_on(pixels, 8.0, segmenter), ("CMU-1-Small-Region, real",)))
    title = f"What {segmenter} finds: drawn thumbnails, and one real slide"
    return draw_sheet(cells, columns=4, cell_px=460, title=title, legend=list(COLOURS.items()))


def picture(thumbnail: Thumbnail, segmenter: str, what: str) -> NDArray[np.uint8]:
    """Agreement on tissue or pen, uint8 (h, w, 3) BGR."""
    seen = ours(segmenter).segment(thumbnail.pixels, thumbnail.mpp)
    found = seen.pen if what == "pen" else tissue_of(seen, thumbnail.mpp, clean=True)
    known, truth = thumbnail.known_of(what), thumbnail.mask(what)
    page = np.full((*truth.shape, 3), 255, np.uint8)
    for where, colour in (
        (truth & found, BOTH), (truth & ~found, MASK), (found & ~truth, FOUND), (~known, UNKNOWN)
    ):  # fmt: skip
        page[where] = colour
    height = round(WIDTH * page.shape[0] / page.shape[1])
    return np.asarray(cv2.resize(page, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--segmenter", default="net")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "tissue_cases.jpg"
    sheet = np.ascontiguousarray(cases(args.segmenter)[..., ::-1])
    cv2.imwrite(str(path), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(path)
    if not (SHARED / "data" / "masks").is_dir():
        return
    for title, thumbnail in real(SHARED / "data").items():
        name = title.split(",")[0].split(" (")[0].removesuffix(" pen")
        for what in ("tissue", "pen"):
            if thumbnail.known_of(what).any():
                path = args.folder / f"{what}_{name.replace(' ', '_')}.png"
                cv2.imwrite(str(path), picture(thumbnail, args.segmenter, what))
                print(path)


if __name__ == "__main__":
    main()
