"""Prepare real thumbnails for `wsiprep train tissue`, as for the network that is shipped.

Takes the folder of public pictures listed in docs/tissue.md and writes, into another folder:

textures/    squares that are tissue and nothing else
pairs.csv    whole thumbnails with masks; masks of tissue and pen are those of the segmenter `otsu`,
             looked at by eye, with a margin along every border left open (`ignore`)

    python examples/train_tissue/prepare.py DATA OUT
    wsiprep train tissue --data OUT/pairs.csv --textures OUT/textures --output net
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np

from wsiprep import open_slide
from wsiprep.slide import SlideConfig
from wsiprep.tissue.regions import close
from wsiprep.tissue.segmenters import otsu

BOX_PX = 112
PICTURES = (
    ("masks/dhp_pink-and-purple-slide.png", 40.0),
    ("masks/dhp_purple-slide.png", 40.0),
    ("masks/dhp_slide-pen.png", 40.0),
    ("masks/hqc_coverslip_he.png", 16.0),
)
EDGE = {"hqc_coverslip_he": "masks/hqc_coverslip_he_mask.png"}
SLIDES = (("slides/cmu-1-small-region.svs", 4.0), ("slides/cmu-1-small-region.svs", 8.0))
"""Slides from which textures are taken, and at which µm/px."""


def boxes(rgb: np.ndarray, tissue: np.ndarray) -> list[np.ndarray]:
    """Squares that are tissue all over."""
    share = cv2.boxFilter(tissue.astype(np.float32), -1, (BOX_PX, BOX_PX), anchor=(0, 0))
    found = []
    for y in range(0, rgb.shape[0] - BOX_PX + 1, BOX_PX // 2):
        for x in range(0, rgb.shape[1] - BOX_PX + 1, BOX_PX // 2):
            if share[y, x] > 0.985:
                found.append(rgb[y : y + BOX_PX, x : x + BOX_PX])
    return found


def margin(*masks: np.ndarray) -> np.ndarray:
    """Pixels along the borders of masks."""
    near = np.zeros(masks[0].shape, np.uint8)
    for mask in masks:
        near |= cv2.morphologyEx(
            mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)
        )
    return near > 0


def write(path: Path, image: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"{path} cannot be written")
    return path.name


def main(data: Path, out: Path) -> None:
    segmenter = otsu.create(otsu.Config(close_um=40.0))
    rows = []
    for name, mpp in PICTURES:
        bgr = cv2.imread(str(data / name))
        if bgr is None:
            raise OSError(f"{data / name} is missing")
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        found = segmenter.segment(rgb, mpp)
        stem = Path(name).stem
        # Lacunae of fat are tissue to some and glass to others.
        around = close(found.tissue, 400 / mpp) & ~found.tissue
        ignore = margin(found.tissue, found.pen) | around
        row = {
            "image": write(out / f"{stem}.png", bgr),
            "tissue": write(out / f"{stem}_tissue.png", found.tissue.astype(np.uint8) * 255),
            "pen": write(out / f"{stem}_pen.png", found.pen.astype(np.uint8) * 255),
            "edge": "", "fold": "", "mpp": mpp, "split": "train",
        }  # fmt: skip
        clean = found.tissue
        if stem in EDGE:
            edge = cv2.imread(str(data / EDGE[stem]), cv2.IMREAD_GRAYSCALE) > 128
            row["edge"] = write(out / f"{stem}_edge.png", edge.astype(np.uint8) * 255)
            clean = found.tissue & ~edge
            write(out / f"{stem}_tissue.png", clean.astype(np.uint8) * 255)
            write(out / f"{stem}_pen.png", np.zeros_like(edge, np.uint8))
        row["ignore"] = write(out / f"{stem}_ignore.png", ignore.astype(np.uint8) * 255)
        rows.append(row)
        for k, box in enumerate(boxes(bgr, clean & ~found.pen)):
            write(out / "textures" / f"{stem}-{k}.png", box)
    for name, mpp in SLIDES:
        with open_slide(data / name, SlideConfig()) as slide:
            rgb = slide.thumbnail(mpp)
        found = segmenter.segment(rgb, mpp)
        for k, box in enumerate(boxes(rgb[..., ::-1], found.tissue)):
            write(out / "textures" / f"{Path(name).stem}-{mpp:g}-{k}.png", box)
    with (out / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
