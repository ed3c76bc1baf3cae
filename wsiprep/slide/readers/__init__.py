"""Readers, one file each; the file name is the reader's name. `registry` lists and loads them.

A reader is a module with two names:

`EXTENSIONS: tuple[str, ...]`
    File extensions that a folder search takes for it, lower case with the dot.
`create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> Slide`
    Opens a file or folder, or raises `SlideOpenError`; `reason` goes into `info.reader_reason`.

`_base.BaseSlide` does what all readers share. A package outside wsiprep adds one under the
entry-point group `wsiprep.readers`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("reader", __name__, "wsiprep.readers")
