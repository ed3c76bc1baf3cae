"""Small aligned models on planted slides."""

from __future__ import annotations

from typing import Any

import torch

from wsiprep.models.aligned import Aligned
from wsiprep.models.bags import Bag
from wsiprep.models.sampling import Sampling
from wsiprep.synth.planted import PlantedSlide, PlantedWorld
from wsiprep.train.language.align import AlignLearner, make_tokenizer
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import AlignRecipe

DIM = 16
MADE_WITH = Fingerprint("planted", "", DIM, 0.5, 256, 256, normalised=False)
WORLD = PlantedWorld(dim=DIM, side_cells=32, blob_cells=8, noise=0.1, counts=(2,), held_out=8)
HERE = Processes(0, 1, torch.device("cpu"))
QFORMER = {
    "encoder": "qformer",
    "options": {
        "dim": 32, "queries": 4, "width": 32, "layers": 1, "heads": 4, "hidden": 64,
        "cross_every": 1, "mixer_layers": 1, "mixer_heads": 4, "mixer_hidden": 64, "dropout": 0.0,
    },
}  # fmt: skip
PERCEIVER = {
    "encoder": "perceiver",
    "options": {"dim": 32, "latents": 9, "heads": 4, "dropout": 0.0, "attention_dropout": 0.0},
}
SHARED = {"encoder": "shared", "tokens": "words"}
TEXT = {"tokens": "words", "options": {"dim": 32, "layers": 1, "heads": 4, "dropout": 0.0}}


def cases_of(slides: tuple[PlantedSlide, ...], sampling: Sampling | None = None) -> Cases:
    bags = [
        Bag(
            torch.from_numpy(slide.features),
            torch.from_numpy(slide.cell),
            torch.zeros(len(slide.cell), dtype=torch.int64),
        )
        for slide in slides
    ]
    samples = [
        Sample(id=s.id, slides=(s.id,), caption=s.caption, sub_captions=s.sub_captions)
        for s in slides
    ]
    return Cases(samples, bags.__getitem__, MADE_WITH, sampling or Sampling(), seed=3)


def recipe_of(**changes: Any) -> AlignRecipe:
    """A small recipe; `changes` are of `slides`, `texts`, `objectives`, `optimisation`."""
    return AlignRecipe.model_validate({
        "model": {
            "slides": changes.get("slides", QFORMER),
            "texts": changes.get("texts", TEXT),
            "dim": changes.get("dim"),
            "objectives": {
                "region_weight": 1.0, "sub_captions": 2, **changes.get("objectives", {})
            },
        },
        "optimisation": {
            "learning_rate": 2e-3, "batch_size": 6, "steps": 4, "warmup": 1,
            **changes.get("optimisation", {}),
        },
    })  # fmt: skip


def learner_of(
    recipe: AlignRecipe, cases: Cases, val: Cases | None = None, processes: Processes = HERE
) -> AlignLearner:
    torch.manual_seed(7)
    model = Aligned(recipe.model, DIM, make_tokenizer(recipe.model, cases.samples))
    return AlignLearner(model, recipe, cases, val, processes, seed=5, name="test")
