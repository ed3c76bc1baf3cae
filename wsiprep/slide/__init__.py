"""Opening slides: readers, resolution, identity. `open_slide` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "SlideConfig": "config",
        "open_slide": "open",
        "readers": "catalog",
        "fingerprint": "fingerprint",
        "looks_like_slide": "catalog",
        "slide_id_of": "catalog",
        "slide_suffixes": "catalog",
        "slides_in": "catalog",
    },
)
