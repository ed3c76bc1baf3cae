"""The coarse raster on which a layout is drawn: its frame, its noise, its distances."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import Size
from wsiprep.synth.texture import F32, as_float, spectral_noise, value_noise

__all__ = ["Canvas"]

_CELL_UM = 4.0
_MAX_CELLS = 2048


class Canvas:
    """A raster of some 4 µm a cell (coarser on very large slides) and the random source of a plan.

    Attributes:
        step: Samples of the half grid along a side of a cell; 2 * step level-0 pixels.
        cell_um: The same in µm.
        cols: Cells along x.
        rows: Cells along y.
        width_um: Width of the slide.
        height_um: Height of the slide.
        scale_um: The smaller of the two.
        rng: Random source.
        x_um: float32 (rows, cols), centre of each cell.
        y_um: The same down.
    """

    def __init__(self, seed: int, size: Size, mpp: float) -> None:
        half_um = 2 * mpp
        whole = max(size.width, size.height) / 2
        self.step = max(1, round(_CELL_UM / half_um), int(np.ceil(whole / _MAX_CELLS)))
        self.cell_um = self.step * half_um
        self.cols = int(np.ceil(size.width / 2 / self.step))
        self.rows = int(np.ceil(size.height / 2 / self.step))
        self.width_um, self.height_um = size.width * mpp, size.height * mpp
        self.scale_um = min(self.width_um, self.height_um)
        self.rng = np.random.default_rng([seed, 1])
        self._noise = spectral_noise(self.rng, 256, 1.2, 1.2)
        ys, xs = np.mgrid[: self.rows, : self.cols].astype(np.float32)
        self.x_um = as_float((xs + 0.5) * self.cell_um)
        self.y_um = as_float((ys + 0.5) * self.cell_um)

    def noise(self, wavelength_um: float) -> F32:
        """Unit-variance noise with bumps of about this size; each call gives another one."""
        step = max(1, round(wavelength_um / 5 / self.cell_um))
        dx, dy = (int(v) for v in self.rng.integers(0, 256, 2) * step)
        return value_noise(self._noise, step, (dx, dy, self.cols, self.rows))

    def distance(self, inside: NDArray[np.bool_]) -> F32:
        """Signed distance in µm to the border of a region, positive inside."""
        mask = inside.astype(np.uint8)
        far = np.float32(self.scale_um)
        if not mask.any():
            return np.full(mask.shape, -far, np.float32)
        if mask.all():
            return np.full(mask.shape, far, np.float32)
        within = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        without = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
        return as_float((within - without) * np.float32(self.cell_um))

    def blob(self, centre: tuple[float, float], radii: tuple[float, float], lobing: float) -> F32:
        """Signed distance (roughly, in µm) to a lobed ellipse."""
        dx = (self.x_um - centre[0]) / radii[0]
        dy = (self.y_um - centre[1]) / radii[1]
        r, theta = cv2.cartToPolar(as_float(dx), as_float(dy))
        border = np.ones_like(r)
        for k in range(2, 7):
            share = lobing * self.rng.standard_normal() / k
            border += np.float32(share) * np.cos(k * theta + self.rng.uniform(0, 2 * np.pi))
        return as_float((border - r) * min(radii))
