"""Colour from stain: the Beer-Lambert law.

A stain of concentration c lets the share 10 ** -(c * v) of the light through, v being the optical
density of a unit of it in red, green and blue; stains in one place add up their densities.

Source:
    Ruifrok, Johnston (2001), Quantification of histochemical staining by color deconvolution,
    Analytical and Quantitative Cytology and Histology 23(4), 291-299.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.texture import F32, as_float

__all__ = ["HE", "StainPair", "transmit"]


@dataclass(frozen=True, slots=True)
class StainPair:
    """Optical density in red, green and blue of a unit of each of two stains.

    Attributes:
        nuclear: The stain of nuclei: haematoxylin.
        counter: The counterstain: eosin; a brown chromogen would stand here.
    """

    nuclear: tuple[float, float, float]
    counter: tuple[float, float, float]

    def density(self, nuclear: F32, counter: F32) -> F32:
        """Optical density of two concentrations.

        Args:
            nuclear: float32 (h, w), concentration of the nuclear stain.
            counter: float32 (h, w), of the counterstain.

        Returns:
            float32 (h, w, 3), base-10 optical density of red, green and blue.
        """
        mix = np.array([self.nuclear, self.counter], np.float32).T
        return as_float(cv2.transform(cv2.merge([nuclear, counter]), np.ascontiguousarray(mix)))


HE = StainPair(nuclear=(0.60, 0.72, 0.35), counter=(0.15, 0.88, 0.45))
"""Between the vectors of Ruifrok and Johnston, (0.65, 0.70, 0.29) and (0.07, 0.99, 0.11), and the
reference of Macenko et al. (2009), A method for normalizing histology slides for quantitative
analysis, ISBI, (0.56, 0.72, 0.41) and (0.22, 0.80, 0.56): the former give indigo nuclei on magenta,
the latter the brownish tone of old sections."""


def transmit(light: F32, density: F32) -> NDArray[np.float32]:
    """Light that comes through.

    Args:
        light: float32 (h, w, 3), light without stain, 0 to 255.
        density: float32 (h, w, 3), base-10 optical density.
    """
    through = cv2.exp(density * np.float32(-np.log(10.0)))
    return as_float(light * through)
