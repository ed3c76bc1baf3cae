"""Formats of public sets, one file each, to the manifest; `formats` lists and loads them.

A format is a module with three names, and imports nothing heavy; the first line of its docstring
says which files it takes:

`SPLIT: Literal["given", "patient", "found"]`
    What `--split auto` means: splits as the set has them, or made by patient; found, of files that
    are the user's own: given where there are any.
`records(source: Source) -> Iterator[Record]`
    The records of a file, with where each stands; see `_records.py`. A file that is not of the
    format at all is a ManifestError.
`sample(record: Record) -> Sample`
    One record as a sample. A ValueError says what is wrong with it, without where.

A built-in format with settings of its own defines `Config`, a subclass of ConvertConfig; it is
then handed to `records(source, cfg)`. `about(source, cfg, samples)` says in the report how a file
was read.

A package outside wsiprep adds one under the entry-point group `wsiprep.text_formats`.
"""

from wsiprep.core.registry import Registry

__all__ = ["formats"]

formats = Registry("format", __name__, "wsiprep.text_formats")
