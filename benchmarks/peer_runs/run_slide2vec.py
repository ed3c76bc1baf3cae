"""slide2vec by its public functions, with an encoder registered as its own are.

Its coordinates carry the record of its own tiling, so corners of others cannot be given: where
corners are given, its own are made before the clock runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from timed import Job, main


def pipeline(job: Job, out: str) -> Any:
    import torch
    from hs2p import PreviewConfig, TilingConfig
    from slide2vec import ExecutionOptions, Model, Pipeline, PreprocessingConfig
    from slide2vec.encoders.base import TorchTileEncoder
    from slide2vec.encoders.registry import register_encoder

    class MeanColour(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    @register_encoder(
        "mean-colour",
        encode_dim=3,
        input_size=job.patch_px,
        supports_variable_input_size=True,
        supported_spacing_um=job.mpp,
        precision="fp32",
        source="computed",
    )
    class MeanColourEncoder(TorchTileEncoder):
        def __init__(self, *, output_variant: str | None = None) -> None:
            super().__init__(
                MeanColour(),
                encode_dim=3,
                input_size=job.patch_px,
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
                output_variant=output_variant,
            )

    return Pipeline(
        Model.from_preset("mean-colour", device="cpu"),
        PreprocessingConfig(
            tiling=TilingConfig(
                requested_spacing_um=job.mpp,
                requested_tile_size_px=job.patch_px,
                tolerance=0.05,
                overlap=0.0,
            ),
            preview=PreviewConfig(),
            num_cucim_workers=max(job.workers, 1),
        ),
        execution=ExecutionOptions(
            output_dir=job.folder / out,
            batch_size=job.batch,
            num_workers_per_gpu=job.workers,
            num_preprocessing_workers=max(job.workers, 1),
            num_gpus=1,
            precision="fp32",
        ),
    )


def slides(job: Job) -> list[dict[str, Any]]:
    return [{"sample_id": "slide", "image_path": job.slide}]


def prepare(job: Job) -> None:
    if job.given is not None:
        pipeline(job, "tiling").run(slides=slides(job), tiling_only=True)


def start(job: Job) -> Callable[[], int]:
    made = pipeline(job, "out")

    def work() -> int:
        if job.given is None:
            result = made.run(slides=slides(job))
        else:
            result = made.run_with_coordinates(job.folder / "tiling", slides=slides(job))
        (artifact,) = result.tile_artifacts
        return int(artifact.num_tiles)

    return work


def check(job: Job) -> dict[str, Any]:
    import torch

    (path,) = (job.folder / "out").rglob("*.pt")
    (tiling,) = job.folder.rglob("*.coordinates.meta.json")
    rows = torch.load(path, weights_only=True)
    reader = json.loads(tiling.read_text())["provenance"]["backend"]
    return {"rows": len(rows), "mean": float(rows.float().mean()), "reader": reader}


if __name__ == "__main__":
    main(start=start, check=check, prepare=prepare)
