"""Slides in, feature grids out: the one file that knows the order of the stages."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from wsiprep import __version__
from wsiprep.core.config import override
from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.errors import (
    EnvironmentProblem,
    Interrupted,
    MissingStageError,
    StoreError,
    UsageError,
    WsiprepError,
)
from wsiprep.core.report import Event, OnEvent, RunLog, RunReport, SlideOutcome
from wsiprep.core.types import PatchGrid, TissueMask
from wsiprep.encoders.load import load_encoder
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.open import open_slide
from wsiprep.store.disk import output_errors, write_whole
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import TISSUE, WORK_FOLDER, grid_unit
from wsiprep.store.write import SlideStore, claim_store, find_store
from wsiprep.tasks import steps
from wsiprep.tasks.config import AnyConfig
from wsiprep.tasks.inputs import Inputs, SlideRef, gather
from wsiprep.tasks.interrupt import stop_requests

__all__ = ["known_mpp", "prepare", "prepare_slide", "slide_config"]


def prepare(cfg: AnyConfig, on_event: OnEvent = lambda _: None) -> RunReport:
    """Run the stages that `cfg` has settings for, on every slide.

    A slide that fails is a row of the report and of `run.jsonl`, and the next one is tried. A
    problem of the machine ends the run.

    Args:
        cfg: Settings of `run`, `segment`, `coords` or `embed`.
        on_event: Told of progress.

    Raises:
        UsageError: the slides or settings make no sense; nothing was written.
        EnvironmentProblem: weights, device or disk; what was finished is kept.
    """
    inputs = gather(cfg.inputs)
    configs = [slide_config(cfg, ref, inputs) for ref in inputs.slides]
    encoding = getattr(cfg, "encoding", None)
    encoders = (
        [load_encoder(n, encoding, cfg.run.device) for n in encoding.encoder] if encoding else []
    )
    for note in inputs.notes:
        on_event(Event("note", text=note))
    out = cfg.run.output
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    log = RunLog(out / "run.jsonl")
    log.write(_header(cfg, inputs))
    write_whole(out / "config.yaml", _config_yaml(cfg).encode())
    report = RunReport()
    started = time.monotonic()
    on_event(Event("run", total=len(inputs.slides)))
    with stop_requests() as check_stop:
        ctx = steps.Context(cfg.run, on_event, check_stop)
        try:
            for ref, slide_cfg in zip(inputs.slides, configs, strict=True):
                check_stop()
                on_event(Event("slide", slide=ref.id, text=str(ref.path)))
                row = _attempt(ref, slide_cfg, encoders, ctx, log)
                report.rows.append(row)
                on_event(Event("outcome", slide=row.slide, outcome=row))
                if row.status == "failed" and cfg.run.fail_fast:
                    break
        except Interrupted as err:
            report.interrupted = True
            on_event(Event("note", text=str(err)))
        finally:
            report.seconds = time.monotonic() - started
            log.write(_footer(report, len(inputs.slides)))
            _tidy(out)
    return report


def prepare_slide(
    ref: SlideRef, cfg: AnyConfig, encoders: Sequence[Encoder], ctx: steps.Context
) -> SlideOutcome:
    """Take one slide through the stages that `cfg` has settings for.

    Raises:
        SlideError, StoreError: this slide failed.
        EnvironmentProblem: the run cannot go on.
        Interrupted: a stop was asked for; what was encoded is in the journal.
    """
    tissue_cfg = getattr(cfg, "tissue", None)
    grid_cfg = getattr(cfg, "patches", None)
    encoding = getattr(cfg, "encoding", None)
    out = cfg.run.output
    with (
        open_slide(ref.path, known_mpp(out, ref, cfg.slide), slide_id=ref.id) as slide,
        claim_store(out, slide.info, fixed_id=ref.fixed_id, overwrite=cfg.run.overwrite) as store,
    ):
        row = SlideOutcome(store.name, str(ref.path), "ok", store=str(store.path))
        before = set(store.manifest.units)

        tissue, thumbnail = _tissue(slide, store, tissue_cfg, ctx)
        ctx.check_stop()
        made = thumbnail is not None
        name, grid, placed = _grid(slide, store, tissue, grid_cfg, cfg, ctx)
        if grid is not None:
            ctx.on_event(Event("plan", slide=store.name, text=grid.plan.describe()))
            row = replace(row, patches=len(grid), plan=grid.plan.describe())
            if grid_cfg is not None:
                steps.write_coords(store, name, grid, grid_cfg)
        ctx.check_stop()
        if tissue_cfg is not None or grid_cfg is not None:
            row = replace(row, geojson=str(steps.write_outlines(store, tissue, made)))
            if cfg.run.overlay:
                picture = steps.draw(slide, store, tissue, thumbnail, grid, made or placed)
                row = replace(row, overlay=str(picture))
        if grid is not None and encoding is not None:
            done = steps.embed(slide, store, name, grid, encoders, encoding, ctx)
            row = replace(row, encoded=done.patches, bad_tiles=done.bad_tiles)

        row = replace(
            row,
            tissue_mm2=round(tissue.area_mm2(slide.info.mpp), 4),
            notes=(*slide.info.notes, *tissue.notes),
            stage="encode" if encoding else ("patches" if grid_cfg else "tissue"),
        )
        return _named(row, tissue, grid, unchanged=before == set(store.manifest.units) and not made)


def _tissue(
    slide: Slide, store: SlideStore, cfg: Any, ctx: steps.Context
) -> tuple[TissueMask, Any]:
    if cfg is not None:
        return steps.segment(slide, store, cfg, ctx)
    if store.unit(TISSUE) is None:
        raise MissingStageError(
            "tissue has not been found yet.",
            slide=slide.info.id,
            stage="tissue",
            hint=f"Run `wsiprep segment {slide.info.uri} -o {store.out}` first, or `wsiprep run`.",
        )
    return FeatureStore(store.path).tissue(), None


def _grid(
    slide: Slide,
    store: SlideStore,
    tissue: TissueMask,
    grid_cfg: Any,
    cfg: AnyConfig,
    ctx: steps.Context,
) -> tuple[str, PatchGrid | None, bool]:
    if grid_cfg is not None:
        return steps.place(store, slide.info, tissue, grid_cfg, ctx)
    choice = getattr(cfg, "choice", None)
    if choice is None:
        return "", None, False
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
    return name, grid, False


def _named(
    row: SlideOutcome, tissue: TissueMask, grid: PatchGrid | None, *, unchanged: bool
) -> SlideOutcome:
    """Say in one word and one sentence how the slide ended."""
    again = " (recorded by an earlier run)" if unchanged else ""
    if tissue.empty:
        return replace(row, status="empty", reason="no tissue was found" + again)
    if grid is not None and not len(grid):
        return replace(
            row,
            status="empty",
            reason="no patch has enough tissue" + again,
            remedy="lower --min-tissue or --patch-size",
        )
    if unchanged and not row.encoded:
        return replace(row, status="skipped", reason="all of it was there already")
    return row


def known_mpp(out: Path, ref: SlideRef, cfg: SlideConfig) -> SlideConfig:
    """Settings that repeat the µm/px which an earlier stage was told for this slide."""
    if cfg.slide_mpp is not None or cfg.mpp_from_objective or not ref.path.exists():
        return cfg
    stored = find_store(out, ref.id, fingerprint(ref.path))
    if stored is None or stored.slide.mpp_source == "metadata":
        return cfg
    return cfg.model_copy(update={"slide_mpp": stored.slide.mpp})


def _attempt(
    ref: SlideRef,
    cfg: AnyConfig,
    encoders: Sequence[Encoder],
    ctx: steps.Context,
    log: RunLog,
) -> SlideOutcome:
    """`prepare_slide`, with its failure as a row. The one place that catches everything."""
    started = time.monotonic()
    trace = ""
    try:
        row = prepare_slide(ref, cfg, encoders, ctx)
    except (Interrupted, KeyboardInterrupt):
        raise
    except EnvironmentProblem as err:
        log.write(_row(_failure(ref, err), started))
        raise
    except WsiprepError as err:
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
            remedy="this is a bug in wsiprep; please report it with the traceback in run.jsonl",
        )
    row = replace(row, seconds=round(time.monotonic() - started, 3))
    log.write(
        {"event": "slide", "time": _now(), **asdict(row), **({"traceback": trace} if trace else {})}
    )
    return row


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


def _row(row: SlideOutcome, started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return {"event": "slide", "time": _now(), **asdict(replace(row, seconds=seconds))}


def slide_config(cfg: AnyConfig, ref: SlideRef, inputs: Inputs) -> AnyConfig:
    """The settings with what the manifest says for this slide alone.

    Raises:
        UsageError: a cell of the manifest is no value of its setting, or one mask was given for
            several slides.
    """
    tissue = getattr(cfg, "tissue", None)
    if tissue is not None and tissue.mask and len(inputs.slides) > 1:
        raise UsageError(
            f"--mask is for a single slide, but there are {len(inputs.slides)}.",
            hint="Name each slide's mask in the manifest column `mask`.",
        )
    known = {
        n
        for section in type(cfg).model_fields
        for n in getattr(cfg, section).__class__.model_fields
    }
    values = {name: value for name, value in ref.overrides.items() if name in known}
    return override(cfg, values, f"manifest row of '{ref.id}'") if values else cfg


def _header(cfg: AnyConfig, inputs: Inputs) -> dict[str, Any]:
    return {
        "event": "begin",
        "time": _now(),
        "version": __version__,
        "settings": cfg.canonical(),
        "slides": len(inputs.slides),
        "notes": list(inputs.notes),
    }


def _footer(report: RunReport, slides: int) -> dict[str, Any]:
    count = {
        s: sum(r.status == s for r in report.rows) for s in ("ok", "empty", "skipped", "failed")
    }
    return {
        "event": "end",
        "time": _now(),
        "slides": slides,
        **count,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
    }


def _config_yaml(cfg: AnyConfig) -> str:
    """The settings of this run, as a file that `--config` takes."""
    parts = ["# Settings of the last run; `wsiprep run --config` takes this file.\n"]
    for name in type(cfg).model_fields:
        section = getattr(cfg, name)
        if name == "inputs":
            continue
        values = {
            k.rstrip("_"): v
            for k, v in section.model_dump(mode="json").items()
            if v is not None and k not in {"dry_run", "json_", "overwrite"}
        }
        parts.append(f"\n# {section.panel}\n")
        parts.append(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return "".join(parts)


def _tidy(out: Path) -> None:
    """Remove the work folder when nothing is left in it."""
    work = out / WORK_FOLDER
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
