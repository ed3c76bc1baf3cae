"""Comparing with other tools: their environments are an optional extra, never in this one."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.scripts import BENCHMARKS, result, said_by


@pytest.fixture
def peers(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peers")


def test_peers_says_its_question_and_its_commands():
    done = said_by("peers", "--help")
    assert done.returncode == 0
    assert "?" in done.stdout
    assert "python benchmarks/peers.py --envs DIR --install" in done.stdout


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--install",), "--envs"),
        (("--workers", "2", "2"), "different"),
        (("--workers", "-1"), "below 0"),
        (("--times", "0"), "--times"),
        (("--repeats", "0"), "--repeats"),
    ],
)
def test_peers_refuses_flags_that_say_nothing(peers, capsys, flags, word):
    with pytest.raises(SystemExit, match="2"):
        peers.arguments(list(flags))
    assert word in capsys.readouterr().err


def test_why_a_tool_cannot_be_compared(peers, tmp_path):
    atlas, lazy, _ = peers.PEERS
    for envs, own_tissue, why in (
        (None, False, "no --envs"),
        (tmp_path, False, "no environment 'atlaspatch'"),
        (tmp_path, True, "SAM2 checkpoint"),
    ):
        with pytest.raises(peers.ToolFailed, match=why) as caught:
            peers.found(atlas, envs, own_tissue)
        assert str(tmp_path) not in str(caught.value)  # it is kept in RESULTS.md
    python = tmp_path / "lazyslide" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    with pytest.raises(peers.ToolFailed, match="lazyslide is not in its environment"):
        peers.found(lazy, tmp_path, False)


def test_a_tool_that_encodes_something_else_is_refused(peers, tmp_path, monkeypatch):
    left = {"rows": 7, "mean": 0.5, "reader": "x"}
    answers = {"run": {"tiles": 7}, "check": left}
    monkeypatch.setattr(peers.Runs, "act", lambda _, action, __: answers[action])
    runs = peers.Runs(peers.PEERS[0], Path(sys.executable), 2, "1")
    assert peers.tried(runs, tmp_path, {**left, "mean": 0.5004}) == left
    for wanted in ({**left, "rows": 8}, {**left, "mean": 0.51}):
        with pytest.raises(peers.ToolFailed, match="something else"):
            peers.tried(runs, tmp_path, wanted)
    answers["run"] = {"tiles": 8}
    with pytest.raises(peers.ToolFailed, match="7 rows for 8 tiles"):
        peers.tried(runs, tmp_path, None)


def test_what_more_tiles_cost_is_told_from_what_is_fixed(harness, peers):
    facts = {"start-up s": 2.0, "version": "1", "reader": "x"}
    small = result(harness, "small: a", [100, 100], [4.0, 5.0], [6.0, 7.0], facts)
    large = result(harness, "large: a", [400, 400], [7.0, 11.0], [12.0, 13.0], facts)
    more = peers.difference(small, large)
    assert more.rates() == [100, 50]
    assert more.rates("cpu") == [50, 50]
    assert more.facts == {"fixed s": 3.0, **facts}  # 4 - 100 / 100 and 5 - 100 / 50


@pytest.mark.slow
def test_peers_runs_and_skips_by_name_what_is_not_there(tmp_path):
    kept, tables = tmp_path / "runs.jsonl", tmp_path / "RESULTS.md"
    flags = ["--envs", str(tmp_path), "--quick", "--json", str(kept), "--markdown", str(tables)]
    done = said_by("peers", *flags)
    assert done.returncode == 0, done.stderr
    text = tables.read_text()
    for name, key in (
        ("AtlasPatch", "atlaspatch"),
        ("LazySlide", "lazyslide"),
        ("slide2vec", "slide2vec"),
    ):
        assert f"skipped {name}: no environment '{key}' in --envs" in done.stdout
        assert f"{name} (no environment '{key}' in --envs)" in text
    assert str(tmp_path) not in text
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {row["case"] for row in rows} == {"wsiprep (2 threads)"}
    assert {row["benchmark"] for row in rows} == {"peers"}
    assert all(row["rate"] > 0 and row["facts"]["start-up s"] > 0 for row in rows)
