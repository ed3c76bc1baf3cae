"""Pictures for people: the tissue overlay of a slide."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(__name__, {"encode_jpeg": "overlay", "tissue_overlay": "overlay"})
