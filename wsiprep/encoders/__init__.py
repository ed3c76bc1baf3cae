"""Patches to vectors: encoder families, weights, devices. `load_encoder` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "EncoderConfig": "config",
        "encoder_specs": "load",
        "load_encoder": "load",
        "parse_name": "load",
        "resolve_device": "load",
    },
)
