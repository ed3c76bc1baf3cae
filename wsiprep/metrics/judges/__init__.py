"""Judges of texts, one file each; the file name is the judge's name. `registry` lists and loads.

A judge is a module with two names:

`Config(Settings)`
    Its own options, given as `--judge-option KEY=VALUE`.
`create(cfg: Config) -> Judge`
    Makes one; see `wsiprep.metrics.judge.Judge`.

A package outside wsiprep adds one under the entry-point group `wsiprep.judges`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("judge", __name__, "wsiprep.judges")
