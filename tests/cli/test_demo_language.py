"""`wsiprep demo --language` as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ALL_OF_IT_S = 3600
"""On two busy cores; some six minutes on free ones."""


def wsiprep(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsiprep", *map(str, args)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_makes_its_own_slides(tmp_path):
    result = wsiprep("demo", "--language", tmp_path / "my.svs", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert "makes its own slides" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.timeout(ALL_OF_IT_S)
def test_from_pixels_to_answers_on_slides_not_trained_on(tmp_path):
    result = wsiprep("demo", "--language", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "results" / "demo.json").read_text())
    scores = {
        part: {name: found["value"] for name, found in values.items()}
        for part, values in report["scores"].items()
    }
    assert report["slides"] == {"trained": 72, "held_out": 24}

    retrieval = scores["retrieval"]  # chance is 1 of 24, and 5 of 24
    for way in ("slide_to_text", "text_to_slide"):
        assert retrieval[f"{way}_r_at_1"] > 0.4
        assert retrieval[f"{way}_r_at_5"] > 0.8
    assert scores["zero_shot"]["accuracy"] > 0.8  # the commonest is 0.29
    assert scores["grounding"]["auroc"] > 0.88
    assert scores["grounding"]["pointing"] > 0.85  # chance is 0.26
    beside = report["beside"]["answers"]
    best = max(beside[name]["exact_match"]["value"] for name in ("blind", "majority"))
    assert scores["answers"]["exact_match"] > best + 0.15
    assert report["answers_by_task"]["main kind"]["exact_match"]["value"] > 0.75
    assert report["answers_by_task"]["presence"]["exact_match"]["value"] > 0.7  # yes in half
    assert scores["captions"]["precision"] > 0.65
    assert scores["captions"]["recall"] > 0.65

    assert all(Path(path).is_file() for path in report["example"]["pictures"].values())
    assert "training slides has" in result.stdout
    assert f"{retrieval['slide_to_text_r_at_1']:.3f}" in result.stdout
