"""How long do the cells of a large slide take: where they lie, and how much tissue each holds?

A tissue mask of 8 µm/px over a slide of 100,000 x 100,000 px at 0.25 µm/px; no slide is read.
`naive` is the loop over cells that counts mask pixels under each; it gives the same cells up to
the fraction of mask pixels at their borders.

    python benchmarks/lattice.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

from contextlib import nullcontext

import cv2
import numpy as np
from case import Case, Done
from harness import compare, options

from wsiprep.core.types import Box, Size, SlideInfo, TissueMask
from wsiprep.grid import GridConfig, make_grid

SLIDE_MPP = 0.25


def slide_of(side0_px: int) -> SlideInfo:
    return SlideInfo(
        id="large",
        uri="large",
        reader="none",
        reader_reason="none is read",
        vendor=None,
        size0=Size(side0_px, side0_px),
        mpp=SLIDE_MPP,
        mpp_source="metadata",
        objective=40,
        downsamples=(1.0,),
        level_sizes=(Size(side0_px, side0_px),),
        bounds0=Box(0, 0, side0_px, side0_px),
        fingerprint="0" * 64,
    )


def tissue_of(info: SlideInfo) -> TissueMask:
    side = round(info.size0.width * SLIDE_MPP / 8)
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (side // 2, side // 2), (side // 3, 2 * side // 5), 20, 0, 360, 1, -1)
    return TissueMask(mask.astype(bool), np.zeros_like(mask, bool), 8.0, info.size0, "drawn")


def naive(info: SlideInfo, tissue: TissueMask, cfg: GridConfig) -> int:
    scale, _ = tissue.scale0
    step = round(cfg.patch_size * cfg.mpp / info.mpp)
    kept = 0
    for y in range(0, info.size0.height, step):
        for x in range(0, info.size0.width, step):
            part = tissue.mask[
                int(y / scale) : int((y + step) / scale), int(x / scale) : int((x + step) / scale)
            ]
            kept += bool(part.size and part.mean() >= cfg.min_tissue)
    return kept


def cases(info: SlideInfo, tissue: TissueMask, mpp: float) -> list[Case]:
    cfg = GridConfig(mpp=mpp)
    cells = len(make_grid(info, tissue, GridConfig(mpp=mpp, min_tissue=0)))
    # The loop must agree but for cells at the rim of the tissue, or it measures something else.
    ours, loop = len(make_grid(info, tissue, cfg)), naive(info, tissue, cfg)
    assert abs(ours - loop) <= 0.05 * ours + 8

    def grid(_: None) -> Done:
        return Done(cells, {"kept": len(make_grid(info, tissue, cfg))})

    def by_hand(_: None) -> Done:
        return Done(cells, {"kept": naive(info, tissue, cfg)})

    return [
        Case("make_grid", {}, "cells", nullcontext, grid),
        Case("naive", {}, "cells", nullcontext, by_hand),
    ]


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    info = slide_of(10_000 if opts.quick else 100_000)
    tissue = tissue_of(info)
    for mpp in (0.5, 0.25):
        title = f"Placing patches of 256 px at {mpp:g} µm/px on a slide of 100,000 x 100,000 px"
        compare(title, cases(info, tissue, mpp), ("naive",), opts)


if __name__ == "__main__":
    main()
