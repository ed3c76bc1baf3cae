"""Slides as feature grids in which findings were planted: known vectors at known places.

No pixels and no files: what a model of slides and texts has to learn is known to the patch, so
tests can tell whether it did. Background patches are noise; a finding is a square of patches to
which its vector is added. The caption has a sentence for each finding, in any order, among
sentences that say nothing of the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import CHUNK_CELLS

__all__ = ["BACKGROUND", "FINDINGS", "Combination", "PlantedSlide", "PlantedWorld", "swap_captions"]

Combination = tuple[int, ...]
"""Findings of a slide, as increasing indices into `FINDINGS`."""

FINDINGS: tuple[str, ...] = (
    "tumour nests",
    "lymphoid aggregates",
    "geographic necrosis",
    "adipose tissue",
    "mucin pools",
    "keratin pearls",
    "psammoma bodies",
    "fresh haemorrhage",
)
"""What may be planted."""

BACKGROUND = -1
"""Truth of a patch in which nothing was planted."""

_PHRASES = (
    "{} seen.",
    "The section shows {}.",
    "There are areas of {}.",
    "{} can be identified.",
)
_DISTRACTORS = (
    "The specimen was fixed in formalin.",
    "Two blocks were submitted.",
    "The margins were inked.",
    "Clinical correlation is advised.",
    "The slide was stained with haematoxylin and eosin.",
    "Sections were cut at four micrometres.",
)
_COMBINATIONS, _TRAIN, _HELD_OUT, _VECTORS = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class PlantedSlide:
    """A slide, what is said of it, and what is true.

    Attributes:
        id: Name, unique among the slides of a world.
        features: float32 (N, dim), in the order of the store: chunk by chunk, row-major in both.
        cell: int64 (N, 2), row and column.
        truth: int8 (N,), index of the finding planted in each patch, or `BACKGROUND`.
        findings: Indices of all findings, increasing.
        regions: Row and column of the chunk that holds each of `findings`, all different.
        caption: Sentences on all findings, in random order, with distractors.
        sub_captions: The sentences on findings, in the order of `findings`.
    """

    id: str
    features: NDArray[np.float32]
    cell: NDArray[np.int64]
    truth: NDArray[np.int8]
    findings: Combination
    regions: tuple[tuple[int, int], ...]
    caption: str
    sub_captions: tuple[str, ...]


@dataclass(frozen=True)
class PlantedWorld:
    """Slides that share the vectors of their findings. The same fields give the same slides.

    Attributes:
        seed: Of everything that is random.
        dim: Width of features, at least the number of findings.
        side_cells: Side of the lattice, a multiple of 16.
        blob_cells: Side of the square of patches that a finding fills, at most 16.
        noise: Standard deviation of every number of a feature; findings have length 1.
        hole_share: About how much of the lattice has no patch.
        counts: How many findings a slide may have.
        held_out: Combinations of findings that no training slide has.
    """

    seed: int = 0
    dim: int = 32
    side_cells: int = 32
    blob_cells: int = 6
    noise: float = 0.3
    hole_share: float = 0.15
    counts: tuple[int, ...] = (2, 3, 4)
    held_out: int = 64

    def __post_init__(self) -> None:
        if self.dim < len(FINDINGS):
            raise ValueError(f"{len(FINDINGS)} findings need features at least as wide")
        if self.side_cells <= 0 or self.side_cells % CHUNK_CELLS:
            raise ValueError(f"the side must be a multiple of {CHUNK_CELLS}")
        if not 1 <= self.blob_cells <= CHUNK_CELLS:
            raise ValueError(f"a finding has a side of 1 to {CHUNK_CELLS} cells")
        if not 0 <= self.hole_share < 0.9:
            raise ValueError("the share of holes must be from 0 to 0.9")
        regions = (self.side_cells // CHUNK_CELLS) ** 2
        if not self.counts or not all(1 <= n <= min(regions, len(FINDINGS)) for n in self.counts):
            raise ValueError(f"a slide of {regions} regions cannot have {self.counts} findings")
        if not 0 <= self.held_out < len(self._every):
            raise ValueError(f"of {len(self._every)} combinations some must be left to train on")

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (findings, dim), unit length, at right angles to each other."""
        rng = np.random.default_rng([self.seed, _VECTORS])
        q, _ = np.linalg.qr(rng.standard_normal((self.dim, len(FINDINGS))))
        return np.ascontiguousarray(q.T, np.float32)

    @property
    def _every(self) -> list[Combination]:
        return [c for n in sorted(set(self.counts)) for c in combinations(range(len(FINDINGS)), n)]

    @cached_property
    def train_combinations(self) -> tuple[Combination, ...]:
        """Combinations of findings that training slides have, in random order."""
        return self._shuffled[self.held_out :]

    @cached_property
    def held_out_combinations(self) -> tuple[Combination, ...]:
        """Combinations that they do not have, in random order."""
        return self._shuffled[: self.held_out]

    @cached_property
    def _shuffled(self) -> tuple[Combination, ...]:
        every = self._every
        order = np.random.default_rng([self.seed, _COMBINATIONS]).permutation(len(every))
        return tuple(every[i] for i in order)

    def train(self, n: int) -> tuple[PlantedSlide, ...]:
        """Slides to train on: all training combinations in turn, each time in other slides."""
        kinds = self.train_combinations
        return tuple(
            self._slide(f"train-{i:04d}", kinds[i % len(kinds)], [self.seed, _TRAIN, i])
            for i in range(n)
        )

    def test(self, n: int | None = None) -> tuple[PlantedSlide, ...]:
        """Slides not trained on.

        Args:
            n: How many; None for one of each held-out combination. Where no combination is held
                out, they are new slides of training combinations.

        Raises:
            ValueError: `n` is None and no combination is held out.
        """
        kinds = self.held_out_combinations or self.train_combinations
        if n is None:
            if not self.held_out:
                raise ValueError("no combination is held out: say how many slides")
            n = len(kinds)
        return tuple(
            self._slide(f"test-{i:04d}", kinds[i % len(kinds)], [self.seed, _HELD_OUT, i])
            for i in range(n)
        )

    @staticmethod
    def prompts(finding: int) -> tuple[str, ...]:
        """Every sentence that may be said of a finding."""
        return tuple(_sentence(phrase, FINDINGS[finding]) for phrase in _PHRASES)

    def _slide(self, name: str, findings: Combination, seed: Sequence[int]) -> PlantedSlide:
        rng = np.random.default_rng(seed)
        n, chunk = self.side_cells, CHUNK_CELLS
        across = n // chunk
        truth = np.full((n, n), BACKGROUND, np.int8)
        regions = []
        for finding, place in zip(
            findings, rng.choice(across**2, len(findings), replace=False), strict=True
        ):
            row, col = divmod(int(place), across)
            down, right = (int(v) for v in rng.integers(0, chunk - self.blob_cells + 1, 2))
            top, left = row * chunk + down, col * chunk + right
            truth[top : top + self.blob_cells, left : left + self.blob_cells] = finding
            regions.append((row, col))
        there = ~_holes(rng, n, self.hole_share) | (truth != BACKGROUND)
        cell = np.argwhere(there)
        outer = cell // chunk
        cell = cell[np.lexsort((cell[:, 1], cell[:, 0], outer[:, 1], outer[:, 0]))]
        of_patch = truth[cell[:, 0], cell[:, 1]]
        features = rng.standard_normal((len(cell), self.dim)) * self.noise
        planted = of_patch != BACKGROUND
        features[planted] += self.vectors[of_patch[planted]]
        said = [
            _sentence(_PHRASES[int(rng.integers(len(_PHRASES)))], FINDINGS[f]) for f in findings
        ]
        idle = rng.choice(_DISTRACTORS, int(rng.integers(0, 3)), replace=False)
        sentences = [*said, *(str(s) for s in idle)]
        return PlantedSlide(
            id=name,
            features=np.asarray(features, np.float32),
            cell=np.ascontiguousarray(cell, np.int64),
            truth=of_patch,
            findings=findings,
            regions=tuple(regions),
            caption=" ".join(sentences[i] for i in rng.permutation(len(sentences))),
            sub_captions=tuple(said),
        )


def swap_captions(slides: Sequence[PlantedSlide], seed: int = 0) -> tuple[PlantedSlide, ...]:
    """Slides with the captions of others, at random: what is said has nothing to do with them.

    Whatever a model trained on these reaches beyond chance, it reaches by a leak.
    """
    order = np.random.default_rng(seed).permutation(len(slides))
    return tuple(
        replace(slide, caption=slides[i].caption, sub_captions=slides[i].sub_captions)
        for slide, i in zip(slides, order, strict=True)
    )


def _sentence(phrase: str, finding: str) -> str:
    said = phrase.format(finding)
    return said[0].upper() + said[1:]


def _holes(rng: np.random.Generator, side: int, share: float) -> NDArray[np.bool_]:
    """Round holes that overlap, until they cover about the share; bool (side, side)."""
    holes = np.zeros((side, side), np.bool_)
    rows, cols = np.mgrid[:side, :side]
    while holes.mean() < share:
        row, col = rng.uniform(0, side, 2)
        holes |= np.hypot(rows - row, cols - col) < rng.uniform(0.04, 0.13) * side
    return holes
