"""Encoding one slide: what is missing, every tile read once for all encoders, published whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import digest
from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.errors import EncodingError, SlideReadError
from wsiprep.core.report import Event
from wsiprep.core.types import EncoderSpec, PatchGrid
from wsiprep.encoders.config import EncoderConfig
from wsiprep.store.journal import Journal, missing_spans
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import features_unit, grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks.steps import Context, mismatch
from wsiprep.tiles.stream import stream_tiles

__all__ = ["Encoded", "embed", "encode", "features_key"]

FEATURES_VERSION = 1
"""Raised when the same settings would give other features."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of `embed`.

    Attributes:
        patches: Patches encoded in this run.
        bad_tiles: Patches of the slide that could not be read.
    """

    patches: int
    bad_tiles: int


@dataclass(frozen=True, slots=True)
class _Work:
    """An encoder whose features are not there yet."""

    encoder: Encoder
    key: str
    journal: Journal


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
    config = {
        "store_dtype": cfg.store_dtype,
        "on_bad_tile": cfg.on_bad_tile,
        "precision_asked": cfg.precision,
    }
    there = [_is_there(slide, store, name, encoder, cfg, config, ctx) for encoder in encoders]
    bad_tiles = [n for n in there if n is not None]
    with ExitStack() as stack:
        todo = []
        for encoder, found in zip(encoders, there, strict=True):
            if found is None:
                key = features_key(encoder.spec, cfg, parent, slide.info.reader)
                journal = _open_journal(store, name, len(grid), encoder.spec, key, cfg)
                stack.callback(journal.close)
                todo.append(_Work(encoder, key, journal))
        spans = missing_spans([work.journal.done for work in todo], ctx.run.batch_size)
        count = sum(stop - start for start, stop in spans)
        if count:
            ctx.on_event(Event("stage", slide=slide.info.id, text="encode", total=count))
            _fill(slide, grid, spans, todo, cfg, ctx)
        for work in todo:
            ok = work.journal.ok
            if len(grid) and not ok.any():
                raise SlideReadError(
                    "not one tile could be decoded.",
                    slide=slide.info.id,
                    stage="tiles",
                    hint="The file is damaged; copy it again, or try another --reader.",
                )
            bad_tiles.append(int((~ok).sum()))
            # Before it is published: what is noted but not on the list is made from the journal.
            ctx.redone.note(features_unit(name, work.encoder.spec.name))
            store.put_features(
                name, grid, work.encoder.spec, work.journal, work.key, parent, config,
                slide.info.reader,
            )  # fmt: skip
    return Encoded(count, max(bad_tiles, default=0))


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
    parent = store.manifest.units[grid_unit(name)].key
    reader = slide.info.reader
    if unit.key == features_key(spec, cfg, parent, reader):
        return int(stored["bad_tiles"])
    had = {k: stored[k] for k in ("parent", "reader")} | stored["encoder"] | stored["config"]
    asked = {"parent": parent, "reader": reader} | encoder.spec.canonical() | config
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


def _fill(
    slide: Slide,
    grid: PatchGrid,
    spans: Sequence[tuple[int, int]],
    todo: Sequence[_Work],
    cfg: EncoderConfig,
    ctx: Context,
) -> None:
    tiles = stream_tiles(
        slide.reopen, grid, spans, workers=ctx.workers, on_bad_tile=cfg.on_bad_tile
    )
    try:
        for batch in tiles:
            start, stop = int(batch.index[0]), int(batch.index[-1]) + 1
            for work in todo:
                if not work.journal.done[start:stop].all():
                    vectors = encode(
                        work.encoder, batch.pixels, batch.ok, work.journal.dtype, slide.info.id
                    )
                    work.journal.append(start, vectors, batch.ok)
            ctx.on_event(Event("tiles", slide=slide.info.id, done=len(batch.index)))
            ctx.stop.check()
    finally:
        tiles.close()


def encode(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    ok: NDArray[np.bool_],
    dtype: np.dtype[Any],
    slide: str,
) -> NDArray[np.floating[Any]]:
    """Vectors of a batch in the dtype of the store; zero where the tile is not ok.

    Raises:
        EncodingError: a vector has another length, or a value that is not finite.
    """
    vectors = encoder(pixels)
    if vectors.shape != (len(pixels), encoder.spec.dim):
        raise EncodingError(
            f"'{encoder.spec.name}' returned {vectors.shape}, expected "
            f"{(len(pixels), encoder.spec.dim)}.",
            slide=slide,
            stage="encoder",
            hint="The encoder's declared dim is wrong.",
        )
    vectors = np.where(ok[:, None], vectors, 0)
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype)
    bad = int((~np.isfinite(stored)).any(axis=1).sum())
    if bad:
        overflow = bool(np.isfinite(vectors).all())
        raise EncodingError(
            f"'{encoder.spec.name}' gave values that are not finite for {bad} of {len(pixels)} "
            f"patches of a batch.",
            slide=slide,
            stage="encoder",
            hint="They exceed float16: pass --store-dtype float32."
            if overflow
            else "Try --precision fp32.",
        )
    return stored


def features_key(spec: EncoderSpec, cfg: EncoderConfig, grid: str, reader: str) -> str:
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
            "on_bad_tile": cfg.on_bad_tile,
        }
    )
