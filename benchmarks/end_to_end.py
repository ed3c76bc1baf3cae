"""How many patches a second does a whole run make, how fast does the program start, is memory flat?

Whole runs, each with opening, loading the encoder and writing, on one synthetic H&E slide:

wsiprep      `prepare`: finds tissue, places patches, overlay, GeoJSON, journal, Zarr grid, digests
naive loop   the same patches, given; read_region one by one, the same encoder in batches, np.save
timm loop    the same with the same network and weights used as timm shows: ToTensor, Normalize,
             the whole batch at once, no_grad

`test` (mean colour) measures everything but the network, `lite0` what a user without a GPU gets.

The data path of `wsiprep embed` alone, patches placed before, against the bare decoder on the same
tiles in memory: all threads kept to one core as that is, and so with zeros in place of mean colours
(an encoder that costs nothing); one thread reading beside one that encodes; and two.
Start-up and memory are of whole processes; the larger slide has ten times the area, so memory
that grew with the slide would show.

    python benchmarks/end_to_end.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import openslide
from child import in_child
from harness import Case, Done, compare, on_one_core, options
from PIL import Image
from slides import full_grid, mirrored, repeat, tissue_grid, write_he
from tile_read import StoredTiles

import wsiprep
from wsiprep.core.config import build
from wsiprep.core.types import PatchGrid, Point
from wsiprep.encoders import load_encoder
from wsiprep.encoders.families.lite0 import mapped, weights_path
from wsiprep.encoders.families.test import MeanColour
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.prepare import prepare
from wsiprep.tiles import read_patch

BATCH = 32
Encode = Callable[[list[Any]], np.ndarray]
Setup = Callable[[], AbstractContextManager[Any]]

CHILD = """
from child import tell
from wsiprep.core.config import build
from wsiprep.tasks.config import EmbedConfig
from wsiprep.tasks.prepare import prepare
patches = 0
if len(sys.argv) > 2:
    values = {"slides": (sys.argv[2],), "output": sys.argv[1], "encoder": ("test",), "workers": 2}
    report = prepare(build(EmbedConfig, ("benchmark", values)))
    assert report.exit_code == 0, report.canonical()
    patches = report.rows[0].encoded
else:
    from wsiprep.encoders import load_encoder
    load_encoder("test", device="cpu")
    import openslide, tiffslide, zarr, cv2
tell(patches)
"""


@contextmanager
def fresh(*_: Any) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def whole_run(path: Path, encoder: str, out: Path) -> Done:
    values = {"slides": (str(path),), "output": out, "encoder": (encoder,), "batch_size": BATCH,
              "device": "cpu"}  # fmt: skip
    report = prepare(build(PrepareConfig, ("benchmark", values)))
    assert report.exit_code == 0, report.canonical()
    return Done(report.rows[0].encoded)


def naive_loop(path: Path, grid: PatchGrid, load: Callable[[], Encode], out: Path) -> Done:
    encode = load()
    slide = openslide.OpenSlide(path)
    plan, vectors, batch = grid.plan, [], []
    for number, (x, y) in enumerate(grid.origin0_px, 1):
        region = slide.read_region((int(x), int(y)), plan.level, (plan.read_px, plan.read_px))
        batch.append(region.convert("RGB"))
        if len(batch) == BATCH or number == len(grid):
            vectors.append(encode(batch).astype(np.float16))
            batch = []
    np.save(out / "features.npy", np.concatenate(vectors))
    np.save(out / "coords.npy", grid.origin0_px)
    slide.close()
    return Done(len(grid))


def same_encoder(name: str) -> Encode:
    encoder = load_encoder(name, device="cpu")
    return lambda images: encoder(np.stack([np.asarray(image) for image in images]))


def timm_encoder() -> Encode:
    import timm
    import torch
    from torchvision import transforms

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    weights = torch.load(weights_path(), weights_only=True)
    model.load_state_dict(mapped(weights), strict=False)  # but for the classifier
    prepared = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    )

    def encode(images: list[Any]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.stack([prepared(image) for image in images])).numpy()

    return encode


def check_equal(path: Path, grid: PatchGrid) -> None:
    """Refuse to compare encoders that do not compute the same."""
    with wsiprep.open_slide(path) as slide:
        origins = [Point(int(x), int(y)) for x, y in grid.origin0_px[:4]]
        images = [read_patch(slide, origin, grid.plan) for origin in origins]
    wanted, given = same_encoder("lite0")(images), timm_encoder()(images)
    assert np.abs(given - wanted).max() < 1e-3 * np.abs(wanted).max()


def run_cases(path: Path, grid: PatchGrid, encoder: str) -> list[Case]:
    loops = {"naive loop": partial(same_encoder, encoder)}
    if encoder == "lite0":
        loops["timm loop"] = timm_encoder
    return [
        Case("wsiprep", {}, "patches", fresh, partial(whole_run, path, encoder)),
        *(
            Case(name, {"batch": BATCH}, "patches", fresh, partial(naive_loop, path, grid, load))
            for name, load in loops.items()
        ),
    ]


def started(command: list[str], _: Any) -> Done:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return Done(1)


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """An output folder with patches, all of the slide."""
    with fresh() as out:
        mask = out / "all.png"
        with wsiprep.open_slide(path) as slide:
            shape = (slide.info.size0.height // 64, slide.info.size0.width // 64)
        Image.fromarray(np.full(shape, 255, np.uint8)).save(mask)
        for model, names in ((SegmentConfig, {"mask": mask}), (CoordsConfig, {"min_tissue": 0.0})):
            common = {"slides": (str(path),), "output": out / "o"}
            report = prepare(build(model, ("benchmark", common | names)))
            assert report.exit_code == 0, report.canonical()
        yield out / "o"


@contextmanager
def encoding_nothing(setup: Setup) -> Iterator[Any]:
    """A setup after which encoder `test` does not look at the pixels: what is left is the path."""

    def zeros(_: MeanColour, pixels: np.ndarray) -> np.ndarray:
        return np.zeros((len(pixels), 3), np.float32)

    with mock.patch.object(MeanColour, "__call__", zeros), setup() as state:
        yield state


def embedded(path: Path, workers: int, out: Path) -> Done:
    values = {"slides": (str(path),), "output": out, "encoder": ("test",), "batch_size": BATCH,
              "device": "cpu", "workers": workers, "overlay": False}  # fmt: skip
    report = prepare(build(EmbedConfig, ("benchmark", values)))
    assert report.exit_code == 0, report.canonical()
    assert report.profile is not None
    times = report.profile.total
    return Done(
        report.rows[0].encoded,
        {"while encoding": f"{times.tiles / times.seconds:,.0f} patches/s",
         "bound": report.profile.bound() or "too short to tell"},
    )  # fmt: skip


def data_path_cases(path: Path, grid: PatchGrid) -> list[Case]:
    def decode(tiles: StoredTiles) -> Done:
        tiles.simplejpeg()
        return Done(len(grid))

    def pinned(setup: Setup) -> Setup:
        return partial(on_one_core, setup)

    out = partial(placed, path)
    ways: dict[str, tuple[Setup, int]] = {
        "embed, 1 core": (pinned(out), 1),
        "embed, 1 core, encoder of zeros": (pinned(partial(encoding_nothing, out)), 1),
        "embed, 1 thread": (out, 1),
        "embed, 2 threads": (out, 2),
    }
    bare = pinned(lambda: closing(StoredTiles(path, grid)))
    return [
        Case("limit of a core", {}, "patches", bare, decode),
        *(
            Case(name, {"batch": BATCH}, "patches", setup, partial(embedded, path, workers))
            for name, (setup, workers) in ways.items()
        ),
    ]


def start_cases() -> list[Case]:
    commands = {
        "python": ["-c", "pass"],
        "wsiprep run --help": ["-m", "wsiprep", "run", "--help"],
        "import torch": ["-c", "import torch"],
    }
    return [
        Case(name, {}, "starts", nullcontext, partial(started, command))
        for name, command in commands.items()
    ]


def memory_cases(slide: Path, larger: Path) -> list[Case]:
    slides = {"a slide": slide, "10 x its area": larger}
    return [
        Case("imports only", {}, "patches", fresh, lambda out: in_child(CHILD, [out])),
        *(
            Case(
                name, {}, "patches", partial(placed, path),
                lambda out, path=path: in_child(CHILD, [out, path]),
            )
            for name, path in slides.items()
        ),
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    width, height = (1024, 1024) if opts.quick else (5120, 4096)
    with fresh() as folder:
        small = write_he(folder, width, height)
        medium = repeat(folder, small, 2)
        dense, pixels = mirrored(folder, *((4096, 2048) if opts.quick else (30720, 20480)))
        less, _ = mirrored(folder, *((2048, 2048) if opts.quick else (10240, 6144)))
        check_equal(small, tissue_grid(small, 0.5))
        for encoder, path in (("test", medium), ("lite0", small)):
            cases = run_cases(path, tissue_grid(path, 0.5), encoder)
            compare(f"Whole run with encoder `{encoder}`", cases, ("naive loop",), opts)
        compare(
            f"Data path of `wsiprep embed` ({pixels})",
            data_path_cases(dense, full_grid(dense, 0.5)),
            ("limit of a core",),
            opts,
        )
        compare("Start-up", start_cases(), ("python",), opts)
        compare(
            "Peak memory of `wsiprep embed`, encoder `test`", memory_cases(less, dense), (), opts
        )


if __name__ == "__main__":
    main()
