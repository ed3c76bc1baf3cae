"""How well is tissue found, and pen, and what does it cost?

Segmenters on thumbnails whose truth is known:

grey otsu     Otsu's threshold on brightness
clam style    saturation, median filter, fixed threshold, closing, as CLAM describes it
tia style     Otsu on brightness, small pieces dropped, dilated, as TIAToolbox describes it
otsu, net     ours

Thumbnails are drawn by wsiprep.synth.thumbnails, in stains that `net` was trained on (with other
seeds) and in stains that it has never seen; and real, where the environment variable WSIPREP_SHARED
names the folder that has them: `net` has not seen those but the one that says so. IoU is a mean
over thumbnails; pixels under opaque ink do not count. `rate` is of one core. The last table is what
a slide of 100,000 x 100,000 px at 0.25 µm/px costs, thumbnail and mask.

    python benchmarks/tissue.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from child import in_child
from harness import Case, Done, compare, options
from numpy.typing import NDArray
from tissue_baselines import BASELINES

from wsiprep.core.contracts import Segmenter
from wsiprep.core.types import Segmentation
from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.labels import CLASSES, Thumbnail
from wsiprep.synth.thumbnails.scene import sample_scene
from wsiprep.synth.thumbnails.stains import HELD_OUT, STAINS
from wsiprep.tissue.segmenters import registry

SEED = 77_000_000
SIDE = 512
COUNT = 120
SEGMENTERS = ("otsu", "net")
LARGE = (12_500 // 4, 12_500 // 4)
"""Thumbnail at 8 µm/px of 25 mm of glass on each side."""

CHILD = """
from child import tell
from tissue import large_thumbnail, ours
import torch
torch.set_num_threads(1)
thumbnail = large_thumbnail()
if len(sys.argv) > 1:
    ours(sys.argv[1]).segment(thumbnail, 8.0)
tell(1)
"""


class Baseline:
    """A threshold as a segmenter."""

    def __init__(self, find: Callable[[NDArray[np.uint8], float], NDArray[np.bool_]]) -> None:
        self._find = find

    def segment(self, thumbnail: NDArray[np.uint8], mpp: float) -> Segmentation:
        """Tissue, and no ink."""
        found = self._find(thumbnail, mpp)
        return Segmentation(found, np.zeros_like(found))


def ours(name: str) -> Segmenter:
    module = registry.load(name)
    made: Segmenter = module.create(module.Config())
    return made


def drawn(stains: Sequence[str], count: int, seed: int) -> list[Thumbnail]:
    """Thumbnails that show tissue."""
    scenes = (sample_scene(seed + k, stains) for k in range(10 * count))
    made = (draw_scene(s, (SIDE, SIDE)) for s in scenes if s.layout != "empty")
    return [next(made) for _ in range(count)]


def empty(count: int) -> list[Thumbnail]:
    """Thumbnails of glass, dirt and ink."""
    scenes = (sample_scene(SEED + 500_000 + k) for k in range(100 * count))
    made = (draw_scene(s, (SIDE, SIDE)) for s in scenes if s.layout == "empty")
    return [next(made) for _ in range(count)]


def judge(segmenter: Segmenter, thumbnails: Sequence[Thumbnail]) -> dict[str, float]:
    """Measures over thumbnails, each by what is known in it."""
    values: dict[str, list[float]] = {}

    def note(name: str, both: NDArray[np.bool_], of: NDArray[np.bool_]) -> None:
        if of.any():
            values.setdefault(name, []).append(float(both.sum() / of.sum()))

    for made in thumbnails:
        found = segmenter.segment(made.pixels, made.mpp)
        clear = ~found.pen
        if found.edge is not None:
            clear &= ~found.edge
        known, truth = made.known_of("tissue"), made.mask("tissue")
        # Ink and edges are left out of tissue, as `wsiprep segment` does.
        truth = truth & ~made.mask("pen") & ~made.mask("edge")
        tissue = found.tissue & clear & known
        truth &= known
        if truth.any():
            note("IoU", tissue & truth, tissue | truth)
            note("recall", tissue & truth, truth)
            note("precision", tissue & truth, tissue)
        else:
            values.setdefault("glass taken, %", []).append(100 * float(tissue.sum() / known.sum()))
        if made.known_of("pen").any():
            ink = made.mask("pen")
            note("pen recall", found.pen & ink, ink)
            note("pen taken for tissue", found.tissue & clear & ink, ink)
        edge = made.mask("edge") & ~made.mask("tissue") & made.known_of("edge")
        note("edge taken for tissue", found.tissue & clear & edge, edge)
    facts = {name: float(np.mean(items)) for name, items in values.items()}
    if "IoU" in values:
        facts["worst IoU"] = min(values["IoU"])
    return facts


def cases(thumbnails: Sequence[Thumbnail]) -> list[Case]:
    made: list[Case] = []

    def run(segmenter: Segmenter) -> Done:
        return Done(len(thumbnails), judge(segmenter, thumbnails))

    for name, find in BASELINES.items():
        made.append(Case(name, {}, "thumbnails", partial(nullcontext, Baseline(find)), run))
    for name in SEGMENTERS:
        made.append(Case(name, {}, "thumbnails", partial(nullcontext, ours(name)), run))
    return made


def large_thumbnail() -> NDArray[np.uint8]:
    """Tissue on a large glass: a drawn thumbnail over and over."""
    tile = draw_scene(sample_scene(SEED + 3, ["he"]), (SIDE, SIDE)).pixels
    rows, cols = (-(-n // SIDE) for n in LARGE)
    return np.ascontiguousarray(np.tile(tile, (rows, cols, 1))[: LARGE[0], : LARGE[1]])


def cost_cases() -> list[Case]:
    picture = large_thumbnail()

    def find(name: str) -> Done:
        ours(name).segment(picture, 8.0)
        return Done(1)

    peaks = {name: _peak(name) for name in (None, *SEGMENTERS)}
    return [
        Case(
            name, {}, "slides", nullcontext,
            lambda _, name=name: Done(1, {**find(name).facts, "MiB beyond the thumbnail":
                                          peaks[name] - peaks[None]}),
        )
        for name in SEGMENTERS
    ]  # fmt: skip


def _peak(name: str | None) -> float:
    facts = in_child(CHILD, [name] if name else []).facts
    return float(facts["peak MiB"])


def real(shared: Path) -> dict[str, Thumbnail]:
    """Real thumbnails with masks, by what they are."""
    masks = shared / "masks"

    def pair(image: str, mpp: float, box: tuple[slice, slice], **known: NDArray[np.bool_]):
        bgr = cv2.imread(str(masks / image))[box]
        label = np.zeros(bgr.shape[:2], np.uint8)
        sure = np.zeros(bgr.shape[:2], np.uint8)
        for name, mask in known.items():
            bit = np.uint8(1 << CLASSES.index(name))
            label[mask] |= bit
            sure |= bit
        return Thumbnail(np.ascontiguousarray(bgr[..., ::-1]), label, sure, mpp)

    def mask(name: str, box: tuple[slice, slice] = (slice(None), slice(None))):
        return cv2.imread(str(masks / name), cv2.IMREAD_GRAYSCALE)[box] > 128

    import tifffile

    whole = (slice(None), slice(None))
    inner = (slice(48, 445), slice(32, 568))
    with tifffile.TiffFile(shared / "slides" / "hs2p_test-mask.tif") as tiff:
        prostate = tiff.pages[0].asarray() > 0
    pens = cv2.imread(str(masks / "dhp_combine-pens-background-original.png"))[inner]
    teal = (pens[..., 2] < 150) & (pens[..., 1] > 150)
    return {
        "prostate": pair("hs2p_slide-visu.jpg", 16.0, whole, tissue=prostate),
        "breast, two pens (its mask leaves lacunae of fat open)": pair(
            "dhp_combine-pens-background-original.png", 40.0, inner,
            tissue=mask("dhp_combine-pens-background-mask.png", inner), pen=teal,
        ),
        "red pen (its mask is of pen, and sparse)": pair(
            "hqc_pen_red.png", 16.0, whole, pen=mask("hqc_pen_red_mask.png")
        ),
        "coverslip edge (seen in training)": pair(
            "hqc_coverslip_he.png", 16.0, whole, edge=mask("hqc_coverslip_he_mask.png")
        ),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    opts.repeats = 1
    count = 4 if opts.quick else COUNT
    seen = [name for name in STAINS if name not in HELD_OUT]
    sets = {
        "drawn in stains that `net` was trained on": drawn(seen, count, SEED),
        "drawn in stains that `net` has never seen": drawn(HELD_OUT, count, SEED + 100_000),
        "drawn without tissue": empty(max(2, count // 4)),
    }
    shared = os.environ.get("WSIPREP_SHARED")
    if shared and not opts.quick:
        sets |= {name: [made] for name, made in real(Path(shared)).items()}
    for title, thumbnails in sets.items():
        compare(f"Tissue: {title}", cases(thumbnails), ("otsu",), opts)
    compare("Tissue of a slide of 100,000 x 100,000 px", cost_cases(), ("otsu",), opts)


if __name__ == "__main__":
    main()
