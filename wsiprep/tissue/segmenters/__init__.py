"""Segmenters, one file each; the file name is the segmenter's name. `registry` lists and loads.

A segmenter is a module with three names:

`VERSION: int`
    Raised when the same settings would give another mask.
`Config(Settings)`
    Its own options, given as `--segmenter-option KEY=VALUE`.
`create(cfg: Config) -> Segmenter`
    Makes one.

A package outside wsiprep adds one under the entry-point group `wsiprep.segmenters`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("segmenter", __name__, "wsiprep.segmenters")
