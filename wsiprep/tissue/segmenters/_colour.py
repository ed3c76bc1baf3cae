"""Colour of a brightfield thumbnail: what the glass looks like, and how much each pixel absorbs.

By Beer and Lambert the optical density of a stain is its amount times a colour of its own, so in
optical density a pale and a strong stain have the same hue and differ in length only. Density is
split into a grey part and two opponent axes (as in the HSD model of van der Laak et al., Cytometry
2000): shading, dust, scratches and coverslip edges darken all channels alike and stay near zero on
the opponent axes, however dark they are; every dye of histology moves along them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.tissue.regions import dilate, label

__all__ = [
    "DARK_NOTE",
    "Density",
    "Glass",
    "black_bars",
    "black_frame",
    "brightest",
    "dark_background",
    "densities",
    "find_glass",
    "level_background",
    "with_blur",
]

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# Rows: grey density, red against green and blue, green against blue; the last two orthonormal.
_OPPONENT = np.array(
    [
        [1 / 3, 1 / 3, 1 / 3],
        [2 / 6**0.5, -1 / 6**0.5, -1 / 6**0.5],
        [0.0, 1 / 2**0.5, -1 / 2**0.5],
    ],
    dtype=np.float32,
)
BLACK = 45
"""Brightest channel of what may be a black border."""
BAR_SHARE = 0.9
"""Of a side of the picture that a bar runs along."""
MIN_GLASS_LUMA = 140
MAX_GLASS_CAST = 0.13
"""Opponent length of glass against a white light; a strong yellow cast has some 0.09."""
DEFAULT_WHITE = 240.0
DARK_NOTE = (
    "dark background: looks like fluorescence, which this segmenter does not read;"
    " no tissue was taken. Give a mask with --mask to process it."
)


@dataclass(frozen=True, slots=True)
class Glass:
    """Colour of empty glass.

    Attributes:
        rgb: float64 (3,), 0 to 255.
        seen: intp (n,), flat positions of a sample of the pixels that gave the colour; empty
            where no glass was found and `rgb` is the image's white.
        padding: bool (h, w), pure white that no lamp made: filled in around the scanned part.
    """

    rgb: NDArray[np.float64]
    seen: NDArray[np.intp]
    padding: Mask


@dataclass(frozen=True, slots=True)
class Density:
    """Optical density relative to the glass.

    Attributes:
        grey: float32 (h, w), mean density of the channels.
        axes: float32 (h, w, 2), opponent axes.
    """

    grey: Plane
    axes: Plane

    @property
    def chroma(self) -> Plane:
        """float32 (h, w), length on the opponent axes: amount of dye."""
        return np.asarray(cv2.magnitude(self.axes[..., 0], self.axes[..., 1]))

    @property
    def hue_deg(self) -> Plane:
        """float32 (h, w), angle on the opponent axes, 0 to 360."""
        return np.asarray(cv2.phase(self.axes[..., 0], self.axes[..., 1], angleInDegrees=True))

    def coarser(self, factor: int) -> Density:
        """Averages over squares of `factor` pixels."""
        h, w = self.grey.shape
        small = (max(1, round(w / factor)), max(1, round(h / factor)))
        return Density(_shrunk(self.grey, small), _shrunk(self.axes, small))


def find_glass(thumbnail: NDArray[np.uint8], usable: Mask) -> Glass:
    """Estimate the colour of the empty glass from the image itself.

    Glass is the brightest colour that many smooth pixels share. Where no bright, smooth and
    nearly neutral pixels exist (a thumbnail filled by tissue), the light is taken as white.

    Args:
        thumbnail: uint8 (h, w, 3) RGB.
        usable: bool (h, w), False on black borders.
    """
    luma = np.asarray(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    white = (luma == 255) & usable
    # Statistics need no more than some half a million pixels, spread evenly.
    step = max(1, round((luma.size / 500_000) ** 0.5))
    grid = np.zeros(luma.shape, dtype=np.bool_)
    grid[::step, ::step] = True
    sample = np.flatnonzero(grid & usable & (luma >= MIN_GLASS_LUMA))
    colour = thumbnail.reshape(-1, 3)[sample]
    neutral = _cast(colour) <= MAX_GLASS_CAST
    sample, colour = sample[neutral], colour[neutral]
    variance = _variance(luma).ravel()[sample]
    # A noisy camera makes all glass a little rough; tissue is rougher by far.
    limit = float(np.clip(2 * np.percentile(variance, 10), 4.0, 49.0)) if sample.size else 0.0
    smooth = variance <= limit
    sample, colour = sample[smooth], colour[smooth]
    total = -(-luma.shape[0] // step) * -(-luma.shape[1] // step)
    padding = np.zeros_like(white)
    unpadded = ~white.ravel()[sample]
    if unpadded.sum() >= 0.1 * total and not unpadded.all():
        padding, sample, colour = white, sample[unpadded], colour[unpadded]
    if len(sample) < max(1.0, 0.002 * total):
        level = DEFAULT_WHITE
        if usable.any():
            level = max(level, float(np.percentile(luma[usable][:: step**2], 99.5)))
        return Glass(np.full(3, level), np.zeros(0, dtype=np.intp), padding)
    shade = luma.ravel()[sample].astype(np.int16)
    mass = np.convolve(np.bincount(shade, minlength=256).astype(np.float64), np.ones(9), "same")
    peaks = (mass >= np.roll(mass, 1)) & (mass >= np.roll(mass, -1)) & (mass >= 0.2 * mass.max())
    near = np.abs(shade - int(np.flatnonzero(peaks)[-1])) <= 4
    rgb = np.median(colour[near], axis=0).astype(np.float64)
    return Glass(np.maximum(rgb, 1.0), sample[near], padding)


def densities(thumbnail: NDArray[np.uint8], glass: Glass, sigma_px: float) -> Density:
    """Optical density of every pixel relative to the glass, smoothed.

    Args:
        thumbnail: uint8 (h, w, 3) RGB.
        glass: Colour of density zero; what is brighter counts as glass.
        sigma_px: Gaussian smoothing in pixels; below 0.3 there is none.
    """
    values = np.maximum(np.arange(256, dtype=np.float64), 1.0)
    # The small negative room lets noise on glass cancel out when it is smoothed.
    table = np.maximum(-np.log10(values[:, None] / glass.rgb[None, :]), -0.02)
    density = cv2.LUT(thumbnail, table.astype(np.float32)[None])
    planes = np.asarray(cv2.transform(density, _OPPONENT), dtype=np.float32)
    if sigma_px >= 0.3:
        planes = _blurred(planes, sigma_px)
    return Density(planes[..., 0], np.ascontiguousarray(planes[..., 1:]))


def level_background(
    density: Density, background: Mask, cell_px: int, sigma_cells: float, most: float
) -> Density:
    """Take a slowly varying cast out of the opponent axes.

    Args:
        density: Densities relative to one glass colour for the whole slide.
        background: bool (h, w), pixels believed to be glass.
        cell_px: Side of the squares that are averaged, pixels.
        sigma_cells: Gaussian smoothing over squares.
        most: Longest correction, so that faint tissue taken for glass is not explained away.
    """
    h, w = background.shape
    small = (max(1, w // cell_px), max(1, h // cell_px))
    share = background.astype(np.float32)
    axes = _shrunk(density.axes * share[..., None], small)
    weight = _shrunk(share, small)
    # The rim of tissue is blurred into the glass beside it: only squares of clear glass count.
    clear = (weight > 0.97).astype(np.float32)
    axes = _blurred(axes * clear[..., None], sigma_cells)
    weight = _blurred(weight * clear, sigma_cells)
    drift = axes / np.maximum(weight, 1e-3)[..., None]
    length = np.linalg.norm(drift, axis=2, keepdims=True)
    drift = (drift * np.minimum(1.0, most / np.maximum(length, 1e-6))).astype(np.float32)
    wide = np.asarray(cv2.resize(drift, (w, h), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    return Density(density.grey, density.axes - wide.reshape(h, w, 2))


def _shrunk(plane: Plane, size: tuple[int, int]) -> Plane:
    """Area averages on a grid of (width, height)."""
    small = np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    return small.reshape(size[1], size[0], *plane.shape[2:])


def _blurred(plane: Plane, sigma: float) -> Plane:
    blurred = cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, dtype=np.float32).reshape(plane.shape)


def _variance(luma: NDArray[np.uint8]) -> Plane:
    """Variance of luma in 5 x 5 pixels."""
    mean = cv2.boxFilter(luma, cv2.CV_32F, (5, 5), borderType=cv2.BORDER_REFLECT)
    square = cv2.sqrBoxFilter(luma, cv2.CV_32F, (5, 5), borderType=cv2.BORDER_REFLECT)
    return np.asarray(np.maximum(square - mean * mean, 0))


def _cast(colour: NDArray[np.uint8]) -> Plane:
    """Opponent length of (n, 3) colours against a white light."""
    density = -np.log10(np.maximum(colour, 1).astype(np.float32) / 255.0)
    return np.asarray(np.linalg.norm(density @ _OPPONENT[1:].T, axis=1))


def dark_background(thumbnail: NDArray[np.uint8]) -> bool:
    """Whether this looks like fluorescence: mostly dark, and hardly any bright pixel."""
    luma = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    return bool((luma < 60).mean() > 0.5 and (luma > 130).mean() < 0.02)


def black_bars(thumbnail: NDArray[np.uint8], mpp: float) -> Mask:
    """Straight black bars along whole sides of the picture.

    Ink that lies against a bar is not of it: a bar is as deep as its median.

    Args:
        thumbnail: uint8 (h, w, 3) RGB.
        mpp: Its µm/px.

    Returns:
        bool (h, w), with their blurred edges.
    """
    dark = brightest(thumbnail) <= BLACK
    bars = np.zeros_like(dark)
    for turns in range(4):
        side, found = np.rot90(dark, turns), np.rot90(bars, turns)
        if side[0].mean() >= BAR_SHARE:
            depth = int(np.median(np.where(side.all(axis=0), len(side), side.argmin(axis=0))))
            found[:depth] |= side[:depth]
    return with_blur(bars, mpp)


def black_frame(thumbnail: NDArray[np.uint8], mpp: float) -> Mask:
    """Black that frames the scan: what reaches along a tenth of the picture's border.

    Args:
        thumbnail: uint8 (h, w, 3) RGB.
        mpp: Its µm/px.

    Returns:
        bool (h, w), with its blurred edge.
    """
    dark = brightest(thumbnail) <= BLACK
    # A pen stroke may run off the image; it touches a short stretch of border only.
    least = max(1.0, 0.1 * min(dark.shape))
    if _rim(dark).sum() < least:
        return np.zeros_like(dark)
    count, labels = label(dark)
    along = np.bincount(_rim(labels), minlength=count)
    along[0] = 0
    return with_blur((along >= least)[labels], mpp)


def brightest(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brightest channel of each pixel, uint8 (h, w)."""
    red, green, blue = cv2.split(thumbnail)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


def with_blur(black: Mask, mpp: float) -> Mask:
    """The lens blurs the edge of a border over some pixels, and JPEG rings around it."""
    return dilate(black, max(2.0, 24.0 / mpp)) if black.any() else black


def _rim(plane: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels, each once."""
    return np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])
