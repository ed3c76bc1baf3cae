"""Does reading keep a GPU busy, with tiles decoded on the CPU or on the GPU?

encoder alone  pixels in memory, two batches under way
decode ...     reading, encoding and writing into a journal, as a run does, by --decode cpu,
               nvimgcodec, where it is installed

The aim is 95 % of the encoder alone. `pixels off` and `cosine` say how far a decoder's pixels are
from the CPU's on average, in levels, and how alike the features are of the patch where they are
least so. Weights are random, and change neither speed nor meaning of the comparison of rates; the
cosine of a trained encoder has to be seen with its weights. Without a CUDA device nothing is
measured; --device cpu shows that the script runs.

    python benchmarks/gpu.py [--slide FILE] [--mpp 0.5] [--model vit_large_patch16_224]
                             [--batch 64] [--patches 8192] [--device cuda] [--quick] [--repeats N]
                             [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from harness import Case, Done, compare, options
from slides import part, write_he

import wsiprep
from wsiprep.core.cores import default_workers
from wsiprep.core.errors import PluginUnavailableError
from wsiprep.core.profile import EncodeTimes
from wsiprep.core.types import PatchGrid
from wsiprep.encoders import EncoderConfig, load_encoder
from wsiprep.encoders.torch_encoder import TorchEncoder
from wsiprep.grid import GridConfig
from wsiprep.store.journal import Journal
from wsiprep.tasks.fill import Work, fill
from wsiprep.tasks.interrupt import StopRequests
from wsiprep.tiles.device.decode import JpegDecoder, load_decoder
from wsiprep.tiles.device.stream import stream_on_device, why_on_host
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tissue import TissueConfig

DECODERS = ("nvimgcodec",)
NOTHING = "no CUDA device: nothing measured"


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Own flags, and those that every benchmark has."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--model", default="vit_large_patch16_224")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--patches", type=int, default=8192)
    parser.add_argument("--device", default="cuda")
    own, rest = parser.parse_known_args(argv)
    opts = options(__doc__, rest)
    if own.batch < 1 or own.patches < 1:
        parser.error("--batch and --patches must be at least 1")
    if opts.quick:
        own.batch, own.patches = 4, 12
    return own, opts


def grid_of(path: Path, mpp: float, patch_px: int, patches: int) -> PatchGrid:
    """Patches with tissue, from the first on."""
    with wsiprep.open_slide(path) as slide:
        tissue = wsiprep.detect_tissue(slide, TissueConfig()).mask
        grid = wsiprep.make_grid(slide.info, tissue, GridConfig(mpp=mpp, patch_size=patch_px))
    return part(grid, slice(patches))


def spans_of(grid: PatchGrid, batch: int) -> list[tuple[int, int]]:
    return [(i, min(i + batch, len(grid))) for i in range(0, len(grid), batch)]


def decoders_on(device: str, path: Path, grid: PatchGrid) -> dict[str, JpegDecoder]:
    """Those that are there; the others are named."""
    if torch.device(device).type != "cuda":
        return {}
    with wsiprep.open_slide(path) as slide:
        why = why_on_host(slide, grid.plan)
    if why is not None:
        print(f"decoded on the CPU only: {why}")
        return {}
    there = {}
    for name in DECODERS:
        try:
            there[name] = load_decoder(name, device, default_workers())
        except PluginUnavailableError as err:
            print(f"skipped {name}: {err}")
    return there


def alone(encoder: TorchEncoder, buffers: list[np.ndarray], grid: PatchGrid, _: Any) -> Done:
    """As many patches as the grid has, from a few buffers that were filled before."""
    begun: deque[Any] = deque()
    done = 0
    for number, (start, stop) in enumerate(spans_of(grid, len(buffers[0]))):
        begun.append(encoder.begin(buffers[number % len(buffers)][: stop - start]))
        if len(begun) == 2:
            done += len(begun.popleft().result())
    return Done(done + sum(len(batch.result()) for batch in begun))


@contextmanager
def journal_for(encoder: TorchEncoder, grid: PatchGrid) -> Iterator[Journal]:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "j", "key", len(grid), encoder.spec.dim, "float16")
        yield journal
        journal.close()


def pipeline(
    path: Path,
    grid: PatchGrid,
    encoder: TorchEncoder,
    batch: int,
    decoder: JpegDecoder | None,
    facts: dict[str, float],
    journal: Journal,
) -> Done:
    name = "cpu" if decoder is None else decoder.name
    ctx: Any = SimpleNamespace(
        workers=default_workers(), stop=StopRequests(), on_event=lambda _: None,
        decoders={} if decoder is None else {name: decoder}, on_bad_tile="fail",
    )  # fmt: skip
    cfg: Any = SimpleNamespace(decode=name)
    with wsiprep.open_slide(path) as slide:
        times, work = EncodeTimes(), [Work(encoder, "key", journal)]
        fill(slide, grid, spans_of(grid, batch), work, cfg, ctx, times)
    return Done(times.tiles, {"waits %": round(100 * times.wait_s / times.seconds), **facts})


def drift(
    path: Path, grid: PatchGrid, encoder: TorchEncoder, batch: int, decoder: JpegDecoder
) -> dict[str, float]:
    """How far the first patches are from those that the CPU decodes."""
    handle, first = partial(wsiprep.open_slide, path), spans_of(grid, batch)[:1]
    (host,) = stream_tiles(handle, grid, first, workers=1)
    (there,) = stream_on_device(handle, grid, first, decoder, workers=1)
    off = np.abs(there.pixels.cpu().numpy().astype(int) - host.pixels).mean()
    a, b = encoder(host.pixels), encoder.begin(there.pixels).result()
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"pixels off": round(float(off), 3), "cosine": round(float(cosine.min()), 6)}


def cases(own: argparse.Namespace, path: Path) -> list[Case]:
    model = own.model if ":" in own.model else f"timm:{own.model}"
    cfg = EncoderConfig(
        encoder=(model,), random_weights=True,
        precision="bf16" if own.device.startswith("cuda") else "auto",
    )  # fmt: skip
    encoder = load_encoder(model, cfg, own.device)
    assert isinstance(encoder, TorchEncoder)
    side = encoder.spec.input_px or 224
    grid = grid_of(path, own.mpp, side, own.patches)
    params = {"model": model, "batch": own.batch, "patches": len(grid)}
    rng = np.random.default_rng(0)
    buffers = [encoder.allocate((own.batch, side, side, 3)) for _ in range(3)]
    for buffer in buffers:
        buffer[...] = rng.integers(0, 256, buffer.shape, np.uint8)
    run = partial(alone, encoder, buffers, grid)
    found = [Case("encoder alone", params, "patches", nullcontext, run)]
    wanted: dict[str, JpegDecoder | None] = {"cpu": None}
    wanted.update(decoders_on(encoder.device, path, grid))
    for name, decoder in wanted.items():
        facts = {} if decoder is None else drift(path, grid, encoder, own.batch, decoder)
        run = partial(pipeline, path, grid, encoder, own.batch, decoder, facts)
        setup = partial(journal_for, encoder, grid)
        found.append(Case(f"decode {name}", params, "patches", setup, run))
    return found


def main(argv: list[str] | None = None) -> None:
    own, opts = arguments(argv)
    if own.device.startswith("cuda") and not torch.cuda.is_available():
        print(NOTHING)
        return
    with tempfile.TemporaryDirectory() as folder:
        side = 1024 if opts.quick else 10240
        path = own.slide or write_he(Path(folder), side, side)
        pixels = "a synthetic slide" if own.slide is None else "a given slide"
        where = (
            torch.cuda.get_device_name(own.device) if own.device.startswith("cuda") else own.device
        )
        title = f"Encoder alone against whole runs: {own.model} on {where}, {pixels}"
        compare(title, cases(own, path), ("encoder alone",), opts)


if __name__ == "__main__":
    main()
