"""What part of a thumbnail a network is shown in training, and at what size.

`net` reads tiles at the thumbnail's own scale, and learns from pieces; Segment Anything is asked
about a whole thumbnail in its square, and learns from whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.thumbnails.labels import CLASSES, Thumbnail
from wsiprep.tissue.network import MULTIPLE
from wsiprep.tissue.sam_frame import fit_to_frame, frame_size

__all__ = ["Framing", "Pieces", "Wholes"]

FULL_ODDS: Final = 0.5
"""Share of drawn wholes that fill the frame, as every slide too large for it does."""
SMALLEST: Final = 0.4
"""Longer side of the others, of that of the frame: from this to all of it."""
NARROWEST: Final = 0.3
"""Shorter side of a drawn whole, of its longer: from this to all of it. A glass slide has 0.35."""
LEAST_PX: Final = 64
"""No side of a drawn whole is shorter: less has no room for a layout."""


class Framing(Protocol):
    """How drawn scenes and real thumbnails become pictures to learn from."""

    def drawn_shape(self, rng: np.random.Generator) -> tuple[int, int]:
        """(h, w) in pixels at which a scene is drawn."""
        ...

    def varied(self, rng: np.random.Generator, real: Thumbnail) -> Thumbnail:
        """What is learnt from of a real thumbnail, in other light."""
        ...

    def validated(self, real: Thumbnail) -> Thumbnail:
        """A real thumbnail as it is judged: all of it, in its own light."""
        ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """Squares cut from thumbnails.

    Attributes:
        side_px: Their side; a multiple of what the network halves by.
    """

    side_px: int

    def drawn_shape(self, rng: np.random.Generator) -> tuple[int, int]:
        """A square; nothing is drawn by lot."""
        return self.side_px, self.side_px

    def varied(self, rng: np.random.Generator, real: Thumbnail) -> Thumbnail:
        """A piece at another scale and in other light; mirrored on beyond the thumbnail."""
        side = self.side_px
        scale = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        size = (round(real.label.shape[1] * scale), round(real.label.shape[0] * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = _mirrored(cv2.resize(real.pixels, size, interpolation=how), side)
        label, known = (
            _mirrored(cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST), side)
            for plane in (real.label, real.known)
        )
        y = int(rng.integers(0, label.shape[0] - side + 1))
        x = int(rng.integers(0, label.shape[1] - side + 1))
        box = (slice(y, y + side), slice(x, x + side))
        return Thumbnail(_lit(rng, picture[box]), label[box], known[box], real.mpp / scale)

    def validated(self, real: Thumbnail) -> Thumbnail:
        """At its own size, but for a margin of which nothing is known on the right and below."""
        h, w = (-n % MULTIPLE for n in real.label.shape)
        pixels = np.pad(real.pixels, ((0, h), (0, w), (0, 0)), mode="edge")
        label, known = (np.pad(m, ((0, h), (0, w))) for m in (real.label, real.known))
        return Thumbnail(pixels, label, known, real.mpp)


@dataclass(frozen=True, slots=True)
class Wholes:
    """Whole thumbnails of any shape, as the segmenter `sam` gives them to its network.

    Attributes:
        frame_px: Side of the network's square. Larger thumbnails are shrunk to it; smaller ones
            stay as they are, for the network's own input magnifies them.
    """

    frame_px: int

    def drawn_shape(self, rng: np.random.Generator) -> tuple[int, int]:
        """Upright; thumbnails are turned afterwards."""
        full = rng.random() < FULL_ODDS
        longer = self.frame_px * (1.0 if full else _between(rng, SMALLEST))
        shorter = longer * _between(rng, NARROWEST)
        return max(LEAST_PX, round(longer)), max(LEAST_PX, round(shorter))

    def varied(self, rng: np.random.Generator, real: Thumbnail) -> Thumbnail:
        """All of it, in other light."""
        whole = self.validated(real)
        return replace(whole, pixels=_lit(rng, whole.pixels))

    def validated(self, real: Thumbnail) -> Thumbnail:
        """At its own size, or shrunk to the frame; a pixel is what at least half of it was."""
        longer = max(real.label.shape)
        if longer <= self.frame_px:
            return real
        return Thumbnail(
            fit_to_frame(real.pixels, self.frame_px),
            _bits_fitted(real.label, self.frame_px),
            _bits_fitted(real.known, self.frame_px),
            real.mpp * longer / self.frame_px,
        )


def _between(rng: np.random.Generator, least: float) -> float:
    """From `least` to 1, each factor as likely as the next."""
    return float(np.exp(rng.uniform(np.log(least), 0)))


def _bits_fitted(bits: NDArray[np.uint8], frame_px: int) -> NDArray[np.uint8]:
    fitted = np.zeros(frame_size(bits.shape, frame_px), np.uint8)
    for bit in (1 << k for k in range(len(CLASSES))):
        cover = fit_to_frame(np.where(bits & bit, 255, 0).astype(np.uint8), frame_px)
        fitted[cover > 127] |= bit
    return fitted


def _lit(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In light of another tint and brightness, with noise."""
    light = pixels * np.exp(rng.normal(0, 0.04, 3))
    light = 255 * (np.clip(light, 0, 255) / 255) ** np.exp(rng.normal(0, 0.15))
    light += rng.normal(0, rng.uniform(0, 2), light.shape)
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)


def _mirrored(plane: np.ndarray, side: int) -> NDArray[np.uint8]:
    """Mirrored on at the right and below until it is `side` wide and high."""
    h, w = (max(0, side - n) for n in plane.shape[:2])
    if not (h or w):
        return np.asarray(plane, np.uint8)
    return np.asarray(cv2.copyMakeBorder(plane, 0, h, 0, w, cv2.BORDER_REFLECT_101), np.uint8)
