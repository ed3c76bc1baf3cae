"""Tissue detection against references: scores of every slide, intervals, the worst as pictures."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep import __version__
from wsiprep.core.config import digest
from wsiprep.core.errors import EnvironmentProblem, UsageError, WsiprepError
from wsiprep.core.report import Event, OnEvent, SlideOutcome
from wsiprep.metrics.tissue import resample_mask
from wsiprep.slide.open import open_slide, readers
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.evaluate_config import ComparedTissue, EvaluateTissueConfig
from wsiprep.tasks.reference_pairs import Pair, find_pairs
from wsiprep.tasks.setting_notes import option_notes
from wsiprep.tasks.tissue_candidates import (
    MIXED,
    Candidate,
    SeenSlide,
    as_segment,
    candidates,
    check_candidates,
    names_none,
    own_settings,
    predict,
)
from wsiprep.tasks.tissue_summary import TissueRow, differences, rows_csv, summary
from wsiprep.tasks.tissue_truth import Truth, identity, scored, truth_of
from wsiprep.views.agreement import LEGEND, draw_agreement
from wsiprep.views.contact_sheet import SheetCell, draw_sheet, fit_picture
from wsiprep.views.overlay import encode_jpeg

__all__ = ["TissueEvaluation", "evaluate_tissue"]

PANEL_PX: Final = 420
"""Side of a picture on the contact sheet, and as kept until it is known which are the worst."""


@dataclass(frozen=True, slots=True)
class TissueEvaluation:
    """What was found.

    Attributes:
        rows: One for each slide and segmenter, slides in the order given.
        report: What `tissue.json` holds: plain JSON types.
        traces: Tracebacks of bugs met on slides.
    """

    rows: tuple[TissueRow, ...]
    report: dict[str, Any]
    traces: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """70 a bug, 1 some slide failed, else 0."""
        if self.traces:
            return 70
        return 1 if any(row.status == "failed" for row in self.rows) else 0


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """One slide, done."""

    rows: list[TissueRow]
    cells: list[SheetCell]
    data: dict[str, Any]
    traces: list[str]

    @property
    def worst_iou(self) -> float:
        return min((row.iou for row in self.rows if row.iou is not None), default=2.0)


def evaluate_tissue(
    cfg: EvaluateTissueConfig, on_event: OnEvent = lambda _: None
) -> TissueEvaluation:
    """Compare segmenters, or masks that are there, with references; write the report.

    `tissue.csv` has a row for each slide and segmenter, `tissue.json` means and pooled numbers with
    bootstrap intervals, `worst.jpg` the slides with the lowest IoU. A slide that fails is a row
    with its error, and the others go on.

    Args:
        cfg: Settings of `wsiprep evaluate tissue`.
        on_event: Told of progress.

    Raises:
        UsageError: slides, references or settings make no sense; nothing was written.
        EnvironmentProblem: a segmenter's library or weights, or the output folder.
    """
    began = time.monotonic()
    pairs, notes = find_pairs(cfg.pairs)
    configs = own_settings(cfg, pairs)
    owns = [own.tissue for own in configs]
    found = candidates(cfg, pairs, owns)
    notes += _notes(cfg, pairs, owns)
    check_candidates(found, owns)
    if cfg.slide.reader != "auto":
        readers.load(cfg.slide.reader)
    check_writable(cfg.report.output)
    on_event(Event("run", total=len(pairs)))
    for note in notes:
        on_event(Event("note", text=note))
    rows: list[TissueRow] = []
    data: list[dict[str, Any]] = []
    traces: list[str] = []
    worst: list[tuple[float, int, list[SheetCell]]] = []
    for number, (pair, own) in enumerate(zip(pairs, configs, strict=True)):
        on_event(Event("stage", slide=pair.id, text="tissue"))
        start = time.monotonic()
        done = _evaluate(pair, own, found)
        rows += done.rows
        data.append(done.data)
        traces += done.traces
        if done.cells:
            worst.append((done.worst_iou, number, done.cells))
            worst = sorted(worst, key=lambda entry: entry[:2])[: cfg.report.worst]
        on_event(Event("outcome", slide=pair.id, outcome=_outcome(pair, done, start)))
    report = _report(cfg, found, rows, data, notes)
    report["seconds"] = round(time.monotonic() - began, 3)
    _write(cfg.report.output, rows, report, [cells for _, _, cells in worst])
    return TissueEvaluation(tuple(rows), report, tuple(traces))


def _notes(
    cfg: EvaluateTissueConfig, pairs: Sequence[Pair], owns: Sequence[ComparedTissue]
) -> list[str]:
    """What presets gave and, where each slide has a segmenter of its own, which that is."""
    if not names_none(cfg, pairs):
        return list(dict.fromkeys(note for own in owns if (note := own.preset_note())))
    segmented = [(pair.id, as_segment(own)) for pair, own in zip(pairs, owns, strict=True)]
    told = [note for _, own in segmented if (note := own.preset_note())]
    told += option_notes(as_segment(cfg.tissue), segmented)
    counts = Counter(own.segmenter for _, own in segmented)
    if len(counts) > 1:
        each = ", ".join(f"{name} on {n}" for name, n in counts.items())
        told.append(f"'{MIXED}' is what `wsiprep segment` takes for each slide: {each}.")
    return list(dict.fromkeys(told))


def _evaluate(pair: Pair, cfg: EvaluateTissueConfig, found: Sequence[Candidate]) -> _Evaluated:
    """One slide with all candidates; its failures are rows."""
    blank = TissueRow(
        pair.id, "", "ok", path=str(pair.path), reference=str(pair.reference),
        group=pair.group, split=pair.split,
    )  # fmt: skip
    out = _Evaluated([], [], {"slide": pair.id}, [])
    own = [c for c in found if c.kind != "column" or pair.predicted is not None]
    try:
        with open_slide(pair.path, cfg.slide, slide_id=pair.id) as slide:
            seen = SeenSlide(slide, cfg.tissue.tissue_mpp, cfg.slide.on_bad_tile)
            truth = truth_of(seen, pair, cfg)
            out.data.update(identity(truth.slide, pair))
            panels = [_plain_panel(truth, pair)]
            for candidate in own:
                row = replace(blank, segmenter=candidate.label)
                try:
                    told = predict(candidate, truth.slide, pair, cfg.tissue)
                except (UsageError, EnvironmentProblem):
                    raise
                except Exception as err:  # noqa: BLE001 - one segmenter must not cost the others
                    out.rows.append(_failed(row, err, out.traces))
                    panels.append(_failed_panel(truth, candidate))
                    continue
                if told is not None:
                    predicted = resample_mask(told.mask.mask, truth.tissue.shape)
                    out.rows.append(scored(row, told, predicted, truth))
                    panels.append(_panel(truth, predicted, out.rows[-1]))
            out.cells.extend(panels)
    except (UsageError, EnvironmentProblem):
        raise
    except Exception as err:  # noqa: BLE001 - a bug met on one slide must not cost the others
        out.rows[:] = [
            _failed(replace(blank, segmenter=c.label), err, out.traces if not n else [])
            for n, c in enumerate(own)
        ]
    return out


def _failed(row: TissueRow, err: Exception, traces: list[str]) -> TissueRow:
    name = type(err).__name__
    if isinstance(err, WsiprepError):
        return replace(row, status="failed", error=name, reason=err.message, remedy=err.hint or "")
    traces.append(traceback.format_exc())
    remedy = "This is a bug in wsiprep or in the segmenter; please report it with the traceback."
    return replace(row, status="failed", error=name, reason=str(err) or name, remedy=remedy)


def _plain_panel(truth: Truth, pair: Pair) -> SheetCell:
    h, w = truth.tissue.shape
    area = float(np.count_nonzero(truth.tissue)) * truth.mpp[0] * truth.mpp[1] / 1e6
    picture = fit_picture(truth.thumbnail, PANEL_PX)
    size = f"{w * truth.mpp[0] / 1000:.1f} x {h * truth.mpp[1] / 1000:.1f} mm"
    return SheetCell(picture, (pair.id, f"{size}, reference {area:.2f} mm²"))


def _panel(truth: Truth, predicted: NDArray[np.bool_], row: TissueRow) -> SheetCell:
    picture = draw_agreement(truth.thumbnail, predicted, truth.tissue, side_px=PANEL_PX)
    line = f"lost {row.lost_mm2:.2f} mm², glass kept {row.kept_mm2:.2f} mm²"
    if row.boundary_um is not None:
        line += f", boundary {row.boundary_um:.0f} µm"
    return SheetCell(picture, (f"{row.segmenter}: IoU {row.iou:.3f}", line))


def _failed_panel(truth: Truth, candidate: Candidate) -> SheetCell:
    grey = np.full_like(truth.thumbnail[:1, :1], 200)
    return SheetCell(grey, (f"{candidate.label}: failed",))


def _outcome(pair: Pair, done: _Evaluated, start: float) -> SlideOutcome:
    bad = [row for row in done.rows if row.status == "failed"]
    area = next((row.reference_mm2 for row in done.rows if row.reference_mm2), 0.0)
    return SlideOutcome(
        pair.id,
        str(pair.path),
        "failed" if bad else "ok",
        error=bad[0].error if bad else "",
        reason=bad[0].reason if bad else "",
        remedy=bad[0].remedy if bad else "",
        tissue_mm2=area,
        seconds=time.monotonic() - start,
    )


def _report(
    cfg: EvaluateTissueConfig,
    found: Sequence[Candidate],
    rows: Sequence[TissueRow],
    data: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    of = {c.label: [row for row in rows if row.segmenter == c.label] for c in found}
    first = of[found[0].label]
    against: list[dict[str, Any]] = []
    for candidate in found[1:]:
        by_slide = {(row.path, row.reference): row for row in of[candidate.label]}
        both = [row for row in first if (row.path, row.reference) in by_slide]
        other = [by_slide[row.path, row.reference] for row in both]
        against.append(
            {
                "segmenter": candidate.label,
                "minus": found[0].label,
                "mean": differences(both, other, cfg.report),
            }
        )
    return {
        "version": __version__,
        "settings": cfg.canonical(),
        "slides": len(data),
        "data_sha256": digest(sorted(json.dumps(d, sort_keys=True) for d in data)),
        "confidence": cfg.report.confidence,
        "segmenters": [
            {**summary(c.label, of[c.label], cfg.report), "kind": c.kind} for c in found
        ],
        "differences": against,
        "notes": list(notes),
        "rows": [row.canonical() for row in rows],
    }


def _write(
    out: Path,
    rows: Sequence[TissueRow],
    report: dict[str, Any],
    worst: Sequence[Sequence[SheetCell]],
) -> None:
    width = max((len(cells) for cells in worst), default=1)
    # One picture and one overlay a slide leave room for another slide beside them.
    columns = width * max(1, 4 // width)
    blank = SheetCell(np.full((1, 1, 3), 255, np.uint8))
    cells = [c for group in worst for c in (*group, *[blank] * (width - len(group)))]
    title = f"The {len(worst)} slides with the lowest IoU of {report['slides']}"
    sheet = draw_sheet(cells, columns=columns, cell_px=PANEL_PX, title=title, legend=LEGEND)
    write_whole(out / "tissue.csv", rows_csv(rows).encode("utf-8", "backslashreplace"))
    write_whole(out / "worst.jpg", encode_jpeg(sheet))
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(out / "tissue.json", text.encode("utf-8", "backslashreplace"))
