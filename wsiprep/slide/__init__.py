"""Opening slides: readers, resolution, identity. `open_slide` is the door."""

from wsiprep.core.lazy import lazy_names

# Not here, where the names are those of modules: `slide.open.readers`, `slide.fingerprint`.
__getattr__, __all__ = lazy_names(
    __name__,
    {
        "SlideConfig": "config",
        "looks_like_slide": "catalog",
        "open_slide": "open",
        "search_folder": "search",
        "slide_id_of": "catalog",
        "slide_suffixes": "catalog",
    },
)
