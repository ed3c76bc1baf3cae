"""Synthetic slides: procedural H&E tissue, and a pyramid writer that readers accept."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "CLASS_NAMES": "classes",
        "TISSUE_CLASSES": "classes",
        "SyntheticSlide": "he",
        "TissueClass": "classes",
        "write_pyramid": "write",
        "write_slide": "write",
    },
)
