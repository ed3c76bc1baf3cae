"""What a training is given in files, known by what is in them: where they lie says nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import digest
from wsiprep.synth.thumbnails.stains import Stain
from wsiprep.tissue.segmenters._checkpoint import file_sha256
from wsiprep.train.tissue.config import TissueTraining
from wsiprep.train.tissue.data import Pair

__all__ = ["FILES", "input_digests", "start_file"]

FILES: Final = ("data", "textures", "stains", "checkpoint")
"""Settings that name files."""


def input_digests(
    cfg: TissueTraining, pairs: Sequence[Pair], textures: Sequence[NDArray[np.uint8]],
    stains: Mapping[str, Stain],
) -> dict[str, str | None]:  # fmt: skip
    """sha256 (hex) of what each of `FILES` holds; None where it is not given.

    Of `data` and `textures` it is that of decoded pictures and masks in their order, so that other
    names and formats of the same are the same; of `stains` that of their numbers in their order; of
    `checkpoint` that of the file.

    Args:
        cfg: Settings.
        pairs: What `data` holds.
        textures: uint8 (h, w, 3) pictures, what `textures` holds.
        stains: What `stains` holds.

    Raises:
        WeightsError: the checkpoint cannot be read.
    """
    said = [(pair.split, pair.thumbnail.mpp) for pair in pairs]
    planes = [
        plane
        for pair in pairs
        for plane in (pair.thumbnail.pixels, pair.thumbnail.label, pair.thumbnail.known)
    ]
    start = start_file(cfg)
    return {
        "data": None if cfg.data is None else _sha256(said, planes),
        "textures": None if cfg.textures is None else _sha256((), textures),
        "stains": digest([[k, asdict(v)] for k, v in stains.items()]) if stains else None,
        "checkpoint": None if start is None else file_sha256(start),
    }


def start_file(cfg: TissueTraining) -> Path | None:
    """The file of the weights to begin with.

    Raises:
        WeightsError: those of Segment Anything are not there.
    """
    if cfg.checkpoint is None or cfg.model == "net":
        return cfg.checkpoint
    from wsiprep.tissue.segmenters import sam

    return sam.Config(checkpoint=str(cfg.checkpoint), model=cfg.sam).checkpoint_file()


def _sha256(said: Any, planes: Iterable[NDArray[np.uint8]]) -> str:
    total = hashlib.sha256(repr(said).encode())
    for plane in planes:
        total.update(repr(plane.shape).encode())
        total.update(np.ascontiguousarray(plane).data)
    return total.hexdigest()
