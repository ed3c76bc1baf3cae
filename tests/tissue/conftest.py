"""Networks in place of the published ones."""

from __future__ import annotations

import pytest

from tests.tissue.tiny_sam import tiny_sam
from wsiprep.tissue.segmenters import sam


@pytest.fixture
def tiny_vit_b(monkeypatch):
    """The tiny network in place of vit_b, and no network left from another test."""
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    sam._network.cache_clear()
    yield
    sam._network.cache_clear()
