"""Readers, one file each; the file name is the reader's name. `registry` lists and loads them.

A reader is a module with two names:

`EXTENSIONS: tuple[str, ...]`
    File extensions that a folder search takes for it, lower case with the dot.
`create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> Slide`
    Opens a file or folder, or raises `SlideOpenError`; `reason` goes into `info.reader_reason`.

`_base.BaseSlide` does what all readers share, `_tiled.TiledBase` what those share that decode
stored tiles themselves (`core.contracts.TiledSlide`): tables of where the tiles lie, and a codec.
Patches of such slides are made from tiles that are decoded once.

A package outside wsiprep adds a reader under the entry-point group `wsiprep.readers`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("reader", __name__, "wsiprep.readers")
