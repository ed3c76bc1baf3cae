"""One Zarr group a slide: what is in it is whole, or is not there. See docs/store.md."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "FeatureArray": "features",
        "FeatureStore": "read",
        "HeatMap": "read",
        "SlideStore": "write",
        "claim_store": "claim",
        "find_store": "claim",
        "hold_store": "claim",
        "verify_output": "verify",
    },
)
