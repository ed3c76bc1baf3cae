"""Segmenter by a small network that ships with wsiprep: tissue, pen, edges and folds.

The network (`tissue/network.py`) was trained on thumbnails drawn by `wsiprep.synth.thumbnails` and
on a few real ones; docs/tissue.md says how, and how well it does. It answers four questions of
every pixel: is there tissue (also under ink that lets light through), ink, something else that is
not clean glass, a fold.

The thumbnail is read in tiles that overlap by more than the network sees, so that memory does not
grow with it; seams do not show, because a pixel's answer comes from the middle of a tile.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsiprep.core.config import Settings
from wsiprep.core.contracts import Segmenter
from wsiprep.core.errors import WeightsError
from wsiprep.core.types import Segmentation
from wsiprep.tissue.segmenters._checkpoint import NETWORKS_KEPT
from wsiprep.tissue.segmenters._colour import DARK_NOTE, black_bars, dark_background

if TYPE_CHECKING:
    from wsiprep.tissue.network import TissueNet

__all__ = ["VERSION", "Config", "NetSegmenter", "create"]

VERSION = 2
"""Raised whenever the same thumbnail would give another mask."""

FINEST_MPP: Final = 6.0
"""Finer thumbnails than this are shrunk to it: the network knows 6 to 32 µm/px."""
COARSEST_MPP: Final = 32.0
"""Coarser ones are told of in a note."""
TILE_PX: Final = 1440
"""Largest side of a tile: its widest layer stays below 32 MiB, from where the C library asks the
system for every block anew, which costs more than the arithmetic."""
MARGIN_PX: Final = 192
"""Of each tile that is not taken where it borders on another."""

_loading = threading.Lock()


class Config(Settings):
    """Options of the segmenter `net`."""

    weights: Path | None = None
    """Network that `wsiprep train tissue` wrote; without it the one that ships with wsiprep."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Chance from which a pixel is tissue; lower finds paler tissue and more dirt."""
    pen_threshold: float = Field(default=0.65, gt=0, lt=1)
    """The same for ink: higher, since tissue taken for ink is lost."""

    def network_file(self) -> Path:
        """The file of the network."""
        if self.weights is not None:
            return self.weights
        return Path(str(resources.files("wsiprep.tissue") / "weights" / "net.safetensors"))

    def canonical(self) -> dict[str, Any]:
        """As of all settings, but the file enters by its content.

        Raises:
            WeightsError: it cannot be read.
        """
        return {**super().canonical(), "weights": _sha256(self.network_file())}


def create(cfg: Config) -> Segmenter:
    """Make the segmenter; the weights are read once in a process.

    Raises:
        WeightsError: the weights cannot be read, or are of something else.
    """
    path = cfg.network_file()
    with _loading:
        return NetSegmenter(cfg, _network(str(path), _sha256(path)))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise _unusable(path, f"cannot be read: {err.strerror}") from err


@lru_cache(maxsize=NETWORKS_KEPT)
def _network(path: str, sha256: str) -> TissueNet:
    from wsiprep.tissue.network import load_network

    try:
        return load_network(Path(path))[0]
    except (OSError, ValueError) as err:
        raise _unusable(Path(path), f"cannot be used: {err}") from err


def _unusable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"tissue network {path} {why}.",
        stage="tissue",
        hint="Give --segmenter-option weights=FILE as `wsiprep train tissue` wrote it.",
    )


class NetSegmenter:
    """A network asked four questions; see the module."""

    def __init__(self, cfg: Config, network: TissueNet) -> None:
        import torch

        self.cfg = cfg
        self._network = network.to(memory_format=torch.channels_last)

    def segment(self, thumbnail: NDArray[np.uint8], mpp: float) -> Segmentation:
        """Find tissue, pen, edges and folds.

        Args:
            thumbnail: uint8 (h, w, 3) RGB of the whole slide.
            mpp: Its µm/px.
        """
        h, w = thumbnail.shape[:2]
        if dark_background(thumbnail):
            no = np.zeros((h, w), np.bool_)
            return Segmentation(no, no.copy(), no.copy(), no.copy(), (DARK_NOTE,))
        picture = np.ascontiguousarray(thumbnail)
        if mpp < FINEST_MPP:
            size = (max(1, round(w * mpp / FINEST_MPP)), max(1, round(h * mpp / FINEST_MPP)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        logits = self._logits(picture)
        if logits.shape[:2] != (h, w):
            enlarged = cv2.resize(logits, (w, h), interpolation=cv2.INTER_LINEAR)
            logits = np.asarray(enlarged, np.float32).reshape(h, w, 4)
        chances = (self.cfg.threshold, self.cfg.pen_threshold, 0.5, 0.5)
        tissue, pen, edge, fold = (
            np.ascontiguousarray(logits[..., k] > np.log(chance / (1 - chance)))
            for k, chance in enumerate(chances)
        )
        black = black_bars(picture, max(mpp, FINEST_MPP))
        if black.any():
            free = ~_of_shape(black, (h, w))
            tissue, pen, edge = tissue & free, pen & free, edge & free
        notes = (
            (f"net knows thumbnails of up to {COARSEST_MPP:g} µm/px; this one has {mpp:.3g}.",)
            if mpp > COARSEST_MPP
            else ()
        )
        return Segmentation(tissue, pen, edge, fold & tissue, notes)

    def _logits(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of every pixel, float32 (h, w, 4), tile by tile."""
        import torch

        h, w = picture.shape[:2]
        out = np.empty((h, w, 4), np.float32)
        with torch.inference_mode():
            for rows, cols, (top, left) in _tiles(h, w):
                tile = _padded(picture[rows, cols])
                pixels = torch.from_numpy(tile).permute(2, 0, 1)[None]
                found = self._network(pixels)[0].permute(1, 2, 0).numpy()
                full = cv2.resize(
                    np.ascontiguousarray(found), tile.shape[1::-1], interpolation=cv2.INTER_LINEAR
                )
                box = out[rows.start + top : rows.stop, cols.start + left : cols.stop]
                box[...] = full[top : top + box.shape[0], left : left + box.shape[1]]
        return out


def _of_shape(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.shape == shape:
        return mask
    size = shape[::-1]
    return np.asarray(cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)


def _tiles(h: int, w: int) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Rows and columns of each tile, and how much of its top and left an earlier one has done.

    Later tiles are written over earlier ones, but for a margin: each seam lies `MARGIN_PX` inside
    of both its tiles.
    """
    for rows, top in _cuts(h):
        for cols, left in _cuts(w):
            yield rows, cols, (top, left)


def _cuts(side: int) -> list[tuple[slice, int]]:
    """A side in even parts, each at a multiple of what the network halves by."""
    from wsiprep.tissue.network import MULTIPLE

    if side <= TILE_PX:
        return [(slice(0, side), 0)]
    inner = side - 2 * MARGIN_PX
    step = -(-inner // -(-inner // (TILE_PX - 2 * MARGIN_PX)))
    step += -step % MULTIPLE
    return [
        (slice(at, min(side, at + step + 2 * MARGIN_PX)), MARGIN_PX if at else 0)
        for at in range(0, inner, step)
    ]


def _padded(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The tile with its last row and column repeated until the network can halve it."""
    from wsiprep.tissue.network import MULTIPLE

    h, w = (-n % MULTIPLE for n in tile.shape[:2])
    return np.ascontiguousarray(np.pad(tile, ((0, h), (0, w), (0, 0)), mode="edge"))
