"""Slides in, feature grids out: the one file that knows the order of the stages."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.cores import available_cores, default_workers
from wsiprep.core.errors import (
    EnvironmentProblem,
    Interrupted,
    MissingStageError,
    StoreBusyError,
    StoreError,
    WsiprepError,
)
from wsiprep.core.profile import Profile
from wsiprep.core.report import (
    Event,
    OnEvent,
    RunReport,
    SlideOutcome,
    white_note,
)
from wsiprep.core.types import PatchGrid, TissueMask
from wsiprep.encoders.load import resolve_device
from wsiprep.slide.open import open_slide, why_not_tiled
from wsiprep.store.claim import claim_store
from wsiprep.store.disk import check_writable, output_errors
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import LOCKS_FOLDER, TISSUE, WORK_FOLDER, grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks import outputs
from wsiprep.tasks.conclude import blurred, concluded, focus_notes, too_coarse
from wsiprep.tasks.config import AnyConfig, GridChoice, stages
from wsiprep.tasks.encode import embed
from wsiprep.tasks.inputs import SlideRef, gather
from wsiprep.tasks.interrupt import stop_requests
from wsiprep.tasks.record import Record
from wsiprep.tasks.redo import RedoLog
from wsiprep.tasks.setting_notes import setting_notes
from wsiprep.tasks.slides import (
    load_decoders,
    load_encoders,
    own_mpp,
    own_settings,
    random_weights,
)
from wsiprep.tasks.steps import Context, place, segment
from wsiprep.tasks.tissue_ahead import TissueAhead

__all__ = ["prepare", "prepare_slide"]


def prepare_slide(
    ref: SlideRef, cfg: AnyConfig, encoders: Sequence[Encoder], ctx: Context
) -> SlideOutcome:
    """Take one slide through the stages that `cfg` has settings for.

    Raises:
        SlideError, StoreError: this slide failed.
        EnvironmentProblem: the run cannot go on.
        Interrupted: a stop was asked for; what was encoded is in the journal.
    """
    stage = stages(cfg)
    out = cfg.run.output
    # Only a command that finds tissue can fill a store that starts anew.
    anew = ctx.run.overwrite and stage.tissue is not None
    with (
        open_slide(ref.path, own_mpp(out, ref, cfg), slide_id=ref.id) as slide,
        claim_store(out, slide.info, fixed_id=ref.fixed_id, overwrite=anew) as store,
    ):
        _say_once(why_not_tiled(slide), ctx)
        row = SlideOutcome(store.name, str(ref.path), "ok", store=str(store.path))
        before = dict(store.manifest.units)

        thumbnail = name = grid = None
        notes: tuple[str, ...] = ()
        if stage.tissue is not None:
            tissue, thumbnail = segment(slide, store, stage.tissue, ctx)
        else:
            tissue = _found_tissue(slide, store)
        ctx.stop.check()

        if stage.patches is not None:
            name, grid = place(slide, store, tissue, stage.patches, ctx)
            outputs.write_coords(store, name, grid, stage.patches)
        elif stage.choice is not None:
            name, grid = _chosen_grid(slide, store, stage.choice)
        if grid is not None:
            ctx.on_event(Event("plan", slide=store.name, text=grid.plan.describe()))
            row = replace(row, patches=len(grid), plan=grid.plan.describe())
            if name is not None and not len(grid):
                row = replace(row, blurred=blurred(slide, store, tissue, name))
            if stage.patches is not None and stage.patches.measures_focus:
                _say_once(too_coarse(slide.info), ctx)
                notes = focus_notes(slide.info)
        ctx.stop.check()

        row = replace(row, geojson=str(outputs.write_outlines(store, tissue)))
        if cfg.run.overlay:
            bad: set[str] | None = set() if ctx.on_bad_tile == "mask" else None
            with ctx.stop.at_once():
                picture = outputs.draw_overlay(slide, store, tissue, thumbnail, name, grid, bad)
            row = replace(row, overlay=str(picture))
            notes = (*notes, *white_note(bad or set(), "overlay"))
        if grid is not None and name is not None and stage.encoding is not None:
            done = embed(slide, store, name, grid, encoders, stage.encoding, ctx)
            row = replace(row, encoded=done.patches, bad_tiles=done.bad_tiles)
            notes = (*notes, *done.notes)

        row = replace(
            row,
            tissue_mm2=round(tissue.area_mm2(slide.info.mpp), 4),
            thumbnail_bad_tiles=tissue.bad_tiles,
            notes=(*slide.info.notes, *tissue.notes, *notes),
            stage="encode" if stage.encoding else ("patches" if stage.patches else "tissue"),
        )
        new = thumbnail is not None or row.encoded > 0 or before != store.manifest.units
        return concluded(row, tissue, grid, new=new)


def prepare(cfg: AnyConfig, on_event: OnEvent = lambda _: None) -> RunReport:
    """Run the stages that `cfg` has settings for, on every slide.

    A slide that fails is a row of the report and of `run.jsonl`, and the next one is tried. A
    problem of the machine ends the run and is `report.problem`; what was finished is kept.

    Args:
        cfg: Settings of `run`, `segment`, `coords` or `embed`.
        on_event: Told of progress.

    Raises:
        UsageError: the slides or settings make no sense; nothing was written.
        EnvironmentProblem: weights, device or output folder, before the first slide.
    """
    inputs = gather(cfg.inputs)
    configs = own_settings(cfg, inputs)
    out = cfg.run.output
    check_writable(out)
    encoders = load_encoders(stages(cfg).encoding, cfg.run.device)
    workers = cfg.run.workers or default_workers()
    decoders = load_decoders(configs, encoders, workers)
    settled = setting_notes(cfg, inputs, configs)
    for note in (*inputs.notes, *settled, *random_weights(encoders)):
        on_event(Event("note", text=note))
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    record = Record(out)
    record.begin(cfg, inputs)
    redo = RedoLog(cfg)
    device = resolve_device(cfg.run.device).type if encoders else ""
    profile = Profile(
        workers,
        available_cores(),
        device,
        gpu_decode=bool(decoders),
        spare_bf16=device == "cpu" and _spare_bf16(encoders),
    )
    report = RunReport(profile=profile if encoders else None)
    said: set[str] = set()
    on_event(Event("run", total=len(inputs.slides)))
    with stop_requests() as stop:
        try:
            waiting = deque(zip(inputs.slides, configs, repeat(False), strict=False))
            ahead = TissueAhead(waiting)
            while waiting:
                stop.check()
                ref, own, deferred = waiting.popleft()
                redone = redo.of(ref, own)
                again = own.run.overwrite and not redone.has()
                run = own.run.model_copy(update={"overwrite": again})
                bad = own.slide.on_bad_tile
                ctx = Context(run, on_event, stop, redone, profile, said, bad, decoders, ahead)
                outcome = _attempt(ref, own, encoders, ctx, record, deferred)
                if outcome is None:  # another process has it; look again after the others
                    waiting.append((ref, own, True))
                    continue
                row, report.problem = outcome
                report.rows.append(row)
                on_event(Event("outcome", slide=row.slide, outcome=row))
                if report.problem or (row.status == "failed" and cfg.run.fail_fast):
                    break
                if row.status != "failed":
                    redone.note()
            else:
                redo.end()
        except Interrupted as err:
            report.interrupted = True
            on_event(Event("note", text=str(err)))
        except KeyboardInterrupt:
            report.interrupted = True
            raise
        finally:
            record.end(report, len(inputs.slides))
            if cfg.run.profile and report.profile is not None:
                if report.profile.total.tiles:
                    record.profile(report.profile)
                else:
                    on_event(Event("note", text="Nothing was encoded: no profile.json is written."))
            if any(row.status != "failed" for row in report.rows):
                record.config(cfg)
            _tidy(out / WORK_FOLDER)
    return report


def _spare_bf16(encoders: Sequence[Encoder]) -> bool:
    """Whether encoders compute in float32, and this CPU has instructions for bfloat16.

    As torch tells it; where it tells nothing, and of CPUs that are not x86, no.
    """
    import torch

    facts: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has = bool(facts.get("avx512_bf16") or facts.get("amx_bf16"))
    return has and any(encoder.spec.precision == "fp32" for encoder in encoders)


def _attempt(
    ref: SlideRef,
    cfg: AnyConfig,
    encoders: Sequence[Encoder],
    ctx: Context,
    record: Record,
    deferred: bool,
) -> tuple[SlideOutcome, EnvironmentProblem | None] | None:
    """`prepare_slide`, with its failure as a row. The one place that catches everything.

    None if another process is writing the slide, and it was not `deferred` for that before.
    """
    began = time.monotonic()
    trace = ""
    problem = None
    try:
        row = prepare_slide(ref, cfg, encoders, ctx)
    except Interrupted:
        raise
    except WsiprepError as err:
        if isinstance(err, StoreBusyError) and not deferred:
            return None
        problem = err if isinstance(err, EnvironmentProblem) else None
        row = _failure(ref, err)
    except Exception as err:  # noqa: BLE001 - a bug met on one slide must not cost the others
        trace = traceback.format_exc()
        row = SlideOutcome(
            ref.id,
            str(ref.path),
            "failed",
            stage="bug",
            error=type(err).__name__,
            reason=str(err) or type(err).__name__,
            remedy="This is a bug in wsiprep; please report it with the traceback in run.jsonl.",
        )
    return record.slide(row, began, trace), problem


def _say_once(note: str | None, ctx: Context) -> None:
    """A note on many slides, as why the faster readers do not read them."""
    if note is not None and note not in ctx.said:
        ctx.said.add(note)
        ctx.on_event(Event("note", text=note))


def _failure(ref: SlideRef, err: WsiprepError) -> SlideOutcome:
    return SlideOutcome(
        ref.id,
        str(ref.path),
        "failed",
        stage=err.stage or ("store" if isinstance(err, StoreError) else "slide"),
        error=type(err).__name__,
        reason=err.message,
        remedy=err.hint or "",
    )


def _found_tissue(slide: Slide, store: SlideStore) -> TissueMask:
    if store.unit(TISSUE) is None:
        raise MissingStageError(
            "tissue has not been found yet.",
            slide=slide.info.id,
            stage="tissue",
            hint=f"Run `wsiprep segment {slide.info.uri} -o {store.out}` first, or `wsiprep run`.",
        )
    return FeatureStore(store.path).tissue()


def _chosen_grid(slide: Slide, store: SlideStore, choice: GridChoice) -> tuple[str, PatchGrid]:
    stored = FeatureStore(store.path)
    if not stored.grids:
        raise MissingStageError(
            "it has no patch coordinates yet.",
            slide=slide.info.id,
            stage="grid",
            hint=f"Run `wsiprep coords {slide.info.uri} -o {store.out}` first, or `wsiprep run`.",
        )
    grid = stored.grid(choice.grid)
    name = choice.grid or stored.grids[0]
    if store.manifest.units[grid_unit(name)].parent != store.manifest.units[TISSUE].key:
        raise MissingStageError(
            f"grid '{name}' was made from another tissue mask than is there now.",
            slide=slide.info.id,
            stage="grid",
            hint=f"Run `wsiprep coords {slide.info.uri} -o {store.out} --overwrite` first.",
        )
    return name, grid


def _tidy(work: Path) -> None:
    """Remove the work folder when nothing is left in it; others may be using it at this moment."""
    for folder in (work / LOCKS_FOLDER, work):
        with suppress(OSError):
            folder.rmdir()
