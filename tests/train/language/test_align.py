"""Slides and texts are aligned: losses and their gradients."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.language.aligned import (
    HERE,
    PERCEIVER,
    QFORMER,
    SHARED,
    WORLD,
    cases_of,
    learner_of,
    recipe_of,
)
from wsiprep.core.errors import (
    ConfigError,
)
from wsiprep.models.bags import pack
from wsiprep.train.language.cases import batches
from wsiprep.train.language.loop import RunPlan, learning_rate, train
from wsiprep.train.language.recipe import Optimisation

torch.set_num_threads(1)
OBJECTIVES = {
    "infonce and regions": {},
    "siglip": {"slide": "siglip", "region_weight": 0.0},
    "captions": {"region_weight": 0.0, "caption_weight": 2.0,
                 "caption_options": {"width": 32, "layers": 1, "heads": 4, "hidden": 64}},
    "captions by attention": {
        "region_weight": 0.0, "caption_weight": 2.0, "caption_decoder": "cross",
        "caption_options": {"width": 32, "layers": 1, "heads": 4, "hidden": 64},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> Any:
    return cases_of(WORLD.train(12))


def first_batch(cases: Any, size: int = 6) -> Any:
    return next(iter(batches(cases, size, 1, 1)))


def gradients(learner: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_do_not_change_the_gradient(name: str, micro: int, cases: Any) -> None:
    found = []
    for size in (None, micro):
        recipe = recipe_of(objectives=OBJECTIVES[name], optimisation={"micro_batch": size})
        learner = learner_of(recipe, cases)
        losses = learner.backward(first_batch(cases))
        found.append((gradients(learner), {k: float(v) for k, v in losses.items()}))
    (whole, loss), (parts, other) = found
    assert loss == pytest.approx(other, rel=1e-5)
    assert whole.keys() == parts.keys()
    largest = max(float(g.abs().max()) for g in whole.values())
    for key, gradient in whole.items():
        assert torch.allclose(gradient, parts[key], rtol=1e-3, atol=1e-5 * largest), key


def test_soft_top_k_looks_at_patches(cases: Any) -> None:
    recipe = recipe_of(slides=PERCEIVER, objectives={
        "region": "soft_top_k", "region_options": {"k": 16}
    })  # fmt: skip
    learner = learner_of(recipe, cases)
    losses = learner.backward(first_batch(cases))
    assert set(losses) == {"slide", "region", "loss", "tokens"}
    learner.model.eval()
    scores = learner.model.ground(pack([cases.bag(0, 0)]), ["keratin pearls seen."], "attention")
    assert torch.allclose(scores.sum(dim=1), torch.ones(1), atol=1e-5)


def test_matching_learns_with_the_shared_network(cases: Any) -> None:
    recipe = recipe_of(texts=SHARED, objectives={"matching_weight": 1.0, "region_weight": 0.0})
    learner = learner_of(recipe, cases)
    losses = learner.backward(first_batch(cases))
    assert losses["loss"] == pytest.approx(losses["slide"] + losses["matching"])
    assert learner.model.heads["matching"].linear.weight.grad.abs().max() > 0
    assert "texts.encoder" not in " ".join(n for n, _ in learner.model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objectives": {"matching_weight": 1.0}}, "matching needs"),
        ({"slides": PERCEIVER, "texts": SHARED}, "needs the slide encoder 'qformer'"),
        ({"dim": 48, "slides": {**QFORMER, "head": "none"}}, "need a head"),
        ({"objectives": {"slide_options": {"heat": 1}}}, "options of the objectives"),
        ({"slides": {"encoder": "qformer", "options": {"size": 1}}}, "slide encoder 'qformer'"),
    ],
)
def test_parts_that_do_not_go_together(changes: Any, said: str, cases: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        learner_of(recipe_of(**changes), cases)


def test_a_loss_without_its_vectors_is_told(cases: Any) -> None:
    learner = learner_of(recipe_of(objectives={"region": "soft_top_k"}), cases)
    with pytest.raises(ConfigError, match="gives no vectors of patches"):
        learner.backward(first_batch(cases))


def test_frozen_sides_stay(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"text_rate": 0.0, "steps": 2})
    learner = learner_of(recipe, cases)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 1, 10), HERE)
    moved = {n for n, p in learner.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any(name.startswith("texts.encoder") for name in moved)


@pytest.mark.parametrize("decoder", ["prefix", "cross"])
def test_captions_are_said_of_a_micro_batch_at_once(decoder: str, cases: Any) -> None:
    name = "captions" if decoder == "prefix" else "captions by attention"
    recipe = recipe_of(objectives=OBJECTIVES[name], optimisation={"micro_batch": 2})
    learner = learner_of(recipe, cases)
    head, seen = learner.model.heads["caption"], []
    honest = head.decoder.embed

    def watched(ids: torch.Tensor) -> torch.Tensor:
        seen.append(len(ids))
        return honest(ids)

    head.decoder.embed = watched
    learner.backward(first_batch(cases))
    assert seen == [2] * 6  # three micro-batches, forward twice


def test_learning_rate_rises_and_falls() -> None:
    cfg = Optimisation(learning_rate=1.0, final_rate=0.1, warmup=10)
    rates = [learning_rate(cfg, step, 110) for step in range(1, 111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(Optimisation(warmup=0.5, steps=1), 1, 1) > 0
