"""Settings of tissue detection for kinds of slides, in one place; `--preset` takes them.

A preset gives the settings that the user leaves open: YAML, flags and manifest columns win over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

__all__ = ["PATCH_PRESETS", "PRESETS", "Preset"]

Preset = Literal["biopsy", "resection", "tma", "ihc", "cytology"]

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Thin cores and crumbs: finer thumbnail (of which `net` makes 6 µm/px), small pieces kept,
        # fragments of a core joined. Parallel cores lie hardly farther apart than those: a wider
        # gap takes six of them for one torn section.
        "biopsy": {
            "tissue_mpp": 4.0,
            "min_tissue_area": 0.01,
            "min_hole_area": 0.005,
            "section_gap": 400.0,
        },
        # Large sections: crumbs beside them are debris, small lumina belong to the tissue.
        "resection": {
            "min_tissue_area": 0.5,
            "min_hole_area": 0.05,
            "smooth": 16.0,
            "section_gap": 300.0,
        },
        # Cores of 0.6 to 2 mm, close together, some nearly lost: each is a section of its own.
        "tma": {
            "tissue_mpp": 4.0,
            "min_tissue_area": 0.03,
            "min_hole_area": 0.02,
            "section_gap": 100.0,
        },
        # Pale counterstain between the stained cells: larger gaps filled, ragged outlines smoothed.
        "ihc": {
            "min_tissue_area": 0.05,
            "min_hole_area": 0.05,
            "smooth": 16.0,
        },
        # Lone cells and clusters, which `net` never saw and takes for dust; the whole deposit is
        # one section. A cell covers a hundredth of a patch: see PATCH_PRESETS.
        "cytology": {
            "segmenter": "otsu",
            "segmenter_option": ("thin_um=4", "close_um=20"),
            "tissue_mpp": 4.0,
            "min_tissue_area": 0.0001,
            "min_hole_area": 0.0001,
            "holes": "remove",
            "section_gap": 2000.0,
        },
    }
)
"""Preset -> setting -> value; a setting that is not named keeps its default."""

PATCH_PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {"cytology": {"min_tissue": 0.01}}
)
"""What goes with a preset where patches are placed."""

if set(PRESETS) != set(get_args(Preset)):
    raise TypeError("every preset needs its settings")
