"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared_root() -> Path:
    return Path(os.environ.get("WSIPREP_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and masks; the test is skipped where it is not there."""
    root = _shared_root()
    if not root.is_dir():
        pytest.skip("real data (../shared/data) is not here")
    return root
