"""Pixels of a grid as a stream of batches. `stream_tiles` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "ReadTimes": "times",
        "read_patch": "patch",
        "stream_tiles": "stream",
    },
)
