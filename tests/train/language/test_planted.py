"""What was planted in slides is found by what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.language.aligned import HERE
from wsiprep.metrics.ranking import auroc
from wsiprep.models.aligned import Aligned
from wsiprep.models.bags import Bag, pack
from wsiprep.models.sampling import Sampling
from wsiprep.synth.planted import FINDINGS, PlantedSlide, PlantedWorld, swap_captions
from wsiprep.train.language.align import AlignLearner, make_tokenizer
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.loop import RunPlan, train
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.recipe import AlignRecipe

pytestmark = pytest.mark.slow
WORLD = PlantedWorld()
MADE_WITH = Fingerprint("planted", "", WORLD.dim, 0.5, 256, 256, normalised=False)
SLIDES = 1024
MEANS = ({"encoder": "identity"}, 4e-3, 300)
"""Of patches, all alike: quick, but blurred by the noise of those in which nothing was planted."""
ATTENTION = (
    {"encoder": "gated_attention", "options": {"dim": 64, "gate": 32, "heads": 1, "dropout": 0.0}},
    1.5e-3,
    600,
)
"""Slide encoder, learning rate and steps."""


def cases_of(slides: tuple[PlantedSlide, ...]) -> Cases:
    bags = [
        Bag(
            torch.from_numpy(s.features), torch.from_numpy(s.cell),
            torch.zeros(len(s.cell), dtype=torch.int64),
        )
        for s in slides
    ]  # fmt: skip
    samples = [
        Sample(id=s.id, slides=(s.id,), caption=s.caption, sub_captions=s.sub_captions)
        for s in slides
    ]
    return Cases(samples, bags.__getitem__, MADE_WITH, Sampling(), seed=1)


def learned(
    slides: tuple[PlantedSlide, ...],
    folder: Path,
    how: tuple[dict[str, Any], float, int] = MEANS,
    *,
    regions: bool = True,
) -> Any:
    """A model that learned from slides, and what validation says of the held-out ones."""
    encoder, rate, steps = how
    recipe = AlignRecipe.model_validate({
        "model": {
            "dim": 64,
            "slides": encoder,
            "texts": {"tokens": "words",
                      "options": {"dim": 64, "layers": 2, "heads": 4, "dropout": 0.0}},
            "objectives": {
                "slide_options": {"temperature": 0.07, "learned": True, "label_smoothing": 0.0},
                "region_weight": 1.0 if regions else 0.0,
                "region_options": {"negatives": "all", "bias": -5.0},
            },
        },
        "optimisation": {"learning_rate": rate, "steps": steps, "batch_size": 32, "warmup": 20,
                         "weight_decay": 0.01},
    })  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learn, held = cases_of(slides), cases_of(WORLD.test())
    model = Aligned(recipe.model, WORLD.dim, make_tokenizer(recipe.model, learn.samples))
    learner = AlignLearner(model, recipe, learn, held, HERE, seed=1, name="planted")
    done = train(learner, learn, recipe.optimisation, RunPlan(folder, 1, steps), HERE)
    return model.eval(), held, done.scores


def presence(model: Aligned, held: Cases, *, fit: bool) -> float:
    """AUROC of whether a finding is in a slide, from its prompts; mean over findings."""
    bags = [pack([held.bag(i, 0)]) for i in range(len(held))]
    found = []
    for number in range(len(FINDINGS)):
        texts = WORLD.prompts(number)
        if fit:
            scores = torch.stack([model.fit(one, texts).mean() for one in bags])
        else:
            slides = torch.cat([model.embed_slides(one) for one in bags])
            scores = slides @ model.embed_texts(texts).mean(dim=0)
        truth = np.array([number in slide.findings for slide in WORLD.test()])
        found.append(auroc(scores.numpy(), truth))
    return float(np.mean(found))


def where(model: Aligned, held: Cases, method: str) -> tuple[float, float]:
    """Pointing and AUROC of patches of the findings of held-out slides."""
    pointed, ranked = [], []
    for index, slide in enumerate(WORLD.test()[:32]):
        texts = [WORLD.prompts(number)[0] for number in slide.findings]
        scores = model.ground(pack([held.bag(index, 0)]), texts, method).numpy()
        for number, row in zip(slide.findings, scores, strict=True):
            pointed.append(slide.truth[row.argmax()] == number)
            ranked.append(auroc(row, slide.truth == number))
    return float(np.mean(pointed)), float(np.mean(ranked))


def test_held_out_combinations_are_found_named_and_shown(tmp_path: Path) -> None:
    model, held, scores = learned(WORLD.train(SLIDES), tmp_path, ATTENTION)
    assert scores["r_at_1"] > 0.9  # of 64; 0.016 by chance
    assert presence(model, held, fit=False) > 0.95
    assert presence(model, held, fit=True) > 0.97
    pointing, ranked = where(model, held, "attention")
    assert pointing > 0.9
    assert ranked > 0.88
    assert where(model, held, "cosine")[1] > 0.9


def test_the_loss_of_regions_is_what_finds_the_place(tmp_path: Path) -> None:
    model, held, scores = learned(WORLD.train(SLIDES), tmp_path / "with")
    assert scores["r_at_1"] > 0.72
    assert scores["mrr"] > 0.82
    without, blind, _ = learned(WORLD.train(SLIDES), tmp_path / "without", regions=False)
    pointing, ranked = where(model, held, "cosine")
    assert ranked > 0.88
    pointing_without, ranked_without = where(without, blind, "cosine")
    assert ranked_without < ranked - 0.1
    assert pointing_without < pointing - 0.2


def test_shuffled_captions_teach_nothing(tmp_path: Path) -> None:
    model, held, scores = learned(swap_captions(WORLD.train(SLIDES), 3), tmp_path)
    assert scores["r_at_1"] <= 0.06
    assert abs(presence(model, held, fit=True) - 0.5) < 0.1
    assert abs(where(model, held, "cosine")[1] - 0.5) < 0.1
