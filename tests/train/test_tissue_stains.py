"""Stains of a user's own: read strictly, drawn, recorded, and part of what a training resumes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.train.test_tissue_loop import config
from wsiprep.core.errors import ConfigError
from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.scene import sample_scene
from wsiprep.synth.thumbnails.stains import STAINS, Stain
from wsiprep.tissue.network import read_network
from wsiprep.train.tissue import train_tissue
from wsiprep.train.tissue.data import Thumbnails
from wsiprep.train.tissue.framing import Pieces
from wsiprep.train.tissue.stains import read_stains

pytestmark = pytest.mark.usefixtures("one_thread")

CYAN = {"nuclear": [0.9, 0.1, 0.1], "counter": [0.8, 0.1, 0.1], "amount": [0.3, 0.3], "odds": 50}


@pytest.fixture(autouse=True)
def _few_to_validate(monkeypatch):
    monkeypatch.setattr("wsiprep.train.tissue.validate.VALIDATION_COUNT", {"net": 4})


def written(folder, **stains):
    path = folder / "stains.yaml"
    path.write_text(yaml.safe_dump(stains))
    return path


def test_they_are_drawn_as_they_are_told(tmp_path):
    own = read_stains(written(tmp_path, cyan=CYAN))
    assert own == {"cyan": Stain((0.9, 0.1, 0.1), (0.8, 0.1, 0.1), (0.3, 0.3), 50)}
    names = [*STAINS, *own]
    met = [sample_scene(seed, names, own).stain for seed in range(200)]
    share = 50 / (50 + sum(stain.odds for stain in STAINS.values()))
    assert met.count("cyan") / 200 == pytest.approx(share, abs=0.1)
    light = [
        made.pixels[made.label == 1].mean(axis=0)
        for made in (draw_scene(sample_scene(seed, ["cyan"], own), (96, 96)) for seed in range(12))
        if (made.label == 1).sum() > 200
    ]
    red, *others = np.mean(light, axis=0)
    assert red < min(others) - 30


def test_without_them_scenes_are_as_before():
    for seed in range(20):
        assert sample_scene(seed) == sample_scene(seed, own={"cyan": Stain(**CYAN)})


def test_they_go_to_other_processes(tmp_path):
    series = Thumbnails(1, 5, Pieces(64), ["cyan"], own=read_stains(written(tmp_path, cyan=CYAN)))
    there = pickle.loads(pickle.dumps(series))  # noqa: S301 - of our own making
    torch.testing.assert_close(there[2], series[2])


def test_they_are_recorded_and_resumed_by_what_they_say(tmp_path):
    path, out = written(tmp_path, cyan=CYAN), tmp_path / "out"
    done = train_tissue(config(out, stains=path))
    facts = read_network(done.network)[1]
    assert facts["stains"]["cyan"]["nuclear"] == CYAN["nuclear"]
    assert facts["settings"]["stains"] == "stains.yaml"
    moved = path.rename(tmp_path / "other.yaml")
    train_tissue(config(out, stains=moved, resume=True))
    written(tmp_path, cyan={**CYAN, "odds": 49}).replace(moved)
    for stains in (moved, None):
        with pytest.raises(ConfigError, match=r"something else in --stains\."):
            train_tissue(config(out, stains=stains, resume=True))


def test_they_change_what_is_trained_on_and_may_be_left_out(tmp_path):
    path = written(tmp_path, cyan=CYAN)
    without = train_tissue(config(tmp_path / "a"))
    drawn = train_tissue(config(tmp_path / "b", stains=path))
    left_out = train_tissue(config(tmp_path / "c", stains=path, leave_out=("cyan", "silver")))
    weights = [read_network(done.network)[0].state_dict() for done in (without, drawn, left_out)]
    name = next(iter(weights[0]))
    assert not torch.equal(weights[0][name], weights[1][name])
    assert torch.equal(weights[0][name], weights[2][name])
    assert left_out.scores["unseen/tissue"] != without.scores["unseen/tissue"]


@pytest.mark.parametrize(
    ("stains", "says"),
    [
        ({}, "holds no stain"),
        ({"he": CYAN}, "names he, which there is already"),
        ({"a": {**CYAN, "odd": 2}}, "a odd: Unexpected"),
        ({"a": {**CYAN, "odds": 0}}, "a odds: .*greater than 0"),
        ({"a": {**CYAN, "nuclear": [0.1, 0.2]}}, "a nuclear 2: Field required"),
        ({"a": {**CYAN, "counter": [0.1, 0.2, float("nan")]}}, "a counter 2: .*finite"),
        ({"a": {**CYAN, "amount": [30, 40]}}, "a amount 0: .*less than or equal to 1"),
        ({"a": {"nuclear": [0.1, 0.2, 0.3]}}, "a counter: Field required"),
    ],
)
def test_stains_that_cannot_be_drawn_are_refused(tmp_path, stains, says):
    with pytest.raises(ConfigError, match=rf"^--stains: .*{says}"):
        train_tissue(config(tmp_path / "o", stains=written(tmp_path, **stains)))
    assert not (tmp_path / "o").exists()


def test_a_file_of_stains_that_is_none(tmp_path):
    for text in ("a: [", "- 1", "he"):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"--stains: .*s\.yaml cannot be"):
            read_stains(tmp_path / "s.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stains(tmp_path / "none.yaml")


def test_the_example_of_the_docs_can_be_drawn(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "tissue.md").read_text(encoding="utf-8")
    example = text[text.index("    he-ours:") :].partition("\n\n")[0]
    (tmp_path / "s.yaml").write_text(example)
    assert read_stains(tmp_path / "s.yaml")["he-ours"].odds == 4
