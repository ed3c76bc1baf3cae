"""What this machine can do, and what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from wsiprep.core.cores import available_cores, granted_cores
from wsiprep.core.errors import WsiprepError
from wsiprep.slide.open import readers
from wsiprep.tissue.detect import segmenters

__all__ = ["Check", "doctor"]

LIBRARIES = {
    "openslide-python": "openslide",
    "tiffslide": "tiffslide",
    "imagecodecs": "imagecodecs",
    "simplejpeg": "simplejpeg",
    "opencv-python-headless": "cv2",
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "segment-anything": "segment_anything",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
    "dask": "dask.array",
    "h5py": "h5py",
    "safetensors": "safetensors",
    "huggingface-hub": "huggingface_hub",
}
OPTIONAL = {
    "transformers": "language models and text encoders of Hugging Face: train caption, train "
    "instruct, ask; train align with pathflip-v2 or wsi-llava",
    "peft": "LoRA, which pathflip, pathflip-v2 and wsi-llava use",
    "gguf": "language models in .gguf files",
    "accelerate": "language models in .gguf files, and accelerate launch on several GPUs",
}
"""Libraries of the extra `language`, by the names that they are imported by, and what for."""
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        status: `ok`, `warn` (works without) or `fail`.
        detail: What was found.
        remedy: What to do about it.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def doctor(output: Path | None = None) -> list[Check]:
    """Look at Python, libraries, plug-ins, devices, cores, weights, hub settings, and the disk.

    Nothing is fetched and no token is shown.

    Args:
        output: Output folder to try; a scratch file is written in it and removed.
    """
    checks = [Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    checks += [_library(name, module) for name, module in LIBRARIES.items()]
    checks += [_library(name, name, use) for name, use in OPTIONAL.items()]
    checks += list(_plugins())
    checks.append(_guard("devices", _devices))
    checks.append(_cores())
    checks.append(_guard("tissue network", _tissue_network))
    checks.append(_guard("embedded encoder", _lite0))
    checks.append(_hub())
    checks.append(_disk(output or Path.cwd()))
    return checks


def _guard(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except (WsiprepError, ImportError, OSError, RuntimeError) as err:
        return Check(name, "fail", f"{type(err).__name__}: {err}")


def _library(name: str, module: str, use: str = "") -> Check:
    """Whether a library imports; not having one that is for a `use` only is no fault."""
    try:
        importlib.import_module(module)
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "warn", "imports, but its version is not known")
    except (ImportError, OSError) as err:
        if not use:
            return Check(name, "fail", str(err), f"pip install '{name}'")
        remedy = "pip install 'wsiprep[language]', or '.[language]' in a copy of the source"
        return Check(name, "warn", f"{err}; it is for {use}", remedy)


def _tissue_network() -> Check:
    from wsiprep.tissue.integers import has_kernel
    from wsiprep.tissue.segmenters import net

    net.create(net.Config())
    how = "whole numbers" if has_kernel() else "floats: the same masks, in more time"
    return Check("tissue network", "ok", f"computes in {how}")


def _plugins() -> Iterator[Check]:
    from wsiprep.encoders.load import families

    for registry in (readers, segmenters, families):
        for name in registry.names():
            try:
                registry.load(name)
            except WsiprepError as err:
                yield Check(f"{registry.kind} {name}", "fail", err.message, err.hint or "")
            else:
                yield Check(f"{registry.kind} {name}", "ok", "loads")


def _devices() -> Check:
    import torch

    found = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            traits = torch.cuda.get_device_properties(i)
            found.append(f"cuda:{i} {traits.name} {traits.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    if found:
        return Check("devices", "ok", "; ".join(found))
    return Check(
        "devices",
        "warn",
        f"cpu only, {torch.get_num_threads()} threads",
        "large encoders want a GPU; a CUDA build of torch and a driver",
    )


def _cores() -> Check:
    cores = available_cores()
    source = "SLURM_CPUS_PER_TASK" if granted_cores() == cores else "CPU affinity"
    return Check("cores", "ok", f"{cores} ({source}; the node has {os.cpu_count()})")


def _lite0() -> Check:
    from wsiprep.encoders import EncoderConfig, load_encoder

    encoder = load_encoder("lite0", EncoderConfig(), "cpu")
    return Check(
        "embedded encoder", "ok", f"lite0 loads, weights {encoder.spec.weights_sha256[:12]}"
    )


def _hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    token = next((name for name in TOKENS if os.environ.get(name)), None)
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    detail = f"cache {home}, token {'in ' + token if token else 'not set'}"
    if offline.lower() in {"1", "true", "yes", "on"}:
        return Check(
            "model hub",
            "warn",
            f"offline by HF_HUB_OFFLINE; {detail}",
            "only cached models, local --weights and lite0 can be used",
        )
    return Check("model hub", "ok", detail)


def _disk(folder: Path) -> Check:
    there = folder
    while not there.exists():
        there = there.parent
    name = f"output {folder}"
    try:
        with tempfile.TemporaryDirectory(prefix=".wsiprep-doctor-", dir=there) as scratch:
            first, second = Path(scratch) / "a", Path(scratch) / "b"
            first.write_bytes(b"x" * 4096)
            os.replace(first, second)
    except OSError as err:
        return Check(name, "fail", f"cannot be written: {err.strerror}", "choose another --output")
    stat = os.statvfs(there)
    free = stat.f_bavail * stat.f_frsize
    low = free < 10 * 2**30
    return Check(
        name,
        "warn" if low else "ok",
        f"writable, {free / 2**30:.1f} GiB free",
        "features of 1,000 slides take some tens of GiB" if low else "",
    )
