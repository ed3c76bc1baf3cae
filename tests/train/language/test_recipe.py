"""Recipes that are shipped, and changing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiprep.core.errors import ConfigError
from wsiprep.models.encoders import registry
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, recipe_names, section

KINDS = {"align": AlignRecipe, "caption": AssistantRecipe, "instruct": AssistantRecipe}
SYSTEMS = {"pathflip", "pathflip-v2", "wsi-llava", "pathalign", "prism", "slidechat"}


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
