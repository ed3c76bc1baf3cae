"""An aligned model that slides are shown to: loaded, named by its content, and asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsiprep import __version__
from wsiprep.core.errors import WeightsError
from wsiprep.models.bags import PackedBags, pack
from wsiprep.models.sampling import SHOWN_SEED, Patches, Sampling, sample
from wsiprep.tasks.embedded import EmbeddedSlide, open_features
from wsiprep.tasks.use_config import AskedModelChoice
from wsiprep.train.language.bags import CasePatches
from wsiprep.train.language.checkpoint import AlignedCheckpoint, load_aligned

__all__ = ["AskedModel", "SlideView", "load_model", "model_sha256"]


@dataclass(frozen=True, slots=True, eq=False)
class SlideView:
    """A slide as the model sees it.

    Attributes:
        bags: One bag, on the device of the model, float32.
        grid: Name of the grid.
        encoder: Name of the features, as the store has it.
        key: Identity of the features.
    """

    bags: PackedBags
    grid: str
    encoder: str
    key: str

    @property
    def patches(self) -> int:
        """Patches that the model sees."""
        return len(self.bags.features)


@dataclass(frozen=True, slots=True, eq=False)
class AskedModel:
    """A checkpoint, and what of a slide it is shown.

    Attributes:
        checkpoint: The model, in evaluation mode.
        sha256: Of the files of the checkpoint.
        max_patches: Most patches of a slide; all without it.
    """

    checkpoint: AlignedCheckpoint
    sha256: str
    max_patches: int | None = None

    def show(self, patches: Patches, name: str) -> PackedBags:
        """A slide or case as the model takes it.

        Args:
            patches: All of it.
            name: Of it (`case_name`); decides the draw where some are left out.
        """
        cfg = Sampling(max_patches=self.max_patches)
        drawn = sample(patches, cfg, seed=SHOWN_SEED, epoch=0, slide_id=name)
        return pack([drawn]).to(self.checkpoint.device, torch.float32)

    def view(self, slide: EmbeddedSlide) -> SlideView:
        """Read a slide's features.

        Raises:
            StoreMismatchError: they were not made as the model's.
            SlideError: there are none.
            StoreCorruptError: they are damaged.
        """
        features, grid, encoder = open_features(slide, self.checkpoint.features)
        key = str(features.features.attributes["key"])
        return SlideView(self.show(CasePatches([features]), slide.id), grid, encoder, key)

    def provenance(self) -> dict[str, Any]:
        """What decided the results, as plain JSON types."""
        return {
            "wsiprep": __version__,
            "model": {
                "folder": str(self.checkpoint.folder),
                "sha256": self.sha256,
                "recipe": self.checkpoint.recipe.get("name", ""),
            },
            "features": self.checkpoint.features.canonical(),
            "max_patches": self.max_patches,
        }


def load_model(choice: AskedModelChoice) -> AskedModel:
    """The model of a command.

    Raises:
        WeightsError, StoreMismatchError, DeviceError: as `load_aligned`.
    """
    checkpoint = load_aligned(choice.model, choice.device)
    return AskedModel(checkpoint, model_sha256(checkpoint.folder), choice.max_patches)


def model_sha256(folder: Path) -> str:
    """sha256 (hex) over all files of a checkpoint and their names: which model it is.

    Raises:
        WeightsError: a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for path in _files(sorted(folder.rglob("*"))):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    except OSError as err:
        raise WeightsError(f"{folder} cannot be read: {err}.") from err
    return total.hexdigest()


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    return (path for path in paths if path.is_file())
