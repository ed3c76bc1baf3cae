"""Reader `dicom`: DICOM whole-slide series, each frame fetched and decoded straight to RGB.

A folder of instances or one file of it; frames in JPEG baseline, JPEG 2000 or uncompressed, filling
the level (TILED_FULL) or placed one by one (TILED_SPARSE; white where there is none). Pixels are
those of OpenSlide to the byte, at level 0 and at levels whose downsample is whole, but for files
that say RGB and hold YCbCr (`slide/dicom_colour.py`), which are shown in their right colours.

Stricter than OpenSlide: a JPEG frame that libjpeg complains about is an error, and a level that
lacks frames without saying where does not open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsiprep.core.errors import SlideKindError
from wsiprep.core.types import SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.dicom import is_dicom, slide_instances
from wsiprep.slide.dicom_colour import YCBCR_NOTE
from wsiprep.slide.dicom_frames import defragment
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.readers._base import assemble, one_line
from wsiprep.slide.readers._dicom_levels import DicomLevel, levels_of, resolution_of
from wsiprep.slide.readers._tiled import TiledBase, TileTable, opening

__all__ = ["EXTENSIONS", "DicomSlide", "create"]

EXTENSIONS = (".dcm",)


class DicomSlide(TiledBase):
    """A DICOM whole-slide series.

    Args:
        info: What is known of the slide.
        native_levels: For each level of `info`, the index into `levels`.
        levels: Levels as they are stored.
    """

    def __init__(
        self, info: SlideInfo, native_levels: tuple[int, ...], levels: Sequence[DicomLevel]
    ) -> None:
        files: list[str] = []
        tables: list[TileTable] = []
        for level in levels:
            table = level.table
            numbers = None if table.file is None else table.file + len(files)
            tables.append(
                TileTable(table.tiling, table.offsets, table.counts, table.codec, numbers)
            )
            files += [str(part.path) for part in level.parts]
        super().__init__(info, native_levels, files, tables)
        self._encapsulated = tuple(level.parts[0].encapsulated for level in levels)

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """Bytes of a frame; see `core.contracts.TiledSlide.fetch_tile`."""
        data = super().fetch_tile(level, tile)
        if not self._encapsulated[self._native_levels[level]]:
            return data
        try:
            return defragment(data)
        except ValueError as err:
            raise self._tile_error(level, tile, f"cannot be read ({one_line(err)})") from err


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> DicomSlide:
    """Open a folder of DICOM instances, or one of them.

    Raises:
        SlideKindError: no DICOM whole-slide image.
        SlideOpenError: damaged, or a series that is left to others; says why.
        ResolutionError: the scale is missing, implausible or not square.
        PluginUnavailableError: a library it needs does not import.
    """
    path = Path(uri)
    with opening(slide_id, "dicom"):
        if not path.is_dir() and not is_dicom(path):
            raise SlideKindError("not a DICOM file.", slide=slide_id, stage="slide")
        files = slide_instances(path)
        if not files:
            raise SlideKindError("no DICOM whole-slide image.", slide=slide_id, stage="slide")
        levels = levels_of(files)
    facts = Facts(
        sizes=[(level.size.width, level.size.height) for level in levels],
        raw=resolution_of(levels[0]),
        vendor="dicom",
        notes=(YCBCR_NOTE,) if any(level.mislabelled for level in levels) else (),
    )
    source = Source(slide_id, uri, "dicom", reason, fingerprint(uri))
    return assemble(lambda info, native: DicomSlide(info, native, levels), None, source, facts, cfg)
