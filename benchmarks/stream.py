"""Is streaming a straight line, what does a second thread bring, is memory flat?

`stream_tiles` as `wsiprep embed` uses it, batches dropped as they come:

length       a quarter, a half and all of the patches of one slide: the same rate, or time does not
             grow in proportion
threads      1, 2 ... reading threads up to the cores there are, against the bare decoder on one
memory       peak of a process that streams a slide, and one of ten times its area; the same but
             for a few MiB, or something grows with the slide

    python benchmarks/stream.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import tempfile
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from child import in_child
from harness import Case, Done, compare, options
from slides import full_grid, mirrored, part
from tile_read import StoredTiles

from wsiprep import open_slide
from wsiprep.core.contracts import Slide
from wsiprep.core.cores import available_cores
from wsiprep.core.types import PatchGrid
from wsiprep.tiles import ReadTimes, stream_tiles

BATCH = 32

CHILD = """
from child import tell
from slides import full_grid
from stream import drain
from wsiprep import open_slide
patches = 0
if len(sys.argv) > 1:
    with open_slide(sys.argv[1]) as slide:
        patches = drain(slide, full_grid(sys.argv[1], 0.5, 256, 128, shift0_px=100), 2).amount
tell(patches)
"""


def drain(slide: Slide, grid: PatchGrid, workers: int, batch: int = BATCH) -> Done:
    """Stream a grid and drop it."""
    times = ReadTimes()
    spans = [(i, min(i + batch, len(grid))) for i in range(0, len(grid), batch)]
    for _ in stream_tiles(slide.reopen, grid, spans, workers=workers, times=times):
        pass
    return Done(len(grid), {"tiles a patch": times.tiles / len(grid)})


def length_cases(path: Path, grid: PatchGrid) -> list[Case]:
    parts = {"a quarter": 4, "a half": 2, "all": 1}
    return [
        Case(
            name,
            {},
            "patches",
            partial(open_slide, path),
            partial(drain, grid=part(grid, slice(0, len(grid) // share)), workers=1),
        )
        for name, share in parts.items()
    ]


def thread_cases(path: Path, grid: PatchGrid) -> list[Case]:
    def decode(tiles: StoredTiles) -> Done:
        tiles.simplejpeg()
        return Done(len(grid))

    cores = available_cores()
    counts = sorted({n for n in (1, 2, 4, 8, 16, 32) if n < cores} | {cores})
    return [
        Case("limit of a core", {}, "patches", lambda: closing(StoredTiles(path, grid)), decode),
        *(
            Case(
                f"{count} thread{'s' * (count > 1)}",
                {"batch": batch},
                "patches",
                partial(open_slide, path),
                partial(drain, grid=grid, workers=count, batch=batch),
            )
            for count in counts
            for batch in (BATCH,)
        ),
        Case(
            f"{cores} threads, large batches",
            {"batch": 256},
            "patches",
            partial(open_slide, path),
            partial(drain, grid=grid, workers=cores, batch=256),
        ),
    ]


def memory_cases(slide: Path, larger: Path) -> list[Case]:
    slides = {"imports only": [], "a slide": [slide], "10 x its area": [larger]}
    return [
        Case(name, {}, "patches", nullcontext, lambda _, words=words: in_child(CHILD, words))
        for name, words in slides.items()
    ]


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    small, large = ((1024, 1024), (2048, 5120)) if opts.quick else ((6144, 5120), (15360, 20480))
    with tempfile.TemporaryDirectory() as folder:
        slide, pixels = mirrored(Path(folder), *small)
        larger, _ = mirrored(Path(folder), *large)
        grid = full_grid(larger, 0.5)
        compare(f"Streaming: length ({pixels})", length_cases(larger, grid), ("all",), opts)
        compare(
            f"Streaming: threads ({pixels})",
            thread_cases(larger, grid),
            ("1 thread", "limit of a core"),
            opts,
        )
        compare(
            "Streaming: peak memory, 256 px at a stride of 128 px off the tiles",
            memory_cases(slide, larger),
            (),
            opts,
        )


if __name__ == "__main__":
    main()
