"""Processes that align together learn as one does, whatever of a step each has."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from wsiprep.train.language.processes import Processes, join_processes, leave_processes

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


@contextmanager
def together(out: Path, *names: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that learn recipes together, one after the other, into folders in `out`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "tests.train.language.test_align_processes",
               str(out), *names]  # fmt: skip
    ranks = [{**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    both = [subprocess.Popen(command, env=rank, cwd=ROOT, stderr=subprocess.PIPE) for rank in ranks]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def learned_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of each recipe; starting them takes longer than they learn."""
    out = tmp_path_factory.mktemp("two")
    with together(out, *RECIPES) as both:
        told = [process.communicate(timeout=300)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], told
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_learn_as_one(name: str, tmp_path: Path, learned_by_two: Path) -> None:
    learn(name, tmp_path, HERE)
    folders = tmp_path, learned_by_two / name
    one, two = (torch.load(out / "gradients.pt", weights_only=True) for out in folders)
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for key, gradient in one.items():
        assert torch.allclose(gradient, two[key], rtol=1e-3, atol=1e-5 * largest), key
    for row, other in zip(*map(rows_of, folders), strict=True):
        assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_processes_that_see_other_samples_are_refused(tmp_path: Path) -> None:
    with together(tmp_path, UNLIKE) as both:
        for process in both:
            assert b"the processes of this training differ" in process.communicate(timeout=120)[1]
            assert process.returncode == 1


if __name__ == "__main__":
    processes = join_processes(torch.device("cpu"))
    for recipe in sys.argv[2:]:
        learn(recipe, Path(sys.argv[1]) / recipe, processes)
    leave_processes()
