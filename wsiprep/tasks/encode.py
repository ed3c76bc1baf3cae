"""Encoding one slide: what is missing, read once for all encoders, published whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from wsiprep.core.config import digest
from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.profile import EncodeTimes
from wsiprep.core.report import Event
from wsiprep.core.types import EncoderSpec, OnBadTile, PatchGrid
from wsiprep.encoders.config import EncoderConfig
from wsiprep.store.journal import Journal, missing_spans
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import features_unit, grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks.fill import Work, fill
from wsiprep.tasks.steps import Context, mismatch
from wsiprep.tiles.device.stream import why_on_host
from wsiprep.tiles.scaled import why_not_scaled

__all__ = ["Encoded", "embed", "features_key"]

BATCH_BYTES = 128 << 20
"""Most pixels of a batch, so that the memory of a run has a bound whatever `--batch-size`."""

FEATURES_VERSION = 1
"""Raised when the same settings would give other features."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of `embed`.

    Attributes:
        patches: Patches encoded in this run.
        bad_tiles: Patches of the slide that could not be read.
        notes: Warnings for the user.
    """

    patches: int
    bad_tiles: int
    notes: tuple[str, ...] = ()


def embed(
    slide: Slide,
    store: SlideStore,
    name: str,
    grid: PatchGrid,
    encoders: Sequence[Encoder],
    cfg: EncoderConfig,
    ctx: Context,
) -> Encoded:
    """Encode what is missing, and publish it.

    Raises:
        SlideReadError: a tile cannot be decoded and `on_bad_tile` is `fail`, or all cannot.
        EncodingError: an encoder gave a value that is not finite.
        StoreMismatchError: features were made with other settings, and `overwrite` is off.
    """
    parent = store.manifest.units[grid_unit(name)].key
    cfg, notes = _as_decoded(slide, grid, cfg)
    config = {
        "store_dtype": cfg.store_dtype,
        "on_bad_tile": ctx.on_bad_tile,
        "precision_asked": cfg.precision,
        **_decode_words(cfg),
    }
    there = [_is_there(slide, store, name, encoder, cfg, config, ctx) for encoder in encoders]
    bad_tiles = [n for n in there if n is not None]
    with ExitStack() as stack:
        todo = []
        for encoder, found in zip(encoders, there, strict=True):
            if found is None:
                key = features_key(encoder.spec, cfg, parent, slide.info.reader, ctx.on_bad_tile)
                journal = _open_journal(store, name, len(grid), encoder.spec, key, cfg)
                stack.callback(journal.close)
                todo.append(Work(encoder, key, journal))
        batch = min(ctx.run.batch_size, max(1, BATCH_BYTES // (grid.plan.patch_px**2 * 3)))
        spans = missing_spans([work.journal.done for work in todo], batch)
        count = sum(stop - start for start, stop in spans)
        if count:
            ctx.on_event(Event("stage", slide=slide.info.id, text="encode", total=count))
            times = ctx.profile.slides[store.name] = EncodeTimes()
            fill(slide, grid, spans, todo, cfg, ctx, times)
            if times.host_tiles:
                notes.append(
                    f"Decoder '{cfg.decode}' left {times.host_tiles:,} of {times.stored_tiles:,} "
                    "stored tiles to the CPU."
                )
        for work in todo:
            ok = work.journal.ok
            if len(grid) and not ok.any():
                raise SlideReadError(
                    "not one patch could be read.",
                    slide=slide.info.id,
                    stage="tiles",
                    hint="The file is damaged or incomplete: copy it again, or try --reader.",
                )
            bad_tiles.append(int((~ok).sum()))
            began = time.perf_counter()
            # Before it is published: what is noted but not on the list is made from the journal.
            ctx.redone.note(features_unit(name, work.encoder.spec.name))
            store.put_features(
                name, grid, work.encoder.spec, work.journal, work.key, parent, config,
                slide.info.reader,
            )  # fmt: skip
            if count:
                times.published(time.perf_counter() - began)
    return Encoded(count, max(bad_tiles, default=0), tuple(notes))


def _as_decoded(
    slide: Slide, grid: PatchGrid, cfg: EncoderConfig
) -> tuple[EncoderConfig, list[str]]:
    """The settings with `decode` as it can be for this slide, and a note where that is not so."""
    why = None
    if cfg.decode == "scaled":
        why = why_not_scaled(slide, grid)
    elif cfg.decode != "cpu":
        why = why_on_host(slide, grid.plan)
    if why is None:
        return cfg, []
    note = f"Decoded as by --decode cpu, not {cfg.decode}: {why}."
    return cfg.model_copy(update={"decode": "cpu"}), [note]


def _decode_words(cfg: EncoderConfig) -> dict[str, str]:
    """What a key says of the decoder: nothing of the CPU's, so that older keys stay as they are."""
    return {} if cfg.decode == "cpu" else {"decode": cfg.decode}


def _is_there(
    slide: Slide,
    store: SlideStore,
    name: str,
    encoder: Encoder,
    cfg: EncoderConfig,
    config: dict[str, Any],
    ctx: Context,
) -> int | None:
    """Unreadable tiles of features that are there as asked; None if they are to be made.

    Raises:
        StoreMismatchError: they were made with other settings, and `overwrite` is off.
    """
    unit_name = features_unit(name, encoder.spec.name)
    unit = store.unit(unit_name)
    if unit is None or (ctx.run.overwrite and not ctx.redone.has(unit_name)):
        return None
    stored = FeatureStore(store.path).attributes(unit_name)
    spec = encoder.spec
    if cfg.precision == stored["config"]["precision_asked"] == "auto":
        # auto may mean another precision on the device where it was made.
        spec = replace(spec, precision=stored["encoder"]["precision"])
    on_bad_tile = ctx.on_bad_tile
    if not stored["bad_tiles"]:  # either policy gives the same
        on_bad_tile = stored["config"]["on_bad_tile"]
    parent = store.manifest.units[grid_unit(name)].key
    reader = slide.info.reader
    if unit.key == features_key(spec, cfg, parent, reader, on_bad_tile):
        return int(stored["bad_tiles"])
    cpu = {"decode": "cpu"}
    had = cpu | {k: stored[k] for k in ("parent", "reader")} | stored["encoder"] | stored["config"]
    asked = cpu | {"parent": parent, "reader": reader} | encoder.spec.canonical() | config
    asked["on_bad_tile"] = on_bad_tile
    raise mismatch(slide.info, f"features of '{spec.name}'", had, asked)


def _open_journal(
    store: SlideStore, name: str, rows: int, spec: EncoderSpec, key: str, cfg: EncoderConfig
) -> Journal:
    """The journal of features to be made; from the beginning if they are to be overwritten."""
    unit_name = features_unit(name, spec.name)
    journal = store.journal(name, spec.name, key, rows, spec.dim, cfg.store_dtype)
    if unit_name in store.manifest.units:
        # Off the list first: from here on the journal is what a resumed run goes on with.
        journal.restart()
        store.forget(unit_name)
    return journal


def features_key(
    spec: EncoderSpec, cfg: EncoderConfig, grid: str, reader: str, on_bad_tile: OnBadTile
) -> str:
    """Identity of features: the encoder with its weights and numbers, the grid, the reader."""
    facts = spec.canonical()
    for words in ("license", "source", "note", "mpp"):
        facts.pop(words)
    return digest(
        {
            "version": FEATURES_VERSION,
            "grid": grid,
            "reader": reader,
            "encoder": facts,
            "store_dtype": cfg.store_dtype,
            "on_bad_tile": on_bad_tile,
            **_decode_words(cfg),
        }
    )
