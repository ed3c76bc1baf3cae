"""Registries: by name, lazily, with a way out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wsiprep.core import registry as registry_module
from wsiprep.core.errors import PluginUnavailableError, UnknownPluginError
from wsiprep.core.registry import Registry


@pytest.fixture
def segmenters():
    return Registry("segmenter", "wsiprep.tissue.segmenters", "wsiprep.segmenters")


class FakePoint:
    def __init__(self, name, value, loaded=None):
        self.name, self.value, self._loaded = name, value, loaded

    def load(self):
        if self._loaded is None:
            raise ImportError("No module named 'absent'")
        return self._loaded


def test_file_names_are_plugin_names(segmenters):
    assert "otsu" in segmenters.names()
    assert all(not name.startswith("_") for name in segmenters.names())
    assert segmenters.load("otsu").__name__ == "wsiprep.tissue.segmenters.otsu"


def test_an_unknown_name_offers_the_nearest(segmenters):
    with pytest.raises(
        UnknownPluginError, match=r"no segmenter called 'otsuu'.*Did you mean 'otsu'"
    ):
        segmenters.load("otsuu")


def test_outside_plugins_come_by_entry_point(segmenters, monkeypatch):
    marker = object()
    points = [FakePoint("mine", "pkg.mod", marker), FakePoint("broken", "pkg.gone")]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    assert {"mine", "broken", "otsu"} <= set(segmenters.names())
    assert segmenters.load("mine") is marker
    with pytest.raises(PluginUnavailableError, match=r"pkg\.gone.*absent"):
        segmenters.load("broken")


def test_a_clash_is_refused(segmenters, monkeypatch):
    monkeypatch.setattr(
        registry_module, "entry_points", lambda group: [FakePoint("otsu", "pkg.mod", 1)]
    )
    with pytest.raises(UnknownPluginError, match="two segmenters are called 'otsu'"):
        segmenters.names()


def test_listing_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from wsiprep.slide.open import readers\n"
        "from wsiprep.encoders.load import families, encoder_specs\n"
        "readers.names(); families.names(); encoder_specs()\n"
        "print(sorted({'torch', 'timm', 'openslide', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
