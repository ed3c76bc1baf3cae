"""Recipes that are shipped, and changing them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wsiprep.core.errors import ConfigError
from wsiprep.models.encoders import registry
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.towers import SlideTower
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, recipe_names, section

KINDS = {"align": AlignRecipe, "caption": AssistantRecipe, "instruct": AssistantRecipe}
SYSTEMS = {"pathflip", "pathflip-v2", "wsi-llava", "pathalign", "prism", "slidechat"}
NOTED = {
    "pathflip": (
        "own chat template", "3 beams, 128 to 512 tokens", "with their gradient", "distinct",
        "8 devices", "cuts them at 192",
    ),
    "pathflip-v2": ("0.7, 0.95 and 512", "every pair of a process positive", "one projector"),
    "wsi-llava": ("starts from LLaVA-1.5", "order of files", "class token"),
    "pathalign": ("from all devices", "gathers those of the slide loss", "100 a device"),
    "prism": ("equal neighbourhoods", "5 beams", "Virchow"),
    "slidechat": ("length 1", "4 bits", "51,200", "38,400"),
}  # fmt: skip
"""What of a system is not followed, beside what holds for all; from the design's tables of it."""


def test_all_systems_are_there() -> None:
    assert set(recipe_names()) >= SYSTEMS


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_is_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about
    assert recipe.source
    assert recipe.deviations
    made = [(c, section(recipe, c, kind)) for c, kind in KINDS.items() if getattr(recipe, c)]
    assert made
    for _, settings in made:
        side = settings.model.slides
        if side is not None:
            registry.load(side.encoder).Config(**side.options)


def test_pathflip_v2_has_one_head() -> None:
    """The encoder ends in Linear, RMSNorm and dropout; a second head would do it twice."""
    side = section(load_recipe("pathflip-v2"), "align", AlignRecipe).model.slides
    tower = SlideTower(side, 8, None)
    norms = [n for n, m in tower.named_modules() if isinstance(m, torch.nn.RMSNorm) and "head" in n]
    assert norms == ["encoder.slide_head.norm", "encoder.patch_head.norm"]
    assert not list(tower.head.parameters()) + list(tower.local_head.parameters())


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_what_every_training_does_its_own_way_is_noted(name: str) -> None:
    recipe = load_recipe(name)
    noted = " ".join(recipe.deviations)
    assert "betas of 0.9 and 0.98" in noted
    assert "clipped at length 1" in noted
    assert "float32" in noted
    if name in ("pathflip", "pathalign"):
        assert "model.texts.bert" in noted
    if recipe.caption or recipe.instruct:
        assert "Answers are greedy" in noted
    if recipe.align:
        made = section(recipe, "align", AlignRecipe)
        assert made.model.objectives.same_text
        assert "Captions that say the same are no negatives" in noted
        assert "model.objectives.same_text" in noted
        section(recipe, "align", AlignRecipe, ["model.objectives.same_text=false"])
    for said in NOTED.get(name, ()):
        assert said in noted, said


def test_numbers_that_are_noted_are_those_of_the_recipe() -> None:
    noted = " ".join(load_recipe("prism").deviations)
    made = section(load_recipe("prism"), "align", AlignRecipe)
    how = made.optimisation
    assert f"{made.sampling.patches:,} patches at most" in noted
    assert f"Batches of {how.batch_size} cases, {how.epochs:g} epochs" in noted
    talk = section(load_recipe("slidechat"), "instruct", AssistantRecipe)
    noted = " ".join(load_recipe("slidechat").deviations)
    assert f"{talk.model.assistant.max_tokens:,} tokens at most" in noted
    assert f"{talk.sampling.patches:,} patches are drawn" in noted
    assert f"Batches of {talk.optimisation.batch_size} samples" in noted
    answers = f"of {Decoding().max_new_tokens} tokens at most"
    for name in ("pathflip", "pathflip-v2"):
        assert answers in " ".join(load_recipe(name).deviations)
    stage = section(load_recipe("wsi-llava"), "caption", AssistantRecipe).optimisation
    noted = " ".join(load_recipe("wsi-llava").deviations)
    assert f"its batches have {stage.batch_size} samples" in noted


def test_values_are_changed_one_by_one() -> None:
    recipe = load_recipe("pathflip")
    changed = section(
        recipe, "align", AlignRecipe,
        ["optimisation.epochs=3", "model.slides.options.layers=2", "sampling.method=all"],
    )  # fmt: skip
    assert changed.optimisation.epochs == 3
    assert changed.model.slides.options["layers"] == 2
    assert changed.model.slides.options["width"] == 768
    assert changed.sampling.method == "all"


@pytest.mark.parametrize(
    ("change", "said"),
    [("optimisation.epoch=3", "epoch"), ("optimisation", "name=value"),
     ("optimisation.epochs=-1", "epochs"), ("optimisation.epochs.x=1", "names inside")],
)  # fmt: skip
def test_wrong_changes_are_told(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        section(load_recipe("pathflip"), "align", AlignRecipe, [change])


def test_a_section_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="nothing for `wsiprep train align`"):
        section(load_recipe("slidechat"), "align", AlignRecipe)


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("align: {optimisation: {epochs: 7}}\n")
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert section(recipe, "align", AlignRecipe).optimisation.epochs == 7
    path.write_text("align: [1]\n")
    with pytest.raises(ConfigError, match="align"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="there is no recipe 'nope'"):
        load_recipe("nope")
