"""What `wsiprep doctor` says of optional libraries."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from wsiprep.tasks import doctor as looked
from wsiprep.tasks.doctor import OPTIONAL, Check, doctor
from wsiprep.tissue.segmenters import net


def checks(name: str) -> Check:
    (found,) = [check for check in doctor() if check.name == name]
    return found


def test_the_libraries_of_language_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> str:
        if name == "gguf":
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(looked, "version", found)
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "peft", None)
    assert checks("transformers") == Check("transformers", "ok", "1.2.3")
    assert checks("gguf").status == "warn"
    missing = checks("peft")
    assert missing.status == "warn"  # works without, but for what it says
    assert "it is for LoRA, which pathflip" in missing.detail
    assert "pip install 'wsiprep[language]'" in missing.remedy


@pytest.mark.parametrize(("there", "says"), [(True, "whole numbers"), (False, "floats")])
def test_how_the_tissue_network_computes(
    monkeypatch: pytest.MonkeyPatch, there: bool, says: str
) -> None:
    net.create(net.Config())  # read before, as it can be
    monkeypatch.setattr("wsiprep.tissue.integers.has_kernel", lambda: there)
    check = looked._tissue_network()
    assert check.status == "ok"
    assert says in check.detail


def test_a_tissue_network_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"nonsense")
    monkeypatch.setattr(net.Config, "network_file", lambda self: path)
    check = looked._guard("tissue network", looked._tissue_network)
    assert check.status == "fail"
    assert "safetensors" in check.detail
