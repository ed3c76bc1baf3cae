"""Processes that align together learn as one does, whatever of a step each has."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.language.aligned import (
    HERE,
    PERCEIVER,
    SHARED,
    WORLD,
    cases_of,
    learner_of,
    recipe_of,
)
from wsiprep.train.language.cases import batches
from wsiprep.train.language.left_out import LeftOut
from wsiprep.train.language.loop import RunPlan, train
from wsiprep.train.language.processes import Processes, join_processes

torch.set_num_threads(1)
ROOT = Path(__file__).parents[3]
UNEVEN = {"batch_size": 5, "micro_batch": 2}
"""Of two processes the one has one micro-batch a step, and the other two."""
CAPTIONS = {
    "region_weight": 0.0, "caption_weight": 2.0, "caption_decoder": "cross",
    "caption_options": {"width": 32, "layers": 2, "heads": 4, "hidden": 64},
}  # fmt: skip
MATCHING = {"region_weight": 0.0, "matching_weight": 1.0}
RECIPES: dict[str, dict[str, Any]] = {
    "small micro-batches": {"optimisation": {"micro_batch": 1}},
    "one micro-batch": {"optimisation": {"micro_batch": 6}},
    "unlike numbers of micro-batches": {"optimisation": UNEVEN},
    "matching": {"texts": SHARED, "objectives": MATCHING, "optimisation": {"micro_batch": 3}},
    "matching, unlike numbers": {
        "texts": SHARED, "objectives": MATCHING, "optimisation": UNEVEN
    },
    "all texts differ": {"objectives": {"same_text": False}, "optimisation": {"micro_batch": 2}},
    "all texts differ, patches": {
        "slides": PERCEIVER, "optimisation": {"micro_batch": 3},
        "objectives": {"same_text": False, "region": "soft_top_k", "region_options": {"k": 16}},
    },
    "captions": {"objectives": CAPTIONS, "optimisation": UNEVEN},
    "captions before texts": {
        "objectives": {**CAPTIONS, "caption_decoder": "prefix"},
        "optimisation": {"micro_batch": 3},
    },
}  # fmt: skip
UNLIKE = "unlike"
"""The second process leaves a sample out."""


def learn(name: str, out: Path, processes: Processes) -> None:
    """A step's gradient, and a run of two steps, into a folder."""
    recipe = recipe_of(**RECIPES.get(name, {}))
    optimisation = recipe.optimisation.model_copy(update={"steps": 2})
    cases = cases_of(WORLD.train(12))
    learner = learner_of(recipe, cases, processes=processes)
    own = batches(cases, optimisation.batch_size, 1, 1, rank=processes.rank, world=processes.world)
    learner.backward(next(iter(own)))
    found = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad()
    seen = LeftOut(empty={"x": ("x",)} if name == UNLIKE and not processes.main else {})
    samples = {"learn": {"n": 12, "left_out": seen.canonical()}}
    train(learner, cases, optimisation, RunPlan(out, 1, 2, samples=samples), processes)
    if processes.main:
        torch.save(found, out / "gradients.pt")


def rows_of(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def started(name: str, out: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes that learn together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "tests.train.language.test_align_processes",
               name, str(out)]  # fmt: skip
    ranks = [{**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [subprocess.Popen(command, env=rank, cwd=ROOT, stderr=subprocess.PIPE) for rank in ranks]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_learn_as_one(name: str, tmp_path: Path) -> None:
    together = started(name, tmp_path / "two")
    try:
        learn(name, tmp_path / "one", HERE)
        told = [process.communicate(timeout=120)[1] for process in together]
        assert [process.returncode for process in together] == [0, 0], told
    finally:
        for process in together:
            process.kill()
            process.communicate()
    one, two = (
        torch.load(tmp_path / n / "gradients.pt", weights_only=True) for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for key, gradient in one.items():
        assert torch.allclose(gradient, two[key], rtol=1e-3, atol=1e-5 * largest), key
    for row, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_processes_that_see_other_samples_are_refused(tmp_path: Path) -> None:
    together = started(UNLIKE, tmp_path / "two")
    try:
        for process in together:
            assert b"the processes of this training differ" in process.communicate(timeout=120)[1]
            assert process.returncode == 1
    finally:
        for process in together:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    learn(sys.argv[1], Path(sys.argv[2]), join_processes(torch.device("cpu")))
