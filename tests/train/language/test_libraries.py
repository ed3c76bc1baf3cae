"""A library that is missing is told before a store is opened."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from wsiprep.cli.main import app
from wsiprep.core.errors import ManifestError, PluginUnavailableError
from wsiprep.models.aligned import AlignedConfig
from wsiprep.models.assistant_parts import AssistantParts, with_llm
from wsiprep.train.language.align import prepare_align
from wsiprep.train.language.assistant_config import AssistantTraining
from wsiprep.train.language.instruct import prepare_assistant
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.libraries import check_align_libraries, check_assistant_libraries
from wsiprep.train.language.manifest import Sample, write_manifest
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, section

NAMES = ("transformers", "peft", "gguf", "accelerate")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """All of the extra is there, or looks so; a test takes away what it likes."""
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return monkeypatch


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def only_texts(folder: Path) -> Path:
    """A manifest of a slide that is nowhere."""
    path = folder / "data.jsonl"
    write_manifest(path, [Sample(id="a", slides=("no",), caption="Colon.")])
    return path


def nothing_there(tmp_path: Path, recipe: str, **given: object) -> AssistantTraining:
    """A training whose stores and start are not there: to open any is another error."""
    values = {
        "data": only_texts(tmp_path), "stores": tmp_path / "no", "output": tmp_path / "out",
        "recipe": recipe, "device": "cpu", **given,
    }  # fmt: skip
    return AssistantTraining.model_validate(values)


def aligned(recipe: str, *changes: str) -> AlignedConfig:
    return section(load_recipe(recipe), "align", AlignRecipe, changes).model


def parts(recipe: str, command: str = "instruct", *changes: str) -> AssistantParts:
    return section(load_recipe(recipe), command, AssistantRecipe, changes).model


@pytest.mark.parametrize(
    ("cfg", "needed"),
    [
        (aligned("pathflip"), set()),
        (aligned("pathflip", "model.texts.bert=owner/bert"), {"transformers"}),
        (aligned("prism"), set()),
        (aligned("pathflip-v2"), {"transformers", "peft"}),
        (aligned("wsi-llava", "model.texts.options.tuning=frozen"), {"transformers"}),
        (parts("pathflip"), {"transformers", "peft"}),
        (with_llm(parts("pathflip"), "tiny"), set()),
        (with_llm(parts("pathflip"), "x.gguf"), set(NAMES)),
        (parts("wsi-llava", "caption"), {"transformers"}),
        (parts("slidechat"), {"transformers"}),
    ],
)
def test_what_a_recipe_needs(
    installed: pytest.MonkeyPatch, cfg: AlignedConfig | AssistantParts, needed: set[str]
) -> None:
    def check() -> None:
        if isinstance(cfg, AlignedConfig):
            check_align_libraries(cfg)
        else:
            check_assistant_libraries(cfg)

    check()
    for name in NAMES:
        with installed.context() as one:
            without(one, name)
            if name in needed:
                with pytest.raises(PluginUnavailableError, match=f"needs {name}: .*{name}") as err:
                    check()
                assert err.value.exit_code == 3
                assert "'.[language]'" in str(err.value.hint)
            else:
                check()


def test_all_that_is_missing_is_told_at_once(installed: pytest.MonkeyPatch) -> None:
    without(installed, "transformers", "peft")
    with pytest.raises(PluginUnavailableError, match=r"Qwen3-0\.6B needs transformers and peft"):
        check_assistant_libraries(parts("pathflip"))


def test_no_store_is_opened_before(installed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cfg = nothing_there(tmp_path, "pathflip-v2", start=tmp_path / "no", llm="owner/name")
    with pytest.raises(ManifestError):
        prepare_align(cfg)
    without(installed, "peft")
    with pytest.raises(PluginUnavailableError, match="the text encoder of this recipe needs peft"):
        prepare_align(cfg)
    with pytest.raises(PluginUnavailableError, match="owner/name needs peft"):
        prepare_assistant(cfg, "instruct")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("command", ["align", "instruct"])
def test_by_the_command_line(
    installed: pytest.MonkeyPatch, tmp_path: Path, command: str, dry: tuple[str, ...]
) -> None:
    without(installed, "transformers")
    done = CliRunner().invoke(
        app,
        ["train", command, "--recipe", "pathflip-v2", "--data", str(only_texts(tmp_path)),
         "--stores", str(tmp_path), "-o", str(tmp_path / "out"), *dry],
    )  # fmt: skip
    assert done.exit_code == 3
    assert "needs transformers" in done.output
    assert "wsiprep doctor" in done.output
    assert not (tmp_path / "out").exists()
