"""Samples of a manifest with their patches, batch after batch.

The order of an epoch depends on (seed, epoch) alone, and the patches of a sample on (seed, epoch,
slides): the same on every process, after every resume, and whoever asks about these slides. Bags
are read ahead by threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from wsiprep.core.errors import ManifestError
from wsiprep.models.bags import Bag
from wsiprep.models.sampling import Patches, Sampling, generator_for, sample
from wsiprep.train.language.bags import CasePatches, SlideFeatures, open_case
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.stores import StoreFolder, case_name

__all__ = ["Batch", "Cases", "batches", "steps_of"]

_ORDER: Final = "order of samples"
AHEAD: Final = 2
"""Batches that are read ahead."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one process sees at a step.

    Attributes:
        step: Number of the step, from 1.
        epoch: Number of the epoch, from 0.
        samples: Its samples.
        bags: Their patches, drawn.
    """

    step: int
    epoch: int
    samples: tuple[Sample, ...]
    bags: tuple[Bag, ...]


class Cases:
    """Samples and how their patches are had.

    Args:
        samples: Of one split.
        patches: Those of sample number i, in the store's order; only what is drawn is taken.
        fingerprint: What the features were made with.
        sampling: Which patches are drawn.
        seed: Of the draw.
        names: What the slides of each sample are called, by which patches are drawn; as the
            samples call them without it.

    Raises:
        ManifestError: no sample.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        patches: Callable[[int], Patches],
        fingerprint: Fingerprint,
        sampling: Sampling,
        *,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> None:
        if not samples:
            raise ManifestError("there is no sample to learn from or to be asked about.")
        self.samples, self.fingerprint = tuple(samples), fingerprint
        self.sampling, self.seed = sampling, seed
        self.patches = patches
        self.names = tuple(names or (case_name(map(Path, one.slides)) for one in samples))

    @classmethod
    def of_stores(
        cls,
        samples: Sequence[Sample],
        stores: Path,
        sampling: Sampling,
        *,
        seed: int = 0,
        expect: Fingerprint | None = None,
        grid: str | None = None,
        encoder: str | None = None,
    ) -> Cases:
        """Samples whose slides have stores; every store is opened once, and checked, here.

        Args:
            samples: Of one split.
            stores: Folder of stores.
            sampling: Which patches are drawn.
            seed: Of the draw.
            expect: What features must have been made with; as the first store's without it.
            grid: Name of the grid, where stores have several.
            encoder: Name of the encoder, likewise.

        Raises:
            ManifestError: no sample.
            MissingStageError: a slide has no store, or no features.
            StoreMismatchError: features were not made alike, or not as expected; names both sides.
        """
        folder = StoreFolder(stores)
        opened: dict[tuple[Path, ...], tuple[SlideFeatures, ...]] = {}
        slides: list[tuple[SlideFeatures, ...]] = []
        names: list[str] = []
        for one in samples:
            paths = folder.paths(one.slides, one.id)
            if paths not in opened:
                opened[paths] = open_case(paths, grid=grid, encoder=encoder, expect=expect)
                expect = expect or opened[paths][0].fingerprint
            slides.append(opened[paths])
            names.append(case_name(paths))

        if expect is None:
            raise ManifestError("there is no sample to learn from or to be asked about.")
        return cls(
            samples, lambda index: CasePatches(slides[index]), expect, sampling,
            seed=seed, names=names,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    def bag(self, index: int, epoch: int) -> Bag:
        """Patches of a sample, as drawn in an epoch; float16 where the store has float16.

        Of a store only the chunks are read that hold a patch which was drawn.
        """
        return sample(
            self.patches(index), self.sampling,
            seed=self.seed, epoch=epoch, slide_id=self.names[index],
        )  # fmt: skip


def steps_of(count: int, batch_size: int, epochs: float) -> int:
    """Steps of so many epochs; what does not fill a batch waits for the next epoch's order."""
    return max(1, round(epochs * max(1, count // batch_size)))


def batches(
    cases: Cases,
    batch_size: int,
    first: int,
    last: int,
    *,
    rank: int = 0,
    world: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Batches of steps `first` to `last`, read ahead.

    Args:
        cases: All samples.
        batch_size: Samples of a step over all processes; fewer where there are fewer.
        first: Number of the first step, from 1.
        last: Number of the last step.
        rank: This process. Samples of a step go to the processes in runs, so that what they gather
            stands in the order that one process would have.
        world: Processes.
        threads: That read.

    Raises:
        ManifestError: fewer samples a step than processes.
    """
    size = min(batch_size, len(cases))
    if size < world:
        raise ManifestError(
            f"{size} samples a step are too few for {world} processes.",
            hint="Use fewer processes or a larger batch_size.",
        )
    per_epoch = len(cases) // size

    def plan(step: int) -> tuple[int, list[int]]:
        epoch, at = divmod(step - 1, per_epoch)
        order = torch.randperm(len(cases), generator=generator_for(cases.seed, epoch, _ORDER))
        own = slice(at * size + rank * size // world, at * size + (rank + 1) * size // world)
        return epoch, order[own].tolist()

    ready: deque[tuple[int, int, list[int], list[Future[Bag]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for step in range(first, last + 1):
                epoch, rows = plan(step)
                reads = [pool.submit(cases.bag, row, epoch) for row in rows]
                ready.append((step, epoch, rows, reads))
                if len(ready) > AHEAD:
                    yield _whole(cases, ready.popleft())
            while ready:
                yield _whole(cases, ready.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _whole(cases: Cases, planned: tuple[int, int, list[int], list[Future[Bag]]]) -> Batch:
    step, epoch, rows, reads = planned
    bags = tuple(read.result() for read in reads)
    return Batch(step, epoch, tuple(cases.samples[row] for row in rows), bags)
