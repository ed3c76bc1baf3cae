"""LazySlide by its public functions, with a torch module as the model, its result written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timed import Job, main


def start(job: Job) -> Callable[[], int]:
    import lazyslide
    import numpy as np
    import torch
    from torchvision.transforms.functional import to_tensor
    from wsidata import TileSpec
    from wsidata.io import add_tiles

    class MeanColour(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    encoder = MeanColour().eval()

    def work() -> int:
        slide = lazyslide.open_wsi(str(job.slide), store=str(job.folder / "out.zarr"))
        if job.given is None:
            lazyslide.pp.find_tissues(slide)
            lazyslide.pp.tile_tissues(slide, tile_px=job.patch_px, mpp=job.mpp)
        else:
            corners = np.load(job.given)
            spec = TileSpec.from_wsidata(slide, tile_px=job.patch_px, mpp=job.mpp)
            add_tiles(slide, "tiles", corners, spec, np.zeros(len(corners), np.int64))
        lazyslide.tl.feature_extraction(
            slide,
            encoder,
            model_name="mean_colour",
            transform=to_tensor,
            device="cpu",
            batch_size=job.batch,
            num_workers=job.workers,
            pbar=False,
        )
        slide.write()
        return len(slide.shapes["tiles"])

    return work


def check(job: Job) -> dict[str, Any]:
    import lazyslide
    import numpy as np

    slide = lazyslide.open_wsi(str(job.slide), store=str(job.folder / "out.zarr"))
    (key,) = slide.tables
    rows = np.asarray(slide.tables[key].X)
    return {"rows": len(rows), "mean": float(rows.mean()), "reader": slide.reader.name}


if __name__ == "__main__":
    main(start=start, check=check)
