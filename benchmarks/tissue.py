"""How well is tissue found, and pen, and what does it cost?

Segmenters on thumbnails whose truth is known:

grey otsu     Otsu's threshold on brightness
clam style    saturation, median filter, fixed threshold, closing, as CLAM describes it
tia style     Otsu on brightness, small pieces dropped, dilated, as TIAToolbox describes it
otsu, net     ours

Thumbnails are drawn by wsiprep.synth.thumbnails, in stains that `net` was trained on (with other
seeds) and in stains that it has never seen; and real, where WSIPREP_SHARED names the folder that
has them: `net` has not seen those but the one that says so. On real ones small holes are filled and
small pieces dropped for all, as `wsiprep segment` does. IoU is a mean over thumbnails; what nobody
can tell does not count. `rate` is of one core. The last table is what a slide of 100,000 x 100,000
px at 0.25 µm/px costs one core: opening the file, its thumbnail at 8 µm/px from a level of 4 µm/px,
the mask, clean-up and sections.

    python benchmarks/tissue.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import os
import tempfile
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
from thumbnail import pyramid
from tissue_baselines import BASELINES

from wsiprep import open_slide
from wsiprep.core.contracts import Segmenter
from wsiprep.core.types import Segmentation
from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.labels import CLASSES, Thumbnail
from wsiprep.synth.thumbnails.scene import sample_scene
from wsiprep.synth.thumbnails.stains import HELD_OUT, STAINS
from wsiprep.tissue.clean import clean_tissue
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.detect import detect_tissue
from wsiprep.tissue.segmenters import registry

SEED = 88_000_000
"""Of thumbnails that were not looked at while the generator or the network was changed."""
SIDE = 512
COUNT = 240
SEGMENTERS = ("otsu", "net")
LARGE_PX = 100_000
"""Width and height of the slide whose cost is told, at 0.25 µm/px."""

CHILD = """
from child import tell
from tissue import find_on
import cv2, torch
torch.set_num_threads(1)
cv2.setNumThreads(1)
if len(sys.argv) > 2:
    find_on(sys.argv[1], sys.argv[2])
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


def tissue_of(found: Segmentation, mpp: float, *, clean: bool = False) -> NDArray[np.bool_]:
    """Tissue without ink and edges; `clean` as `wsiprep segment` cleans it."""
    beside = found.pen if found.edge is None else found.pen | found.edge
    if not clean:
        return found.tissue & ~beside
    cfg = TissueConfig()
    return clean_tissue(
        found.tissue, (mpp, mpp), min_area_mm2=cfg.min_tissue_area, holes=cfg.holes,
        min_hole_mm2=cfg.min_hole_area, exclude=beside,
    ) & ~beside  # fmt: skip


def judge(
    segmenter: Segmenter, thumbnails: Sequence[Thumbnail], *, clean: bool = False
) -> dict[str, float]:
    """Measures over thumbnails, each by what is known in it; `clean` as `wsiprep segment` does."""
    values: dict[str, list[float]] = {}

    def note(name: str, both: NDArray[np.bool_], of: NDArray[np.bool_]) -> None:
        if of.any():
            values.setdefault(name, []).append(float(both.sum() / of.sum()))

    for made in thumbnails:
        found = segmenter.segment(made.pixels, made.mpp)
        known, truth = made.known_of("tissue"), made.mask("tissue")
        # Ink and edges are left out of tissue, as `wsiprep segment` does.
        truth = truth & ~made.mask("pen") & ~made.mask("edge")
        tissue = tissue_of(found, made.mpp, clean=clean) & known
        truth &= known
        least = TissueConfig().min_tissue_area * 1e6 / made.mpp**2
        if not known.any() or 0 < truth.sum() < least:
            pass  # less than `wsiprep segment` keeps: not a thumbnail with tissue, nor without
        elif truth.any():
            note("IoU", tissue & truth, tissue | truth)
            note("recall", tissue & truth, truth)
            note("precision", tissue & truth, tissue)
        else:
            values.setdefault("glass taken, %", []).append(
                100 * float(tissue.sum() / max(1, known.sum()))
            )
            left = tissue_of(found, made.mpp, clean=True)
            values.setdefault("not empty when cleaned, %", []).append(100 * float(left.any()))
        if made.known_of("pen").any():
            ink = made.mask("pen")
            note("pen recall", found.pen & ink, ink)
            note("pen taken for tissue", tissue_of(found, made.mpp) & ink, ink)
        edge = made.mask("edge") & ~made.mask("tissue") & made.known_of("edge")
        note("edge taken for tissue", tissue_of(found, made.mpp) & edge, edge)
    facts = {name: float(np.mean(items)) for name, items in values.items()}
    if "IoU" in values:
        facts["worst IoU"] = min(values["IoU"])
    return facts


def cases(thumbnails: Sequence[Thumbnail], *, clean: bool) -> list[Case]:
    made: list[Case] = []

    def run(segmenter: Segmenter) -> Done:
        return Done(len(thumbnails), judge(segmenter, thumbnails, clean=clean))

    for name, find in BASELINES.items():
        made.append(Case(name, {}, "thumbnails", partial(nullcontext, Baseline(find)), run))
    for name in SEGMENTERS:
        made.append(Case(name, {}, "thumbnails", partial(nullcontext, ours(name)), run))
    return made


def large_slide(folder: Path, side: int) -> Path:
    """A file of `side` x `side` px at 0.25 µm/px with levels of 1 and 4 µm/px: tissue, repeated."""
    drawn = draw_scene(sample_scene(SEED + 3, ["he"]), (SIDE, SIDE)).pixels
    at_4_um = cv2.resize(drawn, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_LINEAR)
    return pyramid(folder, side, np.asarray(at_4_um, np.uint8))


def find_on(path: str, name: str) -> None:
    """What `wsiprep segment` does with a slide before it writes; `thumbnail` reads that alone."""
    with open_slide(Path(path)) as slide:
        if name == "thumbnail":
            slide.thumbnail(8.0)
        else:
            detect_tissue(slide, TissueConfig(segmenter=name))


def cost_cases(path: Path) -> list[Case]:
    """Finding tissue as `wsiprep segment` does, thumbnail, clean-up and sections included."""
    names = ("thumbnail", *SEGMENTERS)
    peaks = {name: _peak(path, name) for name in (None, *names)}

    def run(name: str) -> Done:
        find_on(str(path), name)
        return Done(1, {"MiB in all": peaks[name], "MiB beyond imports": peaks[name] - peaks[None]})

    return [Case(n, {}, "slides", nullcontext, lambda _, n=n: run(n)) for n in names]


def _peak(path: Path, name: str | None) -> float:
    facts = in_child(CHILD, [path, name] if name else [path]).facts
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
    if hasattr(os, "sched_setaffinity"):  # one core, for the threads that decode too
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    repeats, opts.repeats = opts.repeats, 1  # the same each time, but for the cost
    count = 4 if opts.quick else COUNT
    seen = [name for name in STAINS if name not in HELD_OUT]
    sets = {
        "drawn in stains that `net` was trained on": drawn(seen, count, SEED),
        "drawn in stains that `net` has never seen": drawn(HELD_OUT, count, SEED + 100_000),
        "drawn without tissue": empty(max(2, count // 4)),
    }
    for title, thumbnails in sets.items():
        compare(f"Tissue: {title}", cases(thumbnails, clean=False), ("otsu",), opts)
    shared = os.environ.get("WSIPREP_SHARED")
    for title, made in (real(Path(shared) / "data") if shared and not opts.quick else {}).items():
        compare(f"Tissue: {title}", cases([made], clean=True), ("otsu",), opts)
    side, opts.repeats = 4096 if opts.quick else LARGE_PX, repeats
    with tempfile.TemporaryDirectory() as folder:
        path = large_slide(Path(folder), side)
        compare(f"Tissue of a slide of {side:,} x {side:,} px", cost_cases(path), ("otsu",), opts)


if __name__ == "__main__":
    main()
