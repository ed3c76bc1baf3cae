"""Aligning that was stopped goes on, and checkpoints are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.language.aligned import (
    DIM,
    HERE,
    MADE_WITH,
    QFORMER,
    WORLD,
    cases_of,
    learner_of,
    recipe_of,
)
from wsiprep.core.errors import (
    ConfigError,
    StoreMismatchError,
    WeightsError,
)
from wsiprep.models.bags import pack
from wsiprep.models.sampling import Sampling
from wsiprep.train.language.checkpoint import Checkpoints, load_aligned, locate, save_aligned
from wsiprep.train.language.loop import RunPlan, train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cases() -> Any:
    return cases_of(WORLD.train(12))


class Stop(Exception):
    pass


def steps_in(folder: Path) -> list[int]:
    lines = (folder / "log.csv").read_text().splitlines()
    return [int(line.split(",")[0]) for line in lines[1:]]


def test_the_log_has_every_step_at_once(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 4})
    told: list[list[int]] = []
    train(
        learner_of(recipe, cases, cases_of(WORLD.test())), cases, recipe.optimisation,
        RunPlan(tmp_path, 1, 3), HERE, lambda _: told.append(steps_in(tmp_path)),
    )  # fmt: skip
    assert told == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    names, *rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert [bool(row[names.index("val/mrr")]) for row in rows] == [False, False, True, True]
    # Another run in the folder begins a log of its own.
    train(learner_of(recipe, cases), cases, recipe.optimisation, RunPlan(tmp_path, 1, 4), HERE)
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    assert "val/mrr" not in (tmp_path / "log.csv").read_text()


@pytest.mark.parametrize("dropout", [0.1])
def test_resume_is_to_the_bit(dropout: float, cases: Any, tmp_path: Path) -> None:
    slides = {**QFORMER, "options": {**QFORMER["options"], "dropout": dropout}}
    recipe = recipe_of(slides=slides, optimisation={"steps": 6, "micro_batch": 4})
    val = cases_of(WORLD.test())

    def run(folder: Path, *, resume: bool = False, stop: int = 99) -> dict[str, torch.Tensor]:
        learner = learner_of(recipe, cases, val)

        def heard(step: Any) -> None:
            if step.step == stop:
                raise Stop

        plan = RunPlan(folder, 1, 2, resume, {"a": 1})
        try:
            train(learner, cases, recipe.optimisation, plan, HERE, heard)
        except Stop:
            return {}
        return dict(learner.model.state_dict())

    whole = run(tmp_path / "whole")
    assert not run(tmp_path / "parts", stop=5)
    # Validated and kept at step 4; what was taken since is in the log, and is taken again.
    assert steps_in(tmp_path / "parts") == [1, 2, 3, 4, 5]
    parts = run(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()
    with pytest.raises(ConfigError, match="other settings"):
        train(
            learner_of(recipe, cases), cases, recipe.optimisation,
            RunPlan(tmp_path / "parts", 1, 2, resume=True, decides={"a": 2}), HERE,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="to go on from"):
        run(tmp_path / "nothing", resume=True)


def test_what_is_replaced_is_forgotten(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 2})
    first = learner_of(recipe, cases, cases_of(WORLD.test()))
    train(first, cases, recipe.optimisation, RunPlan(tmp_path, 1, 1), HERE)
    assert "best" in Checkpoints(tmp_path).names()

    def stop(step: Any) -> None:
        raise Stop

    learner = learner_of(recipe, cases)
    with pytest.raises(Stop):
        train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 2, 9), HERE, stop)
    assert not (tmp_path / "state.pt").exists()
    assert Checkpoints(tmp_path).names() == {}
    done = train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 2, 9), HERE)
    assert done.checkpoint == tmp_path / Checkpoints(tmp_path).names()["last"]
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [done.checkpoint.name]


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)

    def write(folder: Path) -> None:
        (folder / "model.json").write_text("{}")

    def broken(folder: Path) -> None:
        (folder / "model.json").write_text("{")
        raise Stop

    kept.add(10, write, best=True)
    kept.add(20, write, best=False)
    assert kept.names() == {"last": "step-000020", "best": "step-000010"}
    with pytest.raises(Stop):
        kept.add(30, broken, best=True)
    assert kept.names()["best"] == "step-000010"
    assert locate(tmp_path).name == "step-000010"
    kept.add(30, write, best=True)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000030"]


def test_checkpoint_gives_the_same_vectors(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 2})
    learner = learner_of(recipe, cases)
    done = train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 1, 2), HERE)
    state = torch.get_rng_state()
    read = load_aligned(done.checkpoint.parent, "cpu")
    assert torch.equal(state, torch.get_rng_state())
    learner.model.eval()
    bags, texts = pack([cases.bag(i, 0) for i in range(3)]), ["mucin pools seen.", "tumour nests"]
    assert torch.equal(read.model.embed_slides(bags), learner.model.embed_slides(bags))
    assert torch.equal(read.model.embed_texts(texts), learner.model.embed_texts(texts))
    assert read.features == MADE_WITH
    assert read.recipe["name"] == "test"
    for method in ("attention", "cosine", "occlusion"):
        scores = read.model.ground(pack([cases.bag(0, 0)]), texts, method)
        assert scores.shape == (2, len(cases.bag(0, 0)))
        assert torch.isfinite(scores).all()


def test_checkpoints_that_do_not_fit_are_refused(cases: Any, tmp_path: Path) -> None:
    learner = learner_of(recipe_of(), cases)
    save_aligned(
        tmp_path, learner.model, features=MADE_WITH, sampling=Sampling(), recipe={"name": "x"}
    )
    words = json.loads((tmp_path / "model.json").read_text())
    for change, error, said in (
        ({"kind": "assistant"}, WeightsError, "what is needed is aligned"),
        ({"format": 99}, WeightsError, "format 99"),
        ({"text": {"kind": "transformer"}}, StoreMismatchError, "text encoder is not the one"),
        ({"input_dim": DIM + 1}, WeightsError, "do not fit"),
    ):
        (tmp_path / "model.json").write_text(json.dumps({**words, **change}))
        with pytest.raises(error, match=said):
            load_aligned(tmp_path, "cpu")
    with pytest.raises(WeightsError, match="holds no model"):
        load_aligned(tmp_path / "nowhere", "cpu")
