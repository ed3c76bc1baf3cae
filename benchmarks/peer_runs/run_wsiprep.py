"""`wsiprep run` whole: tissue, patches, overlay, GeoJSON, journal, Zarr grid, digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timed import Job, main


def start(job: Job) -> Callable[[], int]:
    from wsiprep.core.config import build
    from wsiprep.encoders import load_encoder
    from wsiprep.tasks.config import PrepareConfig
    from wsiprep.tasks.prepare import prepare

    load_encoder("test", device="cpu")
    values = {
        "slides": (str(job.slide),),
        "output": job.folder / "out",
        "encoder": ("test",),
        "batch_size": job.batch,
        "workers": max(job.workers, 1),
        "device": "cpu",
        "mpp": job.mpp,
        "patch_size": job.patch_px,
    }
    cfg = build(PrepareConfig, ("benchmark", values))

    def work() -> int:
        report = prepare(cfg)
        assert report.exit_code == 0, report.canonical()
        return int(report.rows[0].encoded)

    return work


def check(job: Job) -> dict[str, Any]:
    import wsiprep

    (path,) = (job.folder / "out").glob("*.zarr")
    store = wsiprep.FeatureStore(path)
    rows = store.features().rows().vectors
    return {"rows": len(rows), "mean": float(rows.mean(dtype=float)), "reader": store.slide.reader}


if __name__ == "__main__":
    main(start=start, check=check)
