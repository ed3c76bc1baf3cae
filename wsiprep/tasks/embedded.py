"""Slides with the features that a model takes: as they are in stores, or embedded first.

A store may hold grids and features of several kinds: those are taken that were made as the model's
were. Of a slide file, what an output folder already holds of it is used as far as it goes.
"""

from __future__ import annotations

import glob
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsiprep.core.errors import (
    EnvironmentProblem,
    Interrupted,
    SlideError,
    StoreError,
    UsageError,
    WsiprepError,
)
from wsiprep.core.report import NO_TISSUE_REMEDY, Event, OnEvent, SlideOutcome
from wsiprep.grid.build import grid_name
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.search import search_folder
from wsiprep.store.claim import find_store
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import AnyConfig, CoordsConfig, EmbedConfig, InputConfig, PrepareConfig
from wsiprep.tasks.inputs import SlideRef, gather
from wsiprep.tasks.prepare import prepare
from wsiprep.tasks.use_config import SlidesOrStores
from wsiprep.train.language.bags import SlideFeatures
from wsiprep.train.language.fingerprint import MPP_TOLERANCE, Fingerprint

__all__ = [
    "EmbeddedSlide",
    "Gathered",
    "gather_embedded",
    "matching_features",
    "open_features",
    "visit",
]

SUFFIX = ".zarr"


@dataclass(frozen=True, slots=True)
class EmbeddedSlide:
    """A slide whose store may be read.

    Attributes:
        id: Name in outputs: that of its store.
        store: `<slide>.zarr`.
    """

    id: str
    store: Path


@dataclass(frozen=True, slots=True)
class Gathered:
    """What `gather_embedded` found and made.

    Attributes:
        slides: In the order of the arguments; each store once.
        failed: Slides that could not be embedded.
        notes: Sentences for the user.
    """

    slides: tuple[EmbeddedSlide, ...]
    failed: tuple[SlideOutcome, ...] = ()
    notes: tuple[str, ...] = ()


def gather_embedded(
    inputs: SlidesOrStores,
    slide: SlideConfig,
    out: Path,
    expect: Fingerprint,
    *,
    device: str = "auto",
    weights: Path | None = None,
    on_event: OnEvent = lambda _: None,
) -> Gathered:
    """Find stores, and make them where slides are given.

    Args:
        inputs: Stores, folders that hold some, or slides.
        slide: How slides are opened.
        out: Output folder, where stores of slides are looked for and made.
        expect: What the model's features were made with.
        device: Where slides are embedded.
        weights: Weights file of the patch encoder.
        on_event: Told of progress.

    Raises:
        UsageError: nothing was named or found.
        EnvironmentProblem: the encoder cannot be had, or the folder not be written.
        Interrupted: a stop was asked for while slides were embedded.
    """
    stores, others = _stores_among(inputs.slides)
    failed: list[SlideOutcome] = []
    notes = [note for text in inputs.slides if (note := _slides_beside(Path(text).expanduser()))]
    if others or not stores:
        plain = InputConfig(slides=tuple(others), recursive=inputs.recursive, ext=inputs.ext)
        found = gather(plain)
        notes += found.notes
        made, failed = _embed(found.slides, slide, out, expect, device, weights, on_event)
        stores += made
    once = {path.resolve(): path for path in stores}
    slides = tuple(EmbeddedSlide(path.name.removesuffix(SUFFIX), path) for path in once.values())
    return Gathered(slides, tuple(failed), tuple(notes))


def matching_features(store: Path, expect: Fingerprint) -> tuple[SlideFeatures, str, str]:
    """The features of a store that were made as expected, with names of their grid and encoder.

    Raises:
        StoreMismatchError: there are none; names what differs in the nearest.
        StoreCorruptError: they are damaged.
    """
    grid, encoder = _matching(FeatureStore(store), expect)
    return SlideFeatures(store, grid=grid, encoder=encoder), grid, encoder


def open_features(slide: EmbeddedSlide, expect: Fingerprint) -> tuple[SlideFeatures, str, str]:
    """As `matching_features`, of a slide that is to have some.

    Raises:
        SlideError: there is no patch with features.
        StoreMismatchError, StoreCorruptError: as `matching_features`.
    """
    features, grid, encoder = matching_features(slide.store, expect)
    if not len(features):
        raise no_patches(slide.id)
    return features, grid, encoder


def no_patches(slide: str) -> SlideError:
    """What is raised of a slide or case that there is nothing to be seen of."""
    return SlideError(
        "there is no patch with features.", slide=slide, stage="grid", hint=NO_TISSUE_REMEDY
    )


def visit(
    slides: Sequence[EmbeddedSlide], work: Callable[[EmbeddedSlide], str], on_event: OnEvent
) -> list[SlideOutcome]:
    """Do something with every slide; one that fails does not keep the others from it.

    Args:
        slides: Which.
        work: Does it, and says in a few words what came of it.
        on_event: Told of progress.

    Raises:
        UsageError, EnvironmentProblem, Interrupted: nothing would go better with the next slide.
    """
    rows: list[SlideOutcome] = []
    on_event(Event("run", total=len(slides)))
    for slide in slides:
        began = time.monotonic()
        row = SlideOutcome(slide.id, str(slide.store), "ok", store=str(slide.store))
        try:
            row = replace(row, reason=work(slide))
        except (UsageError, EnvironmentProblem, Interrupted):
            raise
        except WsiprepError as err:
            row = replace(
                row, status="failed", stage=err.stage or "", error=type(err).__name__,
                reason=err.message, remedy=err.hint or "",
            )  # fmt: skip
        except Exception as err:  # noqa: BLE001 - a bug met on one slide must not cost the others
            remedy = "This is a bug in wsiprep; please report it with its traceback:\n"
            row = replace(
                row, status="failed", stage="bug", error=type(err).__name__,
                reason=str(err) or type(err).__name__, remedy=remedy + traceback.format_exc(),
            )  # fmt: skip
        row = replace(row, seconds=round(time.monotonic() - began, 3))
        rows.append(row)
        on_event(Event("outcome", slide=slide.id, outcome=row))
    return rows


def _stores_among(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Stores that the arguments name or hold, and the arguments that are something else."""
    stores: list[Path] = []
    others: list[str] = []
    for text in arguments:
        path = Path(text).expanduser()
        matches = [path]
        if not path.exists() and glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        own = [store for match in matches for store in _stores_in(match)]
        stores += own
        others += (
            [str(match) for match in matches if not list(_stores_in(match))] if own else [text]
        )
    return stores, others


def _slides_beside(path: Path) -> str | None:
    """What is said of a folder that holds slides beside its stores, of which the stores count."""
    if path.suffix == SUFFIX or not path.is_dir() or not any(_stores_in(path)):
        return None
    slides = search_folder(path).slides
    if not slides:
        return None
    return (
        f"{len(slides)} slide files of {path} were left alone, as it holds stores; name them to "
        "have those without a store embedded."
    )


def _stores_in(path: Path) -> Iterator[Path]:
    if path.name.endswith(SUFFIX):
        yield path
    elif path.is_dir():
        yield from sorted(p for p in path.glob(f"*{SUFFIX}") if p.is_dir())


def _matching(store: FeatureStore, expect: Fingerprint) -> tuple[str, str]:
    """Names of the grid and encoder whose features fit; the first of several."""
    pairs = [(grid, encoder) for grid in store.grids for encoder in store.encoders(grid)]
    if not pairs:
        store.features(grid=next(iter(store.grids), None))  # says what is missing
    prints = {pair: _fingerprint(store, *pair) for pair in pairs}
    nearest = min(pairs, key=lambda pair: len(expect.differences(prints[pair])))
    expect.check(prints[nearest], slide=store.slide.id)
    return nearest


def _fingerprint(store: FeatureStore, grid: str, encoder: str) -> Fingerprint:
    return Fingerprint.of_features(store.features(encoder, grid))


def _embed(
    refs: Sequence[SlideRef],
    slide: SlideConfig,
    out: Path,
    expect: Fingerprint,
    device: str,
    weights: Path | None,
    on_event: OnEvent,
) -> tuple[list[Path], list[SlideOutcome]]:
    """Stores of slides, made as far as they are not there; in the order of the slides."""

    def during(event: Event) -> None:
        if event.kind not in ("run", "outcome"):  # those are told of slides that are asked about
            on_event(event)

    stores: list[Path] = []
    failed: list[SlideOutcome] = []
    for ref in refs:
        there = _stored(out, ref)
        if there is not None and _has_features(there, expect):
            stores.append(there.path)
            continue
        row: SlideOutcome | None = None
        for cfg in _steps(ref, there, slide, out, expect, device, weights):
            report = prepare(cfg, during)
            if report.interrupted:
                raise Interrupted("stopped while slides were embedded.")
            if report.problem is not None:
                raise report.problem
            row = report.rows[0]
            if row.status == "failed":
                break
        if row is not None and row.status == "failed":
            failed.append(row)
        elif row is not None:
            stores.append(Path(row.store))
    return stores, failed


def _stored(out: Path, ref: SlideRef) -> FeatureStore | None:
    try:
        manifest = find_store(out, ref.id, fingerprint(ref.path))
        return None if manifest is None else FeatureStore(manifest.path)
    except (OSError, SlideError, StoreError):
        return None  # `prepare` meets it again, and says so


def _has_features(store: FeatureStore, expect: Fingerprint) -> bool:
    return any(
        not expect.differences(_fingerprint(store, grid, encoder))
        for grid in store.grids
        for encoder in store.encoders(grid)
    )


def _steps(
    ref: SlideRef,
    there: FeatureStore | None,
    slide: SlideConfig,
    out: Path,
    expect: Fingerprint,
    device: str,
    weights: Path | None,
) -> list[AnyConfig]:
    """What is to be run so that a slide has the features: all of it, or what is missing."""
    given = slide.model_dump(exclude_unset=True)
    common = {"slides": (str(ref.path),), "output": out}
    how = {"device": device, "overlay": False}
    encoding = {"encoder": (expect.encoder,), "weights": weights}
    lattice = {"mpp": expect.mpp, "patch_size": expect.patch_px, "stride": expect.stride_px}
    if there is None or not there.has_tissue:
        return [PrepareConfig.of(**common, **how, **given, **encoding, **lattice)]
    name = _grid_like(there, expect)
    steps: list[AnyConfig] = []
    if name is None:
        coords = CoordsConfig.of(**common, **how, **given, **lattice)
        steps.append(coords)
        name = grid_name(coords.patches)
    return [*steps, EmbedConfig.of(**common, **how, **given, **encoding, grid=name)]


def _grid_like(store: FeatureStore, expect: Fingerprint) -> str | None:
    for name in store.grids:
        grid = store.grid(name)
        same = (grid.plan.patch_px, grid.stride_px) == (expect.patch_px, expect.stride_px)
        if same and abs(grid.plan.mpp / expect.mpp - 1) <= MPP_TOLERANCE:
            return name
    return None
