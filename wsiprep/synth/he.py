"""A procedural H&E slide: seeded, of any size, rendered region by region."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Box, Size
from wsiprep.synth.artefacts import Ink
from wsiprep.synth.blocks import BLOCK_PX, from_blocks
from wsiprep.synth.layout import Layout, plan_layout
from wsiprep.synth.paint import Painter
from wsiprep.synth.stain import HE

__all__ = ["SyntheticSlide"]

_BLOCKS_KEPT = 16


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """Two sections of glandular tissue on glass.

    Stroma, glands, lymphocyte aggregates, fat, vessels, and a pen stroke at the border of the
    larger section. The same fields give the same pixels.

    Attributes:
        seed: Of everything that is random.
        size: Level-0 size in pixels.
        mpp: µm per level-0 pixel, 0.2 to 4.
        pen: Colour of the pen stroke; None for none.
        strength: Factor on all stain: 1 is a well-stained slide, 0.4 a faint one.
    """

    seed: int = 7
    size: Size = field(default=Size(10240, 7680))
    mpp: float = 0.5
    pen: Ink | None = "green"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0.2 <= self.mpp <= 4:
            raise ValueError(f"mpp must be 0.2 to 4, not {self.mpp}")
        if not self.strength > 0:
            raise ValueError(f"strength must be positive, not {self.strength}")

    def render(self, box: Box) -> NDArray[np.uint8]:
        """Pixels of a region of level 0; how a slide is cut into regions does not matter.

        Args:
            box: Region in level-0 pixels; outside the slide it is white.

        Returns:
            uint8 (box.height, box.width, 3), RGB.
        """
        return from_blocks(box, self.size, lambda col, row: _block(self, col, row))

    def truth(self, mpp: float = 8.0) -> NDArray[np.uint8]:
        """What is where, known because it was put there.

        Borders are those of the plan, within some 20 µm of the painted ones.

        Args:
            mpp: µm per pixel of the map.

        Returns:
            uint8 (h, w), values of `TissueClass`, spanning the whole of level 0.
        """
        if not mpp > 0:
            raise ValueError(f"mpp must be positive, not {mpp}")
        plan = _layout(self)
        w = max(1, round(self.size.width * self.mpp / mpp))
        h = max(1, round(self.size.height * self.mpp / mpp))
        cell_px = plan.step * 2
        cols = ((np.arange(w) + 0.5) * self.size.width / w / cell_px).astype(np.int64)
        rows = ((np.arange(h) + 0.5) * self.size.height / h / cell_px).astype(np.int64)
        return np.asarray(plan.labels[rows[:, None], cols[None, :]], np.uint8)


@lru_cache(maxsize=4)
def _layout(slide: SyntheticSlide) -> Layout:
    return plan_layout(slide.seed, slide.size, slide.mpp, pen=slide.pen is not None)


@lru_cache(maxsize=2)
def _painter(slide: SyntheticSlide) -> Painter:
    return Painter(
        slide.seed, slide.size, slide.mpp, _layout(slide), HE, slide.strength, slide.pen or "green"
    )


@lru_cache(maxsize=_BLOCKS_KEPT)
def _block(slide: SyntheticSlide, col: int, row: int) -> NDArray[np.uint8]:
    block = _painter(slide).block(col * BLOCK_PX, row * BLOCK_PX, BLOCK_PX)
    block.flags.writeable = False
    return block
