"""Finding tissue: segmenters, clean-up, masks given by the user. `detect_tissue` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "TissueConfig": "config",
        "detect_tissue": "detect",
        "tissue_geojson": "geojson",
    },
)
