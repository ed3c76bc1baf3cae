"""A hub cache without a hub, and tiles that need no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from numpy.typing import NDArray

PutRepo = Callable[[str, dict[str, bytes]], None]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PutRepo:
    """Makes the hub's cache an empty folder and the hub off; call it to put a repository in."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(repo: str, files: dict[str, bytes]) -> None:
        folder = cache / f"models--{repo.replace('/', '--')}"
        commit = "0" * 40
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name, content in files.items():
            (snapshot / name).write_bytes(content)

    return put


@pytest.fixture(scope="session")
def tile() -> NDArray[np.uint8]:
    """uint8 (96, 96, 3): gradients and a lattice in whole numbers, the same everywhere."""
    y, x = np.mgrid[0:96, 0:96]
    red = (2 * x + y) % 256
    green = (x * y // 37) % 256
    blue = 255 - 2 * y + 60 * ((x // 8 + y // 8) % 2)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)
