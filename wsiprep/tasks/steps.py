"""What each stage does to one slide's store: reuse what is there, or make and publish it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import digest
from wsiprep.core.contracts import Encoder, Slide
from wsiprep.core.errors import EncodingError, SlideReadError, StoreMismatchError
from wsiprep.core.report import Event, OnEvent
from wsiprep.core.types import EncoderSpec, PatchGrid, SlideInfo, TissueMask
from wsiprep.encoders.config import EncoderConfig
from wsiprep.grid.build import grid_key, grid_name, make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.grid.export import export_coords
from wsiprep.store.disk import write_whole
from wsiprep.store.journal import Journal, missing_spans
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import TISSUE, features_unit, grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks.config import RunConfig
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tiles.workers import default_workers
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.detect import detect_tissue, tissue_key
from wsiprep.tissue.geojson import tissue_geojson
from wsiprep.views.overlay import encode_jpeg, tissue_overlay

__all__ = [
    "Context",
    "Encoded",
    "draw",
    "embed",
    "features_key",
    "place",
    "segment",
    "write_outlines",
]

PICTURE_PX = 1600
"""Least longer side of an overlay, where the slide has that many pixels."""

FEATURES_VERSION = 1
"""Raised when the same settings would give other features."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of a run may need.

    Attributes:
        run: How the work is done.
        on_event: Where progress is told.
        check_stop: Raises `Interrupted` once a stop was asked for.
    """

    run: RunConfig
    on_event: OnEvent
    check_stop: Callable[[], None]

    @property
    def workers(self) -> int:
        """Reading threads."""
        return self.run.workers or default_workers()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of `embed`.

    Attributes:
        patches: Patches encoded in this run.
        bad_tiles: Patches of the slide that could not be read.
    """

    patches: int
    bad_tiles: int


def segment(
    slide: Slide, store: SlideStore, cfg: TissueConfig, ctx: Context
) -> tuple[TissueMask, NDArray[np.uint8] | None]:
    """Find tissue, or take what an earlier run found with the same settings.

    Returns:
        The mask, and the thumbnail if it was made now.

    Raises:
        StoreMismatchError: tissue was found with other settings, and `overwrite` is off.
    """
    key = tissue_key(slide.info, cfg)
    unit = store.unit(TISSUE)
    if unit is not None and not ctx.run.overwrite:
        stored = FeatureStore(store.path)
        if unit.key != key:
            raise _mismatch(
                slide.info, "tissue mask", stored.attributes(TISSUE)["config"], cfg.canonical()
            )
        return stored.tissue(), None
    ctx.on_event(Event("stage", slide=slide.info.id, text="tissue"))
    tissue, thumbnail = detect_tissue(slide, cfg)
    store.put_tissue(tissue, key, cfg.canonical())
    return tissue, thumbnail


def place(
    store: SlideStore, info: SlideInfo, tissue: TissueMask, cfg: GridConfig, ctx: Context
) -> tuple[str, PatchGrid, bool]:
    """Place patches, or take what an earlier run placed with the same settings.

    Returns:
        Name of the grid, the grid, and whether it was made now.

    Raises:
        StoreMismatchError: the grid of that name was made with other settings or from another
            tissue mask, and `overwrite` is off.
        UpsamplingError: the slide is coarser than asked.
    """
    name = grid_name(cfg)
    parent = store.manifest.units[TISSUE].key
    key = grid_key(cfg, parent)
    unit = store.unit(grid_unit(name))
    if unit is not None and (unit.key == key or not ctx.run.overwrite):
        stored = FeatureStore(store.path)
        if unit.key == key:
            return name, stored.grid(name), False
        config = stored.attributes(grid_unit(name))["config"]
        if unit.parent != parent:
            raise StoreMismatchError(
                f"grid '{name}' was made from another tissue mask than is there now.",
                slide=info.id,
                stage="grid",
                hint="Pass --overwrite to make it anew.",
            )
        raise _mismatch(info, f"grid '{name}'", config, cfg.canonical())
    ctx.on_event(Event("stage", slide=info.id, text="patches"))
    grid = make_grid(info, tissue, cfg)
    store.put_grid(name, grid, key, parent, cfg.canonical())
    return name, grid, True


def embed(
    slide: Slide,
    store: SlideStore,
    name: str,
    grid: PatchGrid,
    encoders: Sequence[Encoder],
    cfg: EncoderConfig,
    ctx: Context,
) -> Encoded:
    """Encode what is missing, reading every tile once for all encoders, and publish it.

    Raises:
        SlideReadError: a tile cannot be decoded and `on_bad_tile` is `fail`, or all cannot.
        EncodingError: an encoder gave a value that is not finite.
        StoreMismatchError: features were made with other settings, and `overwrite` is off.
    """
    parent = store.manifest.units[grid_unit(name)].key
    config = {"store_dtype": cfg.store_dtype, "on_bad_tile": cfg.on_bad_tile}
    todo: list[tuple[Encoder, str, Journal]] = []
    bad_tiles = 0
    for encoder in encoders:
        key = features_key(encoder.spec, cfg, parent, slide.info.reader)
        unit_name = features_unit(name, encoder.spec.name)
        unit = store.unit(unit_name)
        if unit is not None and not ctx.run.overwrite:
            stored = FeatureStore(store.path).attributes(unit_name)
            if cfg.precision == "auto":  # what is there was made where auto meant this
                used = replace(encoder.spec, precision=stored["encoder"]["precision"])
                key = features_key(used, cfg, parent, slide.info.reader)
            if unit.key != key:
                raise _mismatch(
                    slide.info,
                    f"features of '{encoder.spec.name}'",
                    {
                        **stored["encoder"],
                        **stored["config"],
                        "grid": stored["parent"],
                        "reader": stored["reader"],
                    },
                    {
                        **encoder.spec.canonical(),
                        **config,
                        "grid": parent,
                        "reader": slide.info.reader,
                    },
                )
            bad_tiles = max(bad_tiles, stored["bad_tiles"])
            continue
        args = (name, encoder.spec.name, key, len(grid), encoder.spec.dim, cfg.store_dtype)
        journal = store.journal(*args)
        if unit is not None:  # to be overwritten: off the list first, then from the beginning
            store.forget(unit_name)
            journal.close()
            store.discard_journal(journal)
            journal = store.journal(*args)
        todo.append((encoder, key, journal))

    spans = missing_spans([journal.done for _, _, journal in todo], ctx.run.batch_size)
    count = sum(stop - start for start, stop in spans)
    try:
        if count:
            ctx.on_event(Event("stage", slide=slide.info.id, text="encode", total=count))
            _fill(slide, grid, spans, todo, cfg, ctx)
        for encoder, key, journal in todo:
            if len(grid) and not journal.ok.any():
                raise SlideReadError(
                    "not one tile could be decoded.",
                    slide=slide.info.id,
                    stage="tiles",
                    hint="The file is damaged; copy it again, or try another --reader.",
                )
            bad_tiles = max(bad_tiles, int((~journal.ok).sum()))
            store.put_features(
                name, grid, encoder.spec, journal, key, parent, {**config}, slide.info.reader
            )
    finally:
        for _, _, journal in todo:
            journal.close()
    return Encoded(count, bad_tiles)


def _fill(
    slide: Slide,
    grid: PatchGrid,
    spans: Sequence[tuple[int, int]],
    todo: Sequence[tuple[Encoder, str, Journal]],
    cfg: EncoderConfig,
    ctx: Context,
) -> None:
    tiles = stream_tiles(
        slide.reopen, grid, spans, workers=ctx.workers, on_bad_tile=cfg.on_bad_tile
    )
    try:
        for batch in tiles:
            start, stop = int(batch.index[0]), int(batch.index[-1]) + 1
            for encoder, _, journal in todo:
                if not journal.done[start:stop].all():
                    vectors = encode(encoder, batch.pixels, batch.ok, journal.dtype, slide.info.id)
                    journal.append(start, vectors, batch.ok)
            ctx.on_event(Event("tiles", slide=slide.info.id, done=len(batch.index)))
            ctx.check_stop()
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


def write_outlines(store: SlideStore, tissue: TissueMask, made_now: bool) -> Path:
    """Write the tissue as GeoJSON, unless it is there from the same mask."""
    path = store.out / "geojson" / f"{store.name}.geojson"
    if made_now or not path.is_file():
        write_whole(path, tissue_geojson(tissue).encode())
    return path


def write_coords(store: SlideStore, name: str, grid: PatchGrid, cfg: GridConfig) -> None:
    """Write the coordinates in the forms asked for."""
    for kind in cfg.export_coords:
        path = store.out / "coords" / name / f"{store.name}.{kind}"
        write_whole(path, export_coords(kind, store.slide, grid))


def draw(
    slide: Slide,
    store: SlideStore,
    tissue: TissueMask,
    thumbnail: NDArray[np.uint8] | None,
    grid: PatchGrid | None,
    made_now: bool,
) -> Path:
    """Draw the overlay, unless it is there from the same mask and grid."""
    path = store.out / "overlays" / f"{store.name}.jpg"
    if made_now or not path.is_file():
        if thumbnail is None or max(thumbnail.shape) < PICTURE_PX:
            longest_um = max(tissue.size0.width, tissue.size0.height) * slide.info.mpp
            thumbnail = slide.thumbnail(longest_um / PICTURE_PX)
        picture = tissue_overlay(
            thumbnail, tissue, grid, slide_id=store.name, slide_mpp=slide.info.mpp
        )
        write_whole(path, encode_jpeg(picture))
    return path


def _mismatch(
    info: SlideInfo, what: str, stored: Mapping[str, Any], asked: Mapping[str, Any]
) -> StoreMismatchError:
    changed = [
        f"{name} {stored.get(name)!r} -> {asked.get(name)!r}"
        for name in sorted(set(stored) | set(asked))
        if stored.get(name) != asked.get(name)
    ]
    why = "; ".join(changed) or "by another version of the code, or from another file"
    return StoreMismatchError(
        f"the {what} in the store was made differently ({why}).",
        slide=info.id,
        stage="store",
        hint="Pass the same settings, --overwrite to replace it, or another --output.",
    )
