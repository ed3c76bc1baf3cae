"""Where `net` and the mask of a real pair disagree, as pictures: no pixels of slides, masks alone.

Green: both. Red: the mask alone. Blue: `net` alone. Grey: nobody can tell.

    WSIPREP_SHARED=... python benchmarks/tissue_pictures.py FOLDER [--segmenter net]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tissue import ours, real, tissue_of

from wsiprep.synth.thumbnails.labels import Thumbnail

BOTH, MASK, FOUND, UNKNOWN = (96, 174, 39), (43, 43, 210), (200, 90, 30), (200, 200, 200)  # BGR
WIDTH = 1000


def picture(thumbnail: Thumbnail, segmenter: str) -> NDArray[np.uint8]:
    """Agreement on tissue, uint8 (h, w, 3) BGR."""
    seen = ours(segmenter).segment(thumbnail.pixels, thumbnail.mpp)
    found = tissue_of(seen, thumbnail.mpp, clean=True)
    known, truth = thumbnail.known_of("tissue"), thumbnail.mask("tissue")
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
    for title, thumbnail in real(Path(os.environ["WSIPREP_SHARED"]) / "data").items():
        if thumbnail.known_of("tissue").any():
            name = title.split(",")[0].split(" (")[0]
            path = args.folder / f"{args.segmenter}_{name.replace(' ', '_')}.png"
            cv2.imwrite(str(path), picture(thumbnail, args.segmenter))
            print(path)


if __name__ == "__main__":
    main()
