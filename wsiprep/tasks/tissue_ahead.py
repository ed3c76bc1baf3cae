"""Tissue of the slides that come next, where a segmenter takes several slides at once.

A promptable network on a GPU is half idle with one thumbnail. The thumbnails of the slides in front
of the queue are read at the same time, shown to it together, and each slide finds its own masks in
its turn. At most as many thumbnails are held as the segmenter takes at once.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from wsiprep.core.contracts import Slide
from wsiprep.core.types import OnBadTile
from wsiprep.slide.open import open_slide
from wsiprep.store.claim import find_store
from wsiprep.tasks.config import AnyConfig, stages
from wsiprep.tasks.inputs import SlideRef
from wsiprep.tasks.slides import own_mpp
from wsiprep.tissue.config import TissueConfig
from wsiprep.tissue.detect import Seen, Shown, see, show, slides_at_once, tissue_key

__all__ = ["TissueAhead"]

Waiting = tuple[SlideRef, AnyConfig, bool]


class TissueAhead:
    """What a segmenter saw on slides before their turn.

    Args:
        waiting: Slides whose turn is yet to come, as it changes: reference, settings, and whether
            another process was writing it.
    """

    def __init__(self, waiting: Collection[Waiting]) -> None:
        self._waiting = waiting
        self._seen: dict[str, Seen] = {}

    def seen(self, slide: Slide, cfg: TissueConfig, on_bad_tile: OnBadTile) -> Seen | None:
        """What a segmenter that takes several slides saw on this one; None if it takes one alone.

        Slides after it that cannot be read are left for their turn, in which they fail with a
        reason; so are those that have a store, for their tissue may be there.

        Raises:
            SlideError, EnvironmentProblem: as `detect_tissue`.
        """
        most = slides_at_once(cfg)
        if most == 1:
            return None
        masked = on_bad_tile == "mask"
        key = tissue_key(slide.info, cfg, masked=masked)
        if key not in self._seen:
            self._seen.clear()
            alike = (
                (ref, own)
                for ref, own, _ in self._waiting
                if (stages(own).tissue, own.slide.on_bad_tile) == (cfg, on_bad_tile)
            )
            with ThreadPoolExecutor(most) as pool:
                others = pool.map(_unread, islice(alike, most - 1))
                shown = [show(slide, cfg, on_bad_tile)]
                shown += [one for one in others if one is not None]
            keys = [tissue_key(one.info, cfg, masked=masked) for one in shown]
            self._seen = dict(zip(keys, see(shown, cfg), strict=True))
        return self._seen.pop(key)


def _unread(one: tuple[SlideRef, AnyConfig]) -> Shown | None:
    """A slide and its thumbnail; None where it has a store, or cannot be read."""
    ref, own = one
    out, tissue = own.run.output, stages(own).tissue
    try:
        with open_slide(ref.path, own_mpp(out, ref, own), slide_id=ref.id) as slide:
            there = find_store(out, ref.id, slide.info.fingerprint) is not None
            if tissue is None or (there and not own.run.overwrite):
                return None
            return show(slide, tissue, own.slide.on_bad_tile)
    except Exception:  # noqa: BLE001 - it is read again in its turn, and told then
        return None
