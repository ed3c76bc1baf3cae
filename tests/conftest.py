"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run side by side share the cores, and so do processes that they start: torch
    # reads this when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _shared_root() -> Path:
    return Path(os.environ.get("WSIPREP_SHARED", Path(__file__).parents[2] / "shared")) / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and masks; the test is skipped where it is not there."""
    root = _shared_root()
    if not root.is_dir():
        pytest.skip("real data (../shared/data) is not here")
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, which is quicker for what is small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic H&E slide of 2048 x 1536 px at 0.5 µm/px, as a tiled JPEG pyramid."""
    from wsiprep.core.types import Size
    from wsiprep.synth import SyntheticSlide, write_slide

    path = tmp_path_factory.mktemp("slides") / "small.tiff"
    write_slide(path, SyntheticSlide(seed=3, size=Size(2048, 1536)))
    return path
