"""How many patches a second does a CPU encode, and what of that depends on how it is asked?

Encoder alone, for `lite0` and for ViT-S/16 with random weights, on pixels in memory:

ours         one patch at a time in each of as many threads as there are cores, products by oneDNN,
             on a processor of Intel's by MKL
two begun    the same in batches of 8, the next begun before the result of the last is asked for
others       one thing changed: products by MKL as torch has it, products by oneDNN, 4 patches at a
             time, the whole batch with all threads in one layer, colours one after another in
             memory instead of pixel by pixel, attention written out, bfloat16, compiled (where a
             C++ compiler is)

Then with reading: tiles of a synthetic slide through `stream_tiles` into `lite0`, with reading
and encoding threads in several numbers; `shared layers` gives all of torch's threads one layer.
Vectors are compared first: but for bfloat16 all agree to rounding.

    python benchmarks/encode.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Case, Done, compare, options
from slides import tissue_grid, write_he
from torch import nn

from wsiprep import open_slide
from wsiprep.core.cores import available_cores
from wsiprep.core.types import PatchGrid
from wsiprep.encoders import EncoderConfig, load_encoder
from wsiprep.encoders.onednn import use_onednn
from wsiprep.encoders.torch_encoder import TorchEncoder
from wsiprep.tiles import stream_tiles

CPU = torch.device("cpu")
CORES = available_cores()
BATCH = 32


@dataclass(frozen=True)
class Variant:
    """An encoder asked in some way."""

    name: str
    change: Callable[[nn.Module], nn.Module] = lambda module: module
    patches: int = 1
    threads: int = CORES
    layer_threads: int = 1
    precision: Any = "fp32"

    def build(self, encoder: TorchEncoder) -> TorchEncoder:
        """An encoder of its own from one of ours."""
        made = TorchEncoder(
            copy.deepcopy(encoder._network._module), encoder.spec, CPU, self.precision,
            patches=self.patches, threads=self.threads,
        )  # fmt: skip
        made._network._module = self.change(made._network._module)
        if self.layer_threads > 1:
            made._network._module = AllThreads(made._network._module, self.layer_threads)
        return made


class AllThreads(nn.Module):
    """Lets torch share each layer between threads."""

    def __init__(self, module: nn.Module, threads: int) -> None:
        super().__init__()
        self.module, self.threads = module, threads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the module gives."""
        torch.set_num_threads(self.threads)
        return self.module(x)


class Planar(nn.Module):
    """The module in torch's own layout: colours (channels) one after another."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.contiguous_format)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the module gives."""
        return self.module(x.contiguous())


def by_mkl(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if type(layer) not in {nn.Linear, nn.Conv2d} and type(layer).__module__.endswith("onednn"):
            layer.__class__ = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    return module


def without_sdpa(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = False
    return module


def compiled(module: nn.Module) -> nn.Module:
    import torch._inductor.config as inductor

    inductor.freezing = True  # weights are constants: packed, and folded into each other
    return torch.compile(by_mkl(module))  # which takes what it likes for products


def variants(vit: bool) -> list[Variant]:
    made = [
        Variant("ours"),
        Variant("products by MKL", by_mkl),
        Variant("products by oneDNN", use_onednn),
        Variant("4 patches at a time", patches=4),
        Variant("whole batch, shared layers", patches=BATCH, threads=1, layer_threads=CORES),
        Variant("a patch, shared layers", threads=1, layer_threads=CORES),
        Variant("channels first", Planar),
        Variant("bfloat16", precision="bf16"),
    ]
    if vit:
        made.append(Variant("without SDPA", without_sdpa))
    if shutil.which("c++") or shutil.which("g++"):
        made.append(Variant("compiled", compiled))
    return made


def encoded(encoder: TorchEncoder, pixels: np.ndarray, _: Any) -> Done:
    return Done(len(encoder(pixels)))


def begun(encoder: TorchEncoder, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Vectors of batches in order, two of them under way."""
    before = None
    for part in parts:
        pending = encoder.begin(part)
        if before is not None:
            yield before.result()
        before = pending
    if before is not None:
        yield before.result()


def two_begun(encoder: TorchEncoder, pixels: np.ndarray, _: Any) -> Done:
    parts = (pixels[at : at + 8] for at in range(0, len(pixels), 8))
    return Done(sum(map(len, begun(encoder, parts))))


def alone_cases(name: str, count: int) -> list[Case]:
    first = load_encoder(name, EncoderConfig(random_weights=True), "cpu")
    assert isinstance(first, TorchEncoder)
    side = first.spec.input_px or 256
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    wanted = first(pixels[:4])
    cases = []
    for variant in variants("vit" in name):
        encoder = variant.build(first)
        difference = np.abs(encoder(pixels[:4]) - wanted).max() / np.abs(wanted).max()
        assert difference < (0.05 if variant.precision == "bf16" else 1e-4), variant.name
        params = {"batch": count}
        cases.append(
            Case(variant.name, params, "patches", nullcontext, partial(encoded, encoder, pixels))
        )
        if variant.name == "ours":
            run = partial(two_begun, encoder, pixels)
            cases.append(Case("two begun", {"batch": 8}, "patches", nullcontext, run))
    return cases


def read_and_encode(
    path: Path, grid: PatchGrid, encoder: TorchEncoder, readers: int, _: Any
) -> Done:
    spans = [(i, min(i + BATCH, len(grid))) for i in range(0, len(grid), BATCH)]
    tiles = stream_tiles(
        partial(open_slide, path), grid, spans, workers=readers, allocate=encoder.allocate
    )
    return Done(sum(map(len, begun(encoder, (batch.pixels for batch in tiles)))))


def reading_cases(path: Path, grid: PatchGrid) -> list[Case]:
    first = load_encoder("lite0", EncoderConfig(random_weights=True), "cpu")
    assert isinstance(first, TorchEncoder)
    counts = sorted({1, max(1, CORES - 1), CORES})
    cases = []
    for readers in counts:
        for threads in counts:
            encoder = Variant("", threads=threads).build(first)
            cases.append(_reading(f"{readers} + {threads}", path, grid, encoder, readers))
    shared = Variant("", patches=BATCH, threads=1, layer_threads=CORES).build(first)
    name = f"{CORES} + shared layers"
    return [*cases, _reading(name, path, grid, shared, CORES)]


def _reading(name: str, path: Path, grid: PatchGrid, encoder: TorchEncoder, readers: int) -> Case:
    run = partial(read_and_encode, path, grid, encoder, readers)
    return Case(name, {}, "patches", nullcontext, run)


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    logging.getLogger("torch").setLevel(logging.ERROR)  # the compiler looks for CUDA, and says so
    warnings.filterwarnings("ignore", module="torch")
    count = 2 if opts.quick else BATCH
    for name, title in (
        ("lite0", "Encoding on a CPU: `lite0`"),
        ("timm:vit_small_patch16_224", "Encoding on a CPU: ViT-S/16"),
    ):
        compare(title, alone_cases(name, count), ("ours", "products by MKL"), opts)
    with tempfile.TemporaryDirectory() as folder:
        size = (1024, 768) if opts.quick else (5120, 3840)
        path = write_he(Path(folder), *size)
        grid = tissue_grid(path, 0.5)
        title = "Reading and encoding with `lite0` on a CPU (reading + encoding threads)"
        compare(title, reading_cases(path, grid), (f"{CORES} + {CORES}",), opts)


if __name__ == "__main__":
    main()
