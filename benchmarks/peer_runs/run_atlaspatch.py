"""AtlasPatch by its public command line, with an encoder given as its README says.

Its tissue detection needs a SAM2 checkpoint from a hub, so it always gets the corners of the
patches, in the HDF5 layout that its README documents; finding tissue is not in its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timed import Job, main

# The documented plug-in: a file with `register_feature_extractors`.
PLUGIN = """
import torch
from atlas_patch.models.patch.custom import CustomEncoderComponents, register_custom_encoder
from torchvision.transforms.functional import to_tensor


class MeanColour(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))


def load(device, dtype):
    return CustomEncoderComponents(MeanColour().to(device=device, dtype=dtype), to_tensor)


def register_feature_extractors(registry, device, dtype, num_workers):
    register_custom_encoder(
        registry=registry, name="mean_colour", embedding_dim=3, loader=load, device=device,
        dtype=dtype, num_workers=num_workers,
    )
"""


def prepare(job: Job) -> None:
    import h5py
    import numpy as np
    import openslide

    assert job.given is not None, "AtlasPatch cannot find tissue without its checkpoint"
    corners = np.load(job.given)
    with openslide.OpenSlide(job.slide) as slide:
        width, height = slide.dimensions
        power = int(float(slide.properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER]))
    rows = np.zeros((len(corners), 5), np.int32)  # x, y, width and height read, level
    rows[:, :2], rows[:, 2:4] = corners, job.patch_px
    path = job.folder / "out" / "patches" / f"{job.slide.stem}.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["coords"] = rows
        file.attrs.update(
            patch_size=job.patch_px,
            patch_size_level0=job.patch_px,
            level0_magnification=power,
            target_magnification=power,
            overlap=0,
            level0_width=width,
            level0_height=height,
            num_patches=len(rows),
            wsi_path=str(job.slide),
        )
    (job.folder / "plugin.py").write_text(PLUGIN)
    (job.folder / "power").write_text(str(power))


def start(job: Job) -> Callable[[], int]:
    import h5py
    import torch  # noqa: F401 - the command imports it, and it is start-up
    from atlas_patch.cli import cli

    words = ["process", str(job.slide), "--output", str(job.folder / "out")]
    words += ["--patch-size", str(job.patch_px), "--target-mag", (job.folder / "power").read_text()]
    words += ["--device", "cpu", "--feature-device", "cpu", "--feature-precision", "float32"]
    words += ["--feature-plugin", str(job.folder / "plugin.py")]
    words += ["--feature-extractors", "mean_colour", "--feature-batch-size", str(job.batch)]
    words += ["--feature-num-workers", str(job.workers)]

    def work() -> int:
        cli.main(words, standalone_mode=False)
        with h5py.File(job.folder / "out" / "patches" / f"{job.slide.stem}.h5") as file:
            return len(file["features/mean_colour"])

    return work


def check(job: Job) -> dict[str, Any]:
    import h5py

    with h5py.File(job.folder / "out" / "patches" / f"{job.slide.stem}.h5") as file:
        rows = file["features/mean_colour"][:]
    return {"rows": len(rows), "mean": float(rows.mean()), "reader": "openslide"}


if __name__ == "__main__":
    main(start=start, check=check, prepare=prepare)
