"""A cohort of synthetic slides, what is said of each, and what is true of every patch.

A slide is of one kind of tissue mostly, and of up to two others in smaller areas; the caption
says which, and questions ask for it. Test slides have combinations that no training slide has, so
a model that names them has not learnt slides by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Box, Size
from wsiprep.synth.blocks import BLOCK_PX, from_blocks
from wsiprep.synth.captions import Question, questions_on, sentence, wording_of
from wsiprep.synth.composition import GLASS, KINDS, Composition, Kind, compose
from wsiprep.synth.paint import Painter
from wsiprep.synth.stain import HE, StainPair
from wsiprep.synth.write import write_pyramid

__all__ = ["Cohort", "CohortSlide"]

_SHUFFLE, _TEXT, _STAIN = 11, 12, 13


@dataclass(frozen=True)
class CohortSlide:
    """One slide. The same fields give the same pixels and the same texts.

    Attributes:
        id: Name, unique in its cohort.
        seed: Of everything that is random.
        main: What about half of the tissue is of.
        lesser: What a smaller area each is of.
        size: Level-0 size.
        mpp: µm per level-0 pixel.
    """

    id: str
    seed: int
    main: Kind
    lesser: tuple[Kind, ...]
    size: Size
    mpp: float

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All kinds but stroma, the main one first."""
        return (self.main, *self.lesser)

    def render(self, box: Box) -> NDArray[np.uint8]:
        """Pixels of a region of level 0; how a slide is cut into regions does not matter.

        Args:
            box: Region in level-0 pixels; outside the slide it is white.

        Returns:
            uint8 (box.height, box.width, 3), RGB.
        """
        return from_blocks(box, self.size, lambda col, row: _block(self, col, row))

    def write(self, path: Path) -> None:
        """Write it as a JPEG pyramid; the file appears under its name when it is complete.

        Raises:
            OutputError: the file cannot be written.
        """
        write_pyramid(path, self.size, self.mpp, self.render, objective=round(10 / self.mpp))

    def cover(self, origin0_px: NDArray[np.int64], side0_px: float) -> NDArray[np.float32]:
        """How much of each patch is of each kind.

        Args:
            origin0_px: (N, 2), x and y of the top-left corners, level-0 pixels.
            side0_px: Side of the patches in level-0 pixels.

        Returns:
            float32 (N, len(KINDS)), share of the area of the patch; the rest is stroma and glass.
        """
        plan = _composition(self)
        cell_px = 2 * plan.layout.step
        low = np.floor(origin0_px / cell_px).astype(np.int64)
        high = np.ceil((origin0_px + side0_px) / cell_px).astype(np.int64)
        shares = np.zeros((len(origin0_px), len(KINDS)), np.float32)
        for i, ((x0, y0), (x1, y1)) in enumerate(zip(low, high, strict=True)):
            there = plan.kind[max(0, y0) : y1, max(0, x0) : x1]
            counts = np.bincount(there[there >= 0].ravel(), minlength=len(KINDS))
            shares[i] = counts / ((y1 - y0) * (x1 - x0))
        return shares

    @property
    def shares(self) -> dict[Kind, float]:
        """Share of the tissue that is of each kind, stroma left out."""
        kind = _composition(self).kind
        tissue = int((kind != GLASS).sum())
        return {name: float((kind == i).sum()) / tissue for i, name in enumerate(KINDS)}

    @property
    def sub_captions(self) -> tuple[str, ...]:
        """The name of each of `kinds`, in their order."""
        return tuple(sentence("{}.", name) for name in self.kinds)

    @property
    def caption(self) -> str:
        """The first wording."""
        return self.wording(0)

    def wording(self, number: int) -> str:
        """One of many captions that say the same in other words."""
        return wording_of(self.kinds, self._texts(1, number))

    @property
    def questions(self) -> tuple[Question, ...]:
        """Questions with their answers; see `captions.questions_on`."""
        return questions_on(self.kinds, self._texts(2))

    def _texts(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _TEXT, *purpose])


@dataclass(frozen=True)
class Cohort:
    """Slides to train on and slides to test on. The same fields give the same slides.

    Attributes:
        seed: Of everything that is random.
        trained: Number of training slides.
        tested: Number of test slides, each of its own combination of kinds; at most 48.
        size: Level-0 size of every slide.
        mpp: µm per level-0 pixel.
    """

    seed: int = 0
    trained: int = 72
    tested: int = 24
    size: Size = field(default=Size(2048, 2048))
    mpp: float = 1.0

    def __post_init__(self) -> None:
        most = len(_combinations()) // 2
        if not 1 <= self.tested <= most or self.trained < 1:
            raise ValueError(f"a cohort has slides to train on, and 1 to {most} to test on")

    @cached_property
    def train(self) -> tuple[CohortSlide, ...]:
        """Training slides: all combinations that are left to them, in turn."""
        kinds = self._shuffled[self.tested :]
        return tuple(
            self._slide(f"train-{i:03d}", kinds[i % len(kinds)], i) for i in range(self.trained)
        )

    @cached_property
    def test(self) -> tuple[CohortSlide, ...]:
        """Test slides, of combinations that no training slide has."""
        kinds = self._shuffled[: self.tested]
        return tuple(self._slide(f"test-{i:03d}", k, 100_000 + i) for i, k in enumerate(kinds))

    @cached_property
    def _shuffled(self) -> tuple[tuple[Kind, ...], ...]:
        every = _combinations()
        order = np.random.default_rng([self.seed, _SHUFFLE]).permutation(len(every))
        return tuple(every[i] for i in order)

    def _slide(self, name: str, kinds: Sequence[Kind], number: int) -> CohortSlide:
        seed = self.seed * 1_000_003 + number
        return CohortSlide(name, seed, kinds[0], tuple(kinds[1:]), self.size, self.mpp)


@lru_cache(maxsize=1)
def _combinations() -> tuple[tuple[Kind, ...], ...]:
    """A main kind and up to two others: 96."""
    return tuple(
        (main, *lesser)
        for main in KINDS
        for count in range(3)
        for lesser in combinations([name for name in KINDS if name != main], count)
    )


# Of a few slides, so that some may be painted at once.
@lru_cache(maxsize=6)
def _composition(slide: CohortSlide) -> Composition:
    return compose(slide.seed, slide.size, slide.mpp, slide.main, slide.lesser)


@lru_cache(maxsize=6)
def _painter(slide: CohortSlide) -> Painter:
    # No two laboratories stain alike.
    rng = np.random.default_rng([slide.seed, _STAIN])
    colour = [
        tuple(np.clip(np.array(of) * rng.normal(1, 0.06, 3), 0.02, None).tolist())
        for of in (HE.nuclear, HE.counter)
    ]
    stain = StainPair(nuclear=colour[0], counter=colour[1])
    strength = float(rng.uniform(0.8, 1.2))
    layout = _composition(slide).layout
    return Painter(slide.seed, slide.size, slide.mpp, layout, stain, strength, "green")


@lru_cache(maxsize=8)
def _block(slide: CohortSlide, col: int, row: int) -> NDArray[np.uint8]:
    block = _painter(slide).block(col * BLOCK_PX, row * BLOCK_PX, BLOCK_PX)
    block.flags.writeable = False
    return block
