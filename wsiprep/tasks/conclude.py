"""How a slide ended, in one word and one sentence."""

from __future__ import annotations

from dataclasses import replace

from wsiprep.core.contracts import Slide
from wsiprep.core.report import NO_TISSUE_REMEDY, OUT_OF_FOCUS_REMEDY, SlideOutcome
from wsiprep.core.types import PatchGrid, SlideInfo, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import grid_unit
from wsiprep.store.write import SlideStore
from wsiprep.tasks.focus import COARSEST_MPP, focus_note

__all__ = ["blurred", "concluded", "focus_notes", "too_coarse"]


def too_coarse(info: SlideInfo) -> str | None:
    """A sentence for the user of many slides, where sharpness is not measured on this one."""
    if focus_note(info) is None:
        return None
    return (
        f"Slides coarser than {COARSEST_MPP:g} µm/px are too coarse for --focus and --min-focus:"
        " their patches have no value, and none is dropped by it."
    )


def focus_notes(info: SlideInfo) -> tuple[str, ...]:
    """That sharpness is not measured on this slide, for its row."""
    note = focus_note(info)
    return () if note is None else (note,)


def blurred(slide: Slide, store: SlideStore, tissue: TissueMask, name: str) -> int:
    """How many patches a grid that holds none has lost to `min_focus`.

    Args:
        slide: The slide.
        store: Its store.
        tissue: Its tissue.
        name: The grid.
    """
    config = FeatureStore(store.path).attributes(grid_unit(name))["config"]
    if not config.get("min_focus"):
        return 0
    return len(make_grid(slide.info, tissue, GridConfig.model_validate(config)))


def concluded(
    row: SlideOutcome, tissue: TissueMask, grid: PatchGrid | None, *, new: bool
) -> SlideOutcome:
    """Say in one word and one sentence how the slide ended.

    Args:
        row: What is known of it.
        tissue: Its tissue.
        grid: Its patches, where the command placed or took some.
        new: Whether this run made anything.
    """
    again = "" if new else " (recorded by an earlier run)"
    if tissue.empty:
        return replace(
            row, status="empty", reason="no tissue was found" + again, remedy=NO_TISSUE_REMEDY
        )
    if row.blurred:
        reason = f"all {row.blurred} patches are out of focus" + again
        return replace(row, status="empty", reason=reason, remedy=OUT_OF_FOCUS_REMEDY)
    if grid is not None and not len(grid):
        return replace(
            row,
            status="empty",
            reason="no patch has enough tissue" + again,
            remedy="Lower --min-tissue or --patch-size.",
        )
    if not new:
        return replace(row, status="skipped", reason="all of it was there already")
    return row
