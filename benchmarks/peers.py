"""How much faster is a whole run than other tools' on the same slide, with an encoder for nothing?

An optional extra, which `python benchmarks` leaves out: every tool needs an environment of its own
(some minutes and 6 to 7 GB each, with the torch that pip gives).

    python benchmarks/peers.py --envs DIR --install [--quick]    make DIR/<tool> where it is absent
    python benchmarks/peers.py --envs DIR [--own-tissue] [--workers 2 0] [--times 2]
                               [--quick] [--repeats N] [--json FILE] [--markdown FILE]

AtlasPatch, LazySlide and slide2vec are used by their documented functions and commands, each in a
fresh process of its own environment. All encode patches of 256 px at level 0 by their mean colour,
on the CPU, in batches of 32, and write the result. Before the clock runs each is run once, and one
that gets other colours from the same patches is refused. One that is absent or fails is skipped by
name.

wsiprep finds tissue, places patches, draws, journals, writes and hashes. The others are given the
patches (slide2vec takes only its own, and makes them before the clock runs) and only encode; with
--own-tissue they too find tissue and place patches in their way, and their tiles are other tiles.

A slide of 5120 x 4096 px, repeated --times in x and in y, and one of four times its area: the
difference is the rate per tile; what is left of a run is fixed (`fixed s`), of which imports and
the encoder are `start-up s`. --workers: loader processes of the others, each number a row, 0 for
none beside the tool's own; for slide2vec threads of cuCIM in a loader, since it settles its loaders
by itself (cores / threads); wsiprep reads with as many threads as the first number says. torch has
one thread everywhere: for so small an encoder more cost the others time. `peak MiB` is of the main
process alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import render
from harness import Case, Done, Result, measure, options
from peer_tools import PEERS, WSIPREP, Runs, ToolFailed, found, install
from slides import repeat, tissue_grid, write_he

import wsiprep

BATCH, PATCH_PX, MPP = 32, 256, 0.5


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide, its name in tables, and the corners that are given, if they are."""

    name: str
    path: Path
    corners: Path | None


def make_slides(home: Path, own: argparse.Namespace, quick: bool) -> list[Slide]:
    painted = write_he(home, *((1024, 1024) if quick else (5120, 4096)))
    slides = []
    for name, times in (("small", own.times), ("large", 2 * own.times)):
        path = painted if times == 1 else repeat(home, painted, times)
        corners = None if own.own_tissue else home / f"{name}.npy"
        if corners is not None:
            np.save(corners, tissue_grid(path, MPP).origin0_px.astype(np.int64))
        slides.append(Slide(name, path, corners))
    return slides


def made_ready(runs: Runs, slide: Slide, folder: Path) -> Path:
    """A folder with the job and what the tool wants prepared; every run begins with a copy."""
    folder.mkdir()
    job = {
        "slide": str(slide.path),
        "given": None if slide.corners is None else str(slide.corners),
        "workers": runs.workers,
        "batch": BATCH,
        "patch_px": PATCH_PX,
        "mpp": MPP,
    }
    (folder / "job.json").write_text(json.dumps(job))
    runs.act("prepare", folder)
    return folder


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as home:
        yield Path(shutil.copytree(folder, Path(home) / "job"))


def tried(runs: Runs, ready: Path, wanted: dict[str, Any] | None) -> dict[str, Any]:
    """What one unmeasured run left; refuses a tool that computes something else."""
    with copied(ready) as folder:
        tiles = runs.act("run", folder)["tiles"]
        left = runs.act("check", folder)
    if left["rows"] != tiles:
        raise ToolFailed(f"it wrote {left['rows']} rows for {tiles} tiles")
    if wanted and (left["rows"] != wanted["rows"] or abs(left["mean"] - wanted["mean"]) > 1e-3):
        raise ToolFailed("it encoded something else", f"{left}, not {wanted}")
    return left


def whole_run(runs: Runs, reader: str, folder: Path) -> Done:
    said = runs.act("run", folder)
    facts = {
        "tiles": said["tiles"],
        "start-up s": said["seconds_startup"],
        "peak MiB": said["peak_mib"],
        "version": runs.version,
        "reader": reader,
    }
    return Done(said["tiles"], facts)


def cases_of(runs: Runs, ready: Sequence[Path], slides: Sequence[Slide], reader: str) -> list[Case]:
    return [
        Case(
            f"{slide.name}: {runs.name}",
            {},
            "tiles",
            partial(copied, folder),
            partial(whole_run, runs, reader),
        )
        for slide, folder in zip(slides, ready, strict=True)
    ]


def difference(small: Result, large: Result) -> Result:
    """What more tiles cost, apart from all that is fixed."""
    tiles, wall, cpu = (
        [b - a for a, b in zip(mine, theirs, strict=True)]
        for mine, theirs in (
            (small.amount, large.amount),
            (small.wall_s, large.wall_s),
            (small.cpu_s, large.cpu_s),
        )
    )
    rounds = zip(small.amount, small.wall_s, tiles, wall, strict=True)
    fixed = median(s - n * more_s / more_n for n, s, more_n, more_s in rounds)
    same = {name: small.facts[name] for name in ("start-up s", "version", "reader")}
    return Result(small.case, tiles, wall, cpu, {"fixed s": fixed, **same})


def show(title: str, results: Sequence[Result], opts: argparse.Namespace, notes: str) -> None:
    """A table with what wsiprep, the first, is to each, by wall and by CPU time."""
    shown = [replace(r, case=replace(r.case, name=r.case.name.split(": ")[1])) for r in results]
    for other in shown[1:]:
        wall, cpu = (shown[0].ratio(other, clock) for clock in ("wall", "cpu"))
        other.facts["wsiprep / it (CPU)"] = f"{wall:.1f} ({cpu:.1f})"
    head, rows = render.tabulate(shown, ())
    render.print_table(title, head, rows)
    if opts.json:
        against = (shown[0].case.name,)
        render.append_records(opts.json, render.records(title, shown, against, opts.quick))
    if opts.markdown:
        render.write_section(opts.markdown, title, f"{render.context(opts)} {notes}", head, rows)


def compare_tools(home: Path, own: argparse.Namespace, opts: argparse.Namespace) -> None:
    slides = make_slides(home, own, opts.quick)
    version = render.versions()["wsiprep"]
    ready_to_try = [
        Runs(WSIPREP, Path(sys.executable), max(own.workers[0], WSIPREP.least), version)
    ]
    skipped: list[str] = []

    def skip(name: str, err: ToolFailed) -> None:
        skipped.append(f"{name} ({err})")
        print(f"skipped {name}: {err}" + (f": {err.detail}" if err.detail else ""), flush=True)

    for tool in PEERS:
        try:
            python, version = found(tool, own.envs, own.own_tissue)
        except ToolFailed as err:
            skip(tool.name, err)
        else:
            numbers = dict.fromkeys(max(number, tool.least) for number in own.workers)
            ready_to_try += [Runs(tool, python, number, version) for number in numbers]

    cases: list[Case] = []
    wanted: dict[str, Any] | None = None
    for runs in ready_to_try:
        folder = home / f"{runs.tool.key}-{runs.workers}"
        try:
            ready = [made_ready(runs, s, Path(f"{folder}-{s.name}")) for s in slides]
            comparable = runs.tool.takes_corners and not own.own_tissue
            left = tried(runs, ready[0], wanted if comparable else None)
        except ToolFailed as err:
            if runs.tool is WSIPREP:
                raise SystemExit(f"wsiprep itself: {err}: {err.detail}") from err
            skip(runs.name, err)
            continue
        wanted = wanted or left
        cases += cases_of(runs, ready, slides, left["reader"])

    results = measure(cases, repeats=opts.repeats, warmup=opts.warmup)
    small, large = results[::2], results[1::2]
    how = "each finding tissue" if own.own_tissue else "the others given the patches"
    with wsiprep.open_slide(slides[0].path) as slide:
        notes = f"The slide: {slide.info.size0.width} x {slide.info.size0.height} px."
    if skipped:
        notes += f" Skipped: {'; '.join(skipped)}."
    title = f"Against other tools, {how}"
    show(f"{title}: a slide", small, opts, notes)
    show(f"{title}: 4 x its area", large, opts, notes)
    per_tile = [difference(*pair) for pair in zip(small, large, strict=True)]
    if all(min(result.wall_s) > 0 for result in per_tile):
        show(f"{title}: per tile, what is fixed apart", per_tile, opts, notes)
    else:
        print("per tile: nothing to say, a larger slide did not take longer")


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Own flags, and those that every benchmark has."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--envs", type=Path)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--own-tissue", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 0])
    parser.add_argument("--times", type=int, default=2)
    own, rest = parser.parse_known_args(argv)
    opts = options(__doc__, rest)
    if own.install and own.envs is None:
        parser.error("--install needs --envs DIR")
    if len(set(own.workers)) < len(own.workers) or min(own.workers) < 0:
        parser.error("--workers are different numbers, none below 0")
    if own.times < 1:
        parser.error("--times must be at least 1")
    if opts.quick:
        own.times = 1
    opts.warmup = 0  # every tool has run once before the clock does
    return own, opts


def main(argv: list[str] | None = None) -> None:
    own, opts = arguments(argv)
    if own.install:
        for tool in PEERS:
            install(tool, own.envs)
    with tempfile.TemporaryDirectory() as home:
        compare_tools(Path(home), own, opts)


if __name__ == "__main__":
    main()
