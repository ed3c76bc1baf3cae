"""The end of a run, as a person reads it."""

from __future__ import annotations

import pytest
import typer

from wsiprep.cli._finish import FEW, MAX_ROWS, finish
from wsiprep.cli._progress import _sentence
from wsiprep.core.report import RunReport, SlideOutcome


def text_of(report, capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(typer.Exit):
        finish(lambda _: report, json_=False, log="out/run.jsonl")
    return " ".join(capsys.readouterr().err.split())


def test_slides_without_tissue_are_loud(capsys, monkeypatch):
    good = [SlideOutcome(f"good{k}", "", "ok", tissue_mm2=5.0) for k in range(MAX_ROWS + 5)]
    bare = [
        SlideOutcome(f"bare{k}", "", "empty", reason="no tissue was found") for k in range(FEW + 2)
    ]
    few = SlideOutcome("few", "", "empty", tissue_mm2=0.3, reason="no patch has enough tissue")
    text = text_of(RunReport([*good, *bare, few]), capsys, monkeypatch)
    assert f"NO TISSUE on {FEW + 2} of {len(good) + FEW + 3} slides: bare0, bare1" in text
    assert "and 2 more" in text
    for flag in ("--segmenter", "--preset", "--mask"):
        assert flag in text
    assert all(row.slide in text.split("NO TISSUE on")[0] for row in bare), "all in the table"
    assert "few" not in text.split("NO TISSUE on")[1]


def test_nothing_is_loud_when_there_is_tissue(capsys, monkeypatch):
    report = RunReport([SlideOutcome("good", "", "ok", tissue_mm2=5.0)])
    assert "NO TISSUE" not in text_of(report, capsys, monkeypatch)


def test_slides_out_of_focus_are_loud_for_another_reason(capsys, monkeypatch):
    blurred = SlideOutcome("soft", "", "empty", tissue_mm2=5.0, blurred=9, reason="out of focus")
    few = SlideOutcome("few", "", "empty", tissue_mm2=0.3, reason="no patch has enough tissue")
    text = text_of(RunReport([blurred, few]), capsys, monkeypatch)
    assert "OUT OF FOCUS on 1 of 2 slides: soft." in text
    assert "--min-focus" in text
    assert "NO TISSUE" not in text
    assert text.count("OUT OF FOCUS") == 2, "in the table, too"


def test_what_could_not_be_read_is_in_the_table(capsys, monkeypatch):
    rows = [
        SlideOutcome("a", "", "ok", tissue_mm2=5.0, bad_tiles=3, thumbnail_bad_tiles=2),
        SlideOutcome("b", "", "empty", reason="no tissue was found", thumbnail_bad_tiles=7),
    ]
    text = text_of(RunReport(rows), capsys, monkeypatch)
    assert "unreadable patches masked: 3; unreadable tiles white in the thumbnail: 2" in text
    assert "no tissue was found; unreadable tiles white in the thumbnail: 7" in text


def test_masked_patches_are_called_patches(capsys, monkeypatch):
    row = SlideOutcome("a", "", "ok", patches=1200, bad_tiles=1025, tissue_mm2=5.0)
    assert "unreadable patches masked: 1,025" in text_of(RunReport([row]), capsys, monkeypatch)
    assert "unreadable patches masked: 1,025" in _sentence(row)
