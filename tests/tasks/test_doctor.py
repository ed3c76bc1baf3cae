"""What `wsiprep doctor` says of optional libraries."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from wsiprep.tasks import doctor as looked
from wsiprep.tasks.doctor import OPTIONAL, Check, doctor


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
    monkeypatch.setattr("wsiprep.tissue.integers.has_kernel", lambda: there)
    check = looked._tissue_network()
    assert check.status == "ok"
    assert says in check.detail
