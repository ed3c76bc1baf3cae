"""Networks on feature grids: tensors in, tensors out, no files."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "Bag": "bags",
        "PackedBags": "bags",
        "SlideOut": "bags",
        "pack": "bags",
    },
)
