"""Tissue and patches of one slide: reuse what is there, or make and publish it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide
from wsiprep.core.errors import StoreMismatchError
from wsiprep.core.profile import Profile
from wsiprep.core.report import Event, OnEvent
from wsiprep.core.types import OnBadTile, PatchGrid, SlideInfo, TissueMask
from wsiprep.grid.build import grid_key, grid_name, make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import TISSUE, grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks import outputs
from wsiprep.tasks.config import RunConfig
from wsiprep.tasks.focus import focus_note, measure_focus
from wsiprep.tasks.interrupt import StopRequests
from wsiprep.tasks.redo import Redone
from wsiprep.tasks.tissue_ahead import TissueAhead
from wsiprep.tiles.device.decode import JpegDecoder
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.detect import detect_tissue, tissue_key

__all__ = ["Context", "mismatch", "place", "segment"]


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of a run may need.

    Attributes:
        run: How the work is done.
        on_event: Where progress is told.
        stop: Whether a stop was asked for.
        redone: What an `--overwrite` run that was stopped has done again of this slide.
        profile: Where the time of encoding goes.
        said: Notes that concern many slides and were told already.
        on_bad_tile: What is done where a stored tile of the slide cannot be decoded.
        decoders: Decoders of JPEG tiles on the encoders' device, by `EncoderConfig.decode`.
        ahead: What a segmenter saw on slides before their turn.
    """

    run: RunConfig
    on_event: OnEvent
    stop: StopRequests
    redone: Redone
    profile: Profile
    said: set[str]
    on_bad_tile: OnBadTile
    decoders: Mapping[str, JpegDecoder] = field(default_factory=dict)
    ahead: TissueAhead = field(default_factory=lambda: TissueAhead(()))

    @property
    def workers(self) -> int:
        """Reading threads."""
        return self.profile.workers


def segment(
    slide: Slide, store: SlideStore, cfg: TissueConfig, ctx: Context
) -> tuple[TissueMask, NDArray[np.uint8] | None]:
    """Find tissue, or take what an earlier run found with the same settings.

    Returns:
        The mask, and the thumbnail if it was made now.

    Raises:
        StoreMismatchError: tissue was found with other settings, and `overwrite` is off; or
            without what could not be decoded, and `on_bad_tile` is `fail`.
        SlideReadError: the thumbnail cannot be decoded; all of it, where `on_bad_tile` is `mask`.
    """
    unit = store.unit(TISSUE)
    if unit is not None and not ctx.run.overwrite:
        stored = FeatureStore(store.path)
        had, asked = stored.attributes(TISSUE)["config"], cfg.canonical()
        masked = "on_bad_tile" in had
        if masked:  # else either policy finds the same
            asked["on_bad_tile"] = ctx.on_bad_tile
        masks = masked and ctx.on_bad_tile == "mask"
        if unit.key != tissue_key(slide.info, cfg, masked=masks):
            raise mismatch(slide.info, "tissue mask", had, asked)
        return stored.tissue(), None
    ctx.on_event(Event("stage", slide=slide.info.id, text="tissue"))
    with ctx.stop.at_once():
        seen = ctx.ahead.seen(slide, cfg, ctx.on_bad_tile)
        tissue, thumbnail = detect_tissue(slide, cfg, seen, ctx.on_bad_tile)
    outputs.remove_pictures(store)
    masked = tissue.bad_tiles > 0
    config = cfg.canonical() | ({"on_bad_tile": "mask"} if masked else {})
    store.put_tissue(tissue, tissue_key(slide.info, cfg, masked=masked), config)
    return tissue, thumbnail


def place(
    slide: Slide, store: SlideStore, tissue: TissueMask, cfg: GridConfig, ctx: Context
) -> tuple[str, PatchGrid]:
    """Place patches, or take what an earlier run placed with the same settings.

    Where `cfg` asks for it their sharpness is measured, and those out of focus are dropped.

    Returns:
        Name of the grid, and the grid.

    Raises:
        StoreMismatchError: the grid of that name was made with other settings or from another
            tissue mask, and `overwrite` is off.
        UpsamplingError: the slide is coarser than asked.
        Interrupted: a stop was asked for while sharpness was measured.
    """
    info = slide.info
    name = grid_name(cfg)
    parent = store.manifest.units[TISSUE].key
    key = grid_key(cfg, parent)
    unit = store.unit(grid_unit(name))
    if unit is not None and not ctx.run.overwrite:
        stored = FeatureStore(store.path)
        if unit.key == key:
            return name, stored.grid(name)
        config = stored.attributes(grid_unit(name))["config"]
        if unit.parent != parent:
            raise StoreMismatchError(
                f"grid '{name}' was made from another tissue mask than is there now.",
                slide=info.id,
                stage="grid",
                hint="Pass --overwrite to make it anew.",
            )
        raise mismatch(info, f"grid '{name}'", config, cfg.canonical())
    ctx.on_event(Event("stage", slide=info.id, text="patches"))
    grid = make_grid(info, tissue, cfg)
    if cfg.measures_focus and focus_note(info) is None:
        grid = _in_focus(slide, grid, cfg, ctx)
    outputs.remove_pictures(store, name)
    store.put_grid(name, grid, key, parent, cfg.canonical())
    return name, grid


def _in_focus(slide: Slide, grid: PatchGrid, cfg: GridConfig, ctx: Context) -> PatchGrid:
    """The grid with the sharpness of its patches, without those below `min_focus`."""
    name = slide.info.id
    ctx.on_event(Event("stage", slide=name, text="focus", total=len(grid)))

    def told(patches: int) -> None:
        ctx.stop.check()
        ctx.on_event(Event("tiles", slide=name, done=patches))

    focus = measure_focus(slide, grid, workers=ctx.workers, on_batch=told)
    # NaN is not below: what cannot be judged stays.
    return replace(grid, focus=focus).only(~(focus < cfg.min_focus))


def mismatch(
    info: SlideInfo, what: str, stored: Mapping[str, Any], asked: Mapping[str, Any]
) -> StoreMismatchError:
    """The refusal to mix settings, naming each that differs."""
    words = {"note", "license", "source"}
    changed = [
        f"{name} {stored.get(name)!r} -> {asked.get(name)!r}"
        for name in sorted((set(stored) | set(asked)) - words)
        if stored.get(name) != asked.get(name)
    ]
    why = "; ".join(changed) or "by another version of the code, or from another file"
    return StoreMismatchError(
        f"the {what} in the store was made differently ({why}).",
        slide=info.id,
        stage="store",
        hint="Pass the same settings, --overwrite to replace it, or another --output.",
    )
