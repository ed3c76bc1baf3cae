"""Thumbnails of slides that never were, with what is on them: to train and to test segmenters.

A `Scene` says what is to be drawn; `draw_scene` sows the scene of a seed and paints it. To extend
the variety, add a stain to `stains.py`, a layout to `layouts.py`, an ink to `ink.py` or a mark to
`marks.py`.
"""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "CLASSES": "labels",
        "Scene": "scene",
        "Thumbnail": "labels",
        "draw_scene": "draw",
        "sample_scene": "scene",
    },
)
