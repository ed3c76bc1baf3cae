"""Segmenter by a small network that ships with wsiprep: tissue, pen, edges and folds.

The network (`tissue/network.py`) was trained on thumbnails drawn by `wsiprep.synth.thumbnails` and
on a few real ones; docs/tissue.md says how, and how well it does. It answers four questions of
every pixel: is there tissue (also under ink that lets light through), ink, something else that is
not clean glass, a fold.

The thumbnail is looked at in tiles, so that memory does not grow with it beyond its masks (beyond
its logits where it is finer than `FINEST_MPP`). Seams do not show: tiles overlap by what it
sees.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
    from torch import Tensor

    from wsiprep.tissue.network import TissueNet

__all__ = ["VERSION", "Config", "NetSegmenter", "create"]

VERSION = 4
"""Raised whenever the same thumbnail would give another mask."""

FINEST_MPP: Final = 6.0
"""Finer thumbnails than this are shrunk to it: the network knows 6 to 32 µm/px."""
COARSEST_MPP: Final = 32.0
"""Coarser ones are told of in a note."""
TILE_PX: Final = 1440
"""Largest side of a tile: layers stay below 32 MiB, from where the C library asks the system for
every block anew; in whole numbers far below."""
FAR_TILE_PX: Final = 3584
"""The same for the coarse levels, of which most slides need one."""
MARGIN_PX: Final = 192
"""What the coarse levels see around a place, as far as it matters."""

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
        self.cfg = cfg
        self._network = network

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
        limits = [
            float(np.log(chance / (1 - chance)))
            for chance in (self.cfg.threshold, self.cfg.pen_threshold, 0.5, 0.5)
        ]
        tissue, pen, edge, fold = (
            self._above(picture, limits) if picture.shape[:2] == (h, w)
            else _enlarged_above(self._logits(picture), (h, w), limits)
        )  # fmt: skip
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

    def _above(
        self, picture: NDArray[np.uint8], limits: Sequence[float]
    ) -> list[NDArray[np.bool_]]:
        """Where each logit is above its limit, bool (h, w); without holding all logits."""
        import torch

        (h, w), padded = picture.shape[:2], _padded(picture)
        found = np.empty((len(limits), *padded.shape[:2]), np.bool_)
        with torch.inference_mode():
            for place, logits in _answers(self._network, padded):
                for k, limit in enumerate(limits):
                    np.greater(logits[..., k], limit, out=found[k][place])
        return [np.ascontiguousarray(mask[:h, :w]) for mask in found]

    def _logits(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of every pixel, float32 (h, w, 4)."""
        import torch

        (h, w), padded = picture.shape[:2], _padded(picture)
        out = np.empty((*padded.shape[:2], 4), np.float32)
        with torch.inference_mode():
            for place, logits in _answers(self._network, padded):
                out[place] = logits
        return out[:h, :w]


def _enlarged_above(
    logits: NDArray[np.float32], shape: tuple[int, int], limits: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """Where each logit is above its limit, bool (h, w), in a larger picture."""
    enlarged = cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return [np.ascontiguousarray(enlarged[..., k] > limit) for k, limit in enumerate(limits)]


def _answers(
    network: TissueNet, picture: NDArray[np.uint8]
) -> Iterator[tuple[_Place, NDArray[np.float32]]]:
    """Logits of a picture, part by part, each pixel once: where they lie, float32 (h, w, 4).

    Coarse levels see far and are small: they work on large tiles. Fine ones see what is near and
    take much memory: they work on small tiles of these, and what is needed of them again is kept.

    Args:
        network: The network.
        picture: uint8 (h, w, 3) with sides that are multiples of `network.MULTIPLE`.
    """
    import torch

    from wsiprep.tissue.network import NEAR_LEVELS, NEAR_PX

    scale = 2**NEAR_LEVELS
    for large in _tiles(picture.shape[:2], FAR_TILE_PX, MARGIN_PX):
        pixels = torch.from_numpy(picture[large.read]).permute(2, 0, 1)[None]
        h, w = pixels.shape[2:]
        size = (1, network.widths[NEAR_LEVELS - 1], h // scale, w // scale)
        coarse = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
        tiles = _tiles((h, w), TILE_PX, NEAR_PX)
        kept: list[list[Tensor]] = []
        for tile in tiles:
            *fine, seen = network.near(pixels[_at(tile.read)])
            coarse[_at(tile.own, scale)] = seen[_at(tile.kept, scale)]
            kept.append(fine)
        far = network.far(coarse)
        for tile in tiles:
            fine = kept.pop(0)
            own = _common(tile.own, large.kept)
            if own is not None:
                found = _doubled(network.fine(fine, far[_at(tile.read, scale)]))
                yield _moved(own, large.read), found[_moved(own, tile.read, -1)]


def _doubled(logits: Tensor) -> NDArray[np.float32]:
    """(1, 4, h, w) to float32 (2 h, 2 w, 4)."""
    found = np.ascontiguousarray(logits[0].permute(1, 2, 0).numpy())
    size = (2 * found.shape[1], 2 * found.shape[0])
    return np.asarray(cv2.resize(found, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _of_shape(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.shape == shape:
        return mask
    size = shape[::-1]
    return np.asarray(cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)


_Place = tuple[slice, slice]
"""Rows and columns."""


class _Tile(NamedTuple):
    """A part of a picture, in pixels.

    Attributes:
        read: What is looked at.
        own: What is answered.
        kept: The same, as of `read`.
    """

    read: _Place
    own: _Place
    kept: _Place


def _tiles(size: tuple[int, int], most: int, margin: int) -> list[_Tile]:
    """Tiles that cover (h, w): none larger than `most`, margins but where the picture ends."""
    return [
        _Tile(*zip(rows, cols, strict=True))
        for rows in _cuts(size[0], most, margin)
        for cols in _cuts(size[1], most, margin)
    ]


def _cuts(side: int, most: int, margin: int) -> list[tuple[slice, slice, slice]]:
    """A side in even parts, each at a multiple of what the network halves by; as of `_Tile`."""
    from wsiprep.tissue.network import MULTIPLE

    parts = 1 if side <= most else -(-side // (most - 2 * margin))
    step = -(-side // parts)
    step += -step % MULTIPLE
    made = []
    for start in range(0, side, step):
        stop = min(side, start + step)
        first, last = max(0, start - margin), min(side, stop + margin)
        made.append((slice(first, last), slice(start, stop), slice(start - first, stop - first)))
    return made


def _common(a: _Place, b: _Place) -> _Place | None:
    """Where two places overlap; None where they do not."""
    rows, cols = (
        slice(max(m.start, n.start), min(m.stop, n.stop)) for m, n in zip(a, b, strict=True)
    )
    return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None


def _moved(place: _Place, by: _Place, sign: int = 1) -> _Place:
    """A place, moved by where another begins."""
    rows, cols = (
        slice(part.start + sign * other.start, part.stop + sign * other.start)
        for part, other in zip(place, by, strict=True)
    )
    return rows, cols


def _at(place: _Place, scale: int = 1) -> tuple[EllipsisType, slice, slice]:
    """A place of a picture in a tensor that is `scale` times smaller along a side."""
    rows, cols = (slice(part.start // scale, part.stop // scale) for part in place)
    return ..., rows, cols


def _padded(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The tile with its last row and column repeated until the network can halve it."""
    from wsiprep.tissue.network import MULTIPLE

    h, w = (-n % MULTIPLE for n in tile.shape[:2])
    return np.ascontiguousarray(np.pad(tile, ((0, h), (0, w), (0, 0)), mode="edge"))
