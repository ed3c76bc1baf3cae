"""Modules of the benchmarks."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.benchmarks.scripts import BENCHMARKS


@pytest.fixture
def harness(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("harness")


@pytest.fixture
def render(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("render")
