"""What a run would cost: patches, time, disk. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.cores import default_workers
from wsiprep.core.errors import EnvironmentProblem, MissingStageError, WsiprepError
from wsiprep.core.report import Event, OnEvent
from wsiprep.core.types import PatchGrid
from wsiprep.grid.build import make_grid
from wsiprep.slide.open import open_slide
from wsiprep.store.claim import find_store
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import AnyConfig, stages
from wsiprep.tasks.inputs import SlideRef, gather
from wsiprep.tasks.setting_notes import setting_notes
from wsiprep.tasks.slides import load_encoders, own_mpp, own_settings
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tissue.detect import detect_tissue

__all__ = ["Estimate", "SlideEstimate", "estimate"]

SAMPLES, SAMPLE_TILES = 3, 32
"""Tiles of a slide that are really read, to know how fast."""


@dataclass(frozen=True, slots=True)
class SlideEstimate:
    """What one slide would cost.

    Attributes:
        slide: Slide id.
        path: Where it is.
        patches: Patches that would be encoded.
        plan: Reading plan in words.
        tissue_mm2: Tissue area.
        seconds: Estimated time of reading and encoding.
        bytes: Features on disk before compression.
        error: Why it would fail; empty otherwise.
        remedy: What to do about it.
    """

    slide: str
    path: str
    patches: int = 0
    plan: str = ""
    tissue_mm2: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    error: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost, slide by slide."""

    slides: tuple[SlideEstimate, ...]
    encode_tiles_per_s: float

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types for `--json`."""
        rows = [asdict(row) for row in self.slides]
        return {
            "dry_run": True,
            "slides": rows,
            "patches": sum(row.patches for row in self.slides),
            "seconds": round(sum(row.seconds for row in self.slides), 1),
            "bytes": sum(row.bytes for row in self.slides),
            "encode_tiles_per_s": round(self.encode_tiles_per_s, 1),
        }


def estimate(
    cfg: AnyConfig,
    on_event: OnEvent = lambda _: None,
) -> Estimate:
    """Find tissue and place patches in memory, time a few tiles, and add it up.

    Tissue or grids that an earlier run stored are used where the command has no settings to
    find them.

    Raises:
        UsageError, EnvironmentProblem: as the run itself would.
    """
    inputs = gather(cfg.inputs)
    configs = own_settings(cfg, inputs)
    encoders = load_encoders(stages(cfg).encoding, cfg.run.device)
    for note in (*inputs.notes, *setting_notes(cfg, inputs, configs)):
        on_event(Event("note", text=note))
    rate = 0.0
    rows = []
    on_event(Event("run", total=len(inputs.slides)))
    for ref, own in zip(inputs.slides, configs, strict=True):
        try:
            mpp = own_mpp(cfg.run.output, ref, own)
            with open_slide(ref.path, mpp, slide_id=ref.id) as slide:
                mm2, grid = _grid(slide, ref, own, on_event)
                if encoders and grid is not None and len(grid) and not rate:
                    rate = _encode_rate(encoders, slide, grid, cfg.run.batch_size)
                rows.append(_cost(slide, ref, mm2, grid, encoders, own, rate))
        except EnvironmentProblem:
            raise
        except WsiprepError as err:
            rows.append(
                SlideEstimate(ref.id, str(ref.path), error=err.message, remedy=err.hint or "")
            )
        on_event(Event("outcome", slide=ref.id))
    return Estimate(tuple(rows), rate)


def _grid(
    slide: Slide, ref: SlideRef, cfg: AnyConfig, on_event: OnEvent
) -> tuple[float, PatchGrid | None]:
    """Tissue area in mm², and the patches, found now or by an earlier stage."""
    stage = stages(cfg)
    store = None
    if stage.tissue is not None:
        tissue, _ = detect_tissue(slide, stage.tissue, on_bad_tile=cfg.slide.on_bad_tile)
    else:
        stored = find_store(cfg.run.output, ref.id, slide.info.fingerprint)
        if stored is None:
            raise MissingStageError(
                "no earlier stage has run for it.",
                slide=ref.id,
                stage="tissue",
                hint=f"Run `wsiprep segment {ref.path} -o {cfg.run.output}` first.",
            )
        store = FeatureStore(stored.path)
        tissue = store.tissue()
    for note in tissue.notes if tissue.bad_tiles else ():
        on_event(Event("note", text=f"{ref.id}: {note}"))
    mm2 = tissue.area_mm2(slide.info.mpp)
    if stage.patches is not None:
        return mm2, make_grid(slide.info, tissue, stage.patches)
    if stage.choice is not None and store is not None:
        return mm2, store.grid(stage.choice.grid)
    return mm2, None


def _sample(slide: Slide, grid: PatchGrid) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], float]:
    """Patches in runs spread over the grid, and seconds that a thread takes for one.

    Runs, because neighbours share stored tiles, and as the work itself reads them.
    """
    count = -(-len(grid) // SAMPLE_TILES)
    chosen = np.unique(np.linspace(0, count - 1, min(SAMPLES, count)).astype(int)) * SAMPLE_TILES
    spans = [(int(a), min(int(a) + SAMPLE_TILES, len(grid))) for a in chosen]
    started = time.monotonic()
    pixels = [
        b.pixels for b in stream_tiles(slide.reopen, grid, spans, workers=1, on_bad_tile="mask")
    ]
    seconds = time.monotonic() - started
    return np.concatenate(pixels), seconds / sum(stop - start for start, stop in spans)


def _encode_rate(encoders: Sequence[Encoder], slide: Slide, grid: PatchGrid, batch: int) -> float:
    """Tiles per second through all encoders, after a warm-up."""
    pixels, _ = _sample(slide, grid)
    pixels = np.resize(pixels, (min(batch, 32), *pixels.shape[1:]))
    for encoder in encoders:
        encoder(pixels)
    started = time.monotonic()
    for encoder in encoders:
        encoder(pixels)
    return len(pixels) / max(time.monotonic() - started, 1e-6)


def _cost(
    slide: Slide,
    ref: SlideRef,
    mm2: float,
    grid: PatchGrid | None,
    encoders: Sequence[Encoder],
    cfg: AnyConfig,
    rate: float,
) -> SlideEstimate:
    encoding = stages(cfg).encoding
    if grid is None or not len(grid) or encoding is None:
        return SlideEstimate(
            ref.id,
            str(ref.path),
            patches=0 if grid is None else len(grid),
            plan="" if grid is None else grid.plan.describe(),
            tissue_mm2=round(mm2, 3),
        )
    _, read_s = _sample(slide, grid)
    per_tile = max(read_s / (cfg.run.workers or default_workers()), 1 / rate)
    width = np.dtype(encoding.store_dtype).itemsize
    return SlideEstimate(
        ref.id,
        str(ref.path),
        patches=len(grid),
        plan=grid.plan.describe(),
        tissue_mm2=round(mm2, 3),
        seconds=round(per_tile * len(grid), 4),
        bytes=sum(len(grid) * e.spec.dim * width for e in encoders),
    )
