"""wsiprep: whole-slide images in, chunked Zarr feature grids out."""

from wsiprep.core.lazy import lazy_names

__version__ = "0.1.0"

__getattr__, _names = lazy_names(
    __name__,
    {
        "FeatureStore": "store",
        "open_slide": "slide",
        "detect_tissue": "tissue",
        "make_grid": "grid",
        "load_encoder": "encoders",
        "PrepareConfig": "tasks.config",
        "prepare": "tasks.prepare",
    },
)
__all__ = [*_names, "__version__"]
