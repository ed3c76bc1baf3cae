"""The cohort of the language demo on disk: slides, what is said of them, and what is true."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray

from wsiprep.core.cores import available_cores
from wsiprep.core.errors import ConfigError, Interrupted, SlideError
from wsiprep.core.report import Event, OnEvent, SlideOutcome
from wsiprep.store.disk import check_writable, output_errors, write_whole
from wsiprep.store.read import FeatureStore
from wsiprep.synth.captions import NAMES, prompts
from wsiprep.synth.cohort import Cohort, CohortSlide
from wsiprep.synth.composition import KINDS, Kind
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare
from wsiprep.tasks.results import csv_text
from wsiprep.train.language.manifest import Sample, Split, write_manifest

__all__ = ["DemoFolder", "make_stores", "write_texts"]

PATCH_PX: Final = 128
MIN_TISSUE: Final = 0.25
COVER: Final = 0.5
"""Share of a patch from which it counts as of a kind."""
WORDINGS: Final = 3
"""Captions of a slide that the assistant learns: what is said, not how, is of the slide."""
PAINTERS: Final = 4
"""Slides painted at once, at most: each holds some 40 MB."""


@dataclass(frozen=True)
class DemoFolder:
    """Where the demo keeps what.

    Attributes:
        output: Folder of all of it.
        cohort: Its slides.
    """

    output: Path
    cohort: Cohort = field(default_factory=Cohort)

    @property
    def stores(self) -> Path:
        """Folder of stores."""
        return self.output / "stores"

    @property
    def captions(self) -> Path:
        """Manifest of captions."""
        return self.output / "captions.jsonl"

    @property
    def talks(self) -> Path:
        """Manifest of captions, and of questions with answers."""
        return self.output / "questions.jsonl"

    @property
    def classes(self) -> Path:
        """Kinds of tissue in words."""
        return self.output / "kinds.yaml"

    @property
    def truth(self) -> Path:
        """Where on test slides each kind is."""
        return self.output / "truth" / "truth.csv"

    @property
    def aligned(self) -> Path:
        """Run of `train align`."""
        return self.output / "align"

    @property
    def assistant(self) -> Path:
        """Run of `train instruct`."""
        return self.output / "instruct"

    @property
    def results(self) -> Path:
        """Folder of reports."""
        return self.output / "results"

    @property
    def slides(self) -> tuple[CohortSlide, ...]:
        """All slides, those to train on first."""
        return (*self.cohort.train, *self.cohort.test)

    def slide_path(self, slide: CohortSlide) -> Path:
        """File of a slide."""
        return self.output / "slides" / f"{slide.id}.tiff"

    def store_path(self, slide: CohortSlide) -> Path:
        """Store of a slide."""
        return self.stores / f"{slide.id}.zarr"


def make_stores(demo: DemoFolder, on_event: OnEvent = lambda _: None) -> None:
    """Paint the slides that are not there, and run segment and embed on their pixels.

    Raises:
        ConfigError: the folder holds another cohort.
        SlideError: a slide could not be prepared.
        EnvironmentProblem: the folder cannot be written, or the encoder not be had.
        Interrupted: a stop was asked for.
    """
    check_writable(demo.output)
    _check_cohort(demo)
    folder = demo.output / "slides"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [slide for slide in demo.slides if not demo.slide_path(slide).is_file()]
    if missing:
        on_event(Event("note", text=f"painting {len(missing)} synthetic slides in {folder}"))
        on_event(Event("run", total=len(missing)))
        for slide in _painted(demo, missing):
            row = SlideOutcome(slide.id, str(demo.slide_path(slide)), "ok", reason=slide.caption)
            on_event(Event("outcome", slide=slide.id, outcome=row))
    report = prepare(
        PrepareConfig.of(
            slides=tuple(str(demo.slide_path(slide)) for slide in demo.slides),
            output=demo.stores, mpp=demo.cohort.mpp, patch_size=PATCH_PX, min_tissue=MIN_TISSUE,
            overlay=False,
        ),
        on_event,
    )  # fmt: skip
    if report.problem is not None:
        raise report.problem
    if report.interrupted:
        raise Interrupted("stopped while slides were embedded.")
    for row in report.rows:
        if row.status in ("failed", "empty"):
            raise SlideError(row.reason, slide=row.slide, stage=row.stage, hint=row.remedy or None)


def _check_cohort(demo: DemoFolder) -> None:
    """Slides are known by their names, which those of another cohort have too."""
    path, own = demo.output / "cohort.txt", f"{demo.cohort}\n"
    if path.is_file():
        there = path.read_text(encoding="utf-8")
    else:
        there = "one of which it is not said which" if (demo.output / "slides").is_dir() else own
    if there != own:
        raise ConfigError(
            f"{demo.output} holds another cohort: {there.strip()}.",
            hint="Give another folder with --output, or the seed of that cohort.",
        )
    write_whole(path, own.encode())


def write_texts(demo: DemoFolder) -> None:
    """Write manifests, classes, and where on test slides each kind is.

    Raises:
        OutputError: they cannot be written.
        StoreError: a store cannot be read.
    """
    splits: tuple[tuple[Split, tuple[CohortSlide, ...]], ...] = (
        ("train", demo.cohort.train),
        ("test", demo.cohort.test),
    )
    captions = [_caption(slide, split) for split, some in splits for slide in some]
    asked = [one for split, some in splits for slide in some for one in _questions(slide, split)]
    worded = [
        replace(_caption(slide, "train"), id=f"{slide.id}-wording-{n}", caption=slide.wording(n))
        for slide in demo.cohort.train
        for n in range(1, WORDINGS)
    ]
    write_manifest(demo.captions, captions)
    write_manifest(demo.talks, [*captions, *worded, *asked])
    classes = {NAMES[kind]: list(prompts(kind)) for kind in KINDS}
    words = {"classes": classes, "templates": ["{}"]}
    write_whole(demo.classes, yaml.safe_dump(words, sort_keys=False).encode())
    folder = demo.truth.parent
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for slide in demo.cohort.test:
        for kind, inside in _lattices(demo, slide):
            name = f"{slide.id}-{kind}.npy"
            with output_errors(folder):
                np.save(folder / name, inside)
            task = "main kind" if kind == slide.main else "lesser kind"
            text = prompts(kind)[0]
            rows.append({"slide": slide.id, "text": text, "reference": name, "task": task})
    write_whole(demo.truth, csv_text(("slide", "text", "reference", "task"), rows).encode())


def _painted(demo: DemoFolder, slides: list[CohortSlide]) -> Iterator[CohortSlide]:
    """Write slides, some at a time."""

    def paint(slide: CohortSlide) -> CohortSlide:
        slide.write(demo.slide_path(slide))
        return slide

    pool = ThreadPoolExecutor(min(PAINTERS, available_cores()))
    try:
        yield from pool.map(paint, slides)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _caption(slide: CohortSlide, split: Split) -> Sample:
    return Sample(
        id=slide.id, slides=(slide.id,), patient_id=slide.id, caption=slide.caption,
        sub_captions=slide.sub_captions, label=NAMES[slide.main], split=split,
    )  # fmt: skip


def _questions(slide: CohortSlide, split: Split) -> list[Sample]:
    return [
        Sample(
            id=f"{slide.id}-question-{number}", slides=(slide.id,), patient_id=slide.id,
            question=one.text, answer=one.answer, task=one.task, split=split,
        )
        for number, one in enumerate(slide.questions, start=1)
    ]  # fmt: skip


def _lattices(demo: DemoFolder, slide: CohortSlide) -> Iterator[tuple[Kind, NDArray[np.bool_]]]:
    """Each kind of a slide, and bool (rows, cols), the cells that are of it."""
    grid = FeatureStore(demo.store_path(slide)).grid()
    rows, cols = grid.shape
    cell = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
    origin0_px = np.round(cell.reshape(-1, 2)[:, ::-1] * grid.stride0_px).astype(np.int64)
    cover = slide.cover(origin0_px, grid.plan.side0_px).reshape(rows, cols, len(KINDS))
    for kind in slide.kinds:
        yield kind, cover[..., KINDS.index(kind)] >= COVER
