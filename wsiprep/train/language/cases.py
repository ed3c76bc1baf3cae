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
from typing import Any, Final

import torch

from wsiprep.core.config import digest
from wsiprep.core.errors import ManifestError
from wsiprep.models.bags import Bag
from wsiprep.models.sampling import Patches, Sampling, generator_for, sample
from wsiprep.train.language.bags import CasePatches, SlideFeatures, check_alike
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.left_out import LeftOut, check_left_out, place
from wsiprep.train.language.manifest import Sample, data_sha256
from wsiprep.train.language.stores import StoreFolder, case_name

__all__ = ["Batch", "Cases", "accounts", "batches", "steps_of", "training_cases"]

NOTHING: Final = "there is no sample to learn from or to be asked about."
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
        left_out: What was left out of the samples of the split.

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
        left_out: LeftOut | None = None,
    ) -> None:
        if not samples:
            raise ManifestError(NOTHING)
        self.samples, self.fingerprint = tuple(samples), fingerprint
        self.sampling, self.seed = sampling, seed
        self.patches = patches
        self.left_out = LeftOut(len(samples)) if left_out is None else left_out
        self.names = tuple(names or (case_name(map(Path, one.slides)) for one in samples))

    @classmethod
    def of_splits(
        cls,
        splits: Sequence[Sequence[Sample]],
        stores: Path,
        sampling: Sampling,
        *,
        seed: int = 0,
        expect: Fingerprint | None = None,
        grid: str | None = None,
        encoder: str | None = None,
        skip_missing: bool = False,
    ) -> list[Cases]:
        """Samples whose slides have stores; every store is opened once, and checked, here.

        Splits belong together: the features of all are alike.

        Args:
            splits: Samples of each.
            stores: Folder of stores.
            sampling: Which patches are drawn.
            seed: Of the draw.
            expect: What features must have been made with; as those of the first slide that has
                any without it.
            grid: Name of the grid, where stores have several.
            encoder: Name of the encoder, likewise.
            skip_missing: Leave out samples of slides without a store or features.

        Raises:
            ManifestError: a split has no sample.
            MissingStageError: slides have no store or no features, and may not be missing.
            SlideError: no slide has a patch with features.
            StoreMismatchError: features were not made alike, or not as expected; names both sides.
        """
        if not all(splits):
            raise ManifestError(NOTHING)
        folder = StoreFolder(stores)
        opened: dict[Path, SlideFeatures] = {}

        def patches(path: Path) -> int:
            if path not in opened:
                opened[path] = SlideFeatures(path, grid=grid, encoder=encoder)
            return len(opened[path])

        placed, left = zip(*(place(samples, folder, patches) for samples in splits), strict=True)
        check_left_out(*left, stores=stores, skip_missing=skip_missing)
        used = {path: opened[path] for some in placed for _, paths in some for path in paths}
        if expect is None:
            expect = check_alike(used.values())
        else:
            for slide in used.values():
                expect.check(slide.fingerprint, slide=slide.slide)
        return [
            cls(
                [sample for sample, _ in some], _reader([[used[p] for p in q] for _, q in some]),
                expect, sampling, seed=seed, names=[case_name(paths) for _, paths in some],
                left_out=out,
            )
            for some, out in zip(placed, left, strict=True)
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    def identity(self) -> str:
        """Tells these samples, and the stores that their patches come from, from others."""
        return digest({"samples": data_sha256(self.samples), "stores": list(self.names)})

    def account(self) -> dict[str, Any]:
        """How many samples there are, and which were left out: plain JSON types."""
        return {"n": len(self), "left_out": self.left_out.canonical()}

    def bag(self, index: int, epoch: int) -> Bag:
        """Patches of a sample, as drawn in an epoch; float16 where the store has float16.

        Of a store only the chunks are read that hold a patch which was drawn.
        """
        return sample(
            self.patches(index), self.sampling,
            seed=self.seed, epoch=epoch, slide_id=self.names[index],
        )  # fmt: skip


def training_cases(
    cfg: LanguageTraining,
    sampling: Sampling,
    learn: Sequence[Sample],
    val: Sequence[Sample],
    expect: Fingerprint | None = None,
) -> tuple[Cases, Cases | None]:
    """What a training learns from, and what it validates on, if on anything.

    Args:
        cfg: Says where stores are, and which of their features count.
        sampling: Which patches are drawn.
        learn: Samples to learn from.
        val: Samples to validate on.
        expect: What features must have been made with.

    Raises:
        WsiprepError: as `Cases.of_splits`; of all samples at once.
    """
    found = Cases.of_splits(
        [learn, val] if val else [learn], cfg.stores, sampling, seed=cfg.seed, expect=expect,
        grid=cfg.features_grid, encoder=cfg.features_encoder, skip_missing=cfg.skip_missing,
    )  # fmt: skip
    return found[0], found[1] if val else None


def accounts(learn: Cases, val: Cases | None) -> dict[str, Any]:
    """What is learned from and validated on, and what was left out of both: plain JSON types."""
    return {"learn": learn.account()} | ({"val": val.account()} if val is not None else {})


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


def _reader(slides: Sequence[Sequence[SlideFeatures]]) -> Callable[[int], Patches]:
    return lambda index: CasePatches(slides[index])


def _whole(cases: Cases, planned: tuple[int, int, list[int], list[Future[Bag]]]) -> Batch:
    step, epoch, rows, reads = planned
    bags = tuple(read.result() for read in reads)
    return Batch(step, epoch, tuple(cases.samples[row] for row in rows), bags)
