"""Patches of a stretch of a grid made on a device: tiles fetched by threads, the rest by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import JpegSlide, Slide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import OnBadTile, PatchGrid
from wsiprep.tiles.device.area import shrink
from wsiprep.tiles.device.decode import JpegDecoder
from wsiprep.tiles.job import WHITE, no_tile
from wsiprep.tiles.scaled import level_corners
from wsiprep.tiles.schedule import Schedule, Unit, Use, schedule
from wsiprep.tiles.times import ReadTimes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeviceJob", "DeviceMaker", "Fetched"]

COLOUR_LEVELS = 8.0
"""Decoders differ by a level or two on average; RGB taken for YCbCr by tens."""
_EOI = b"\xff\xd9"
_MAX_PADDING_BYTES = 64


@dataclass(frozen=True, slots=True, eq=False)
class DeviceJob:
    """What makers of all stretches of a stream share.

    Attributes:
        grid: The patches.
        decoder: Decodes, where the patches are made.
        handle: Gives the slide that the calling thread may use.
        on_bad_tile: Raise where a patch cannot be read, or make it white and not ok.
        stopped: Set when nobody waits for the patches any more.
        times: Where time spent is added.
        tile_bytes: Decoded tiles that may be held at a time.
        colours: Set once the decoder has shown the right colours.
    """

    grid: PatchGrid
    decoder: JpegDecoder
    handle: Callable[[], Slide]
    on_bad_tile: OnBadTile
    stopped: threading.Event
    times: ReadTimes
    tile_bytes: int
    colours: threading.Event


@dataclass(frozen=True, slots=True)
class Fetched:
    """A stored tile: its bytes (empty: absent), the same as a JPEG, or what went wrong."""

    loan: int
    tile: int
    data: bytes
    jpeg: bytes
    error: SlideReadError | None = None


class DeviceMaker:
    """Fetches, decodes and cuts a stretch of the grid. Tiles lent belong to the decoding thread.

    Args:
        job: The stream.
        rows: int64 (patches,), rows of the grid.
        bounds: int64 (units + 1,), first patch of each unit.
    """

    def __init__(self, job: DeviceJob, rows: NDArray[np.int64], bounds: NDArray[np.int64]) -> None:
        self._job, self._plan = job, job.grid.plan
        slide = self._slide()
        tiling, scale = slide.tiling(self._plan.level), slide.info.downsamples[self._plan.level]
        self._shape = (tiling.tile.height, tiling.tile.width, 3)
        self.tiles: Schedule = schedule(
            level_corners(job.grid, scale, rows),
            bounds,
            self._plan.read_px,
            slide.info.level_sizes[self._plan.level],
            tiling,
            at_once=1,
            budget=job.tile_bytes // (tiling.tile.area * 3),
        )
        self._left = self.tiles.users.tolist()
        # None is white: a tile that the file declares absent.
        self._lent: dict[int, Tensor | SlideReadError | None] = {}

    def _slide(self) -> JpegSlide:
        slide = self._job.handle()
        assert isinstance(slide, JpegSlide)  # noqa: S101 - `why_on_host` has looked
        return slide

    def fetch(self, tiles: list[Use]) -> list[Fetched]:
        """Fetch tiles and make them whole; in a fetching thread."""
        began, slide, level, fetched = time.perf_counter(), self._slide(), self._plan.level, []
        for loan, tile, *_ in tiles:
            if self._job.stopped.is_set():
                break
            try:
                data = slide.fetch_tile(level, tile)
                jpeg = slide.jpeg_tile(level, tile, data) if data else b""
                fetched.append(Fetched(loan, tile, data, jpeg))
            except SlideReadError as err:
                fetched.append(Fetched(loan, tile, b"", b"", err))
        spent, size = time.perf_counter() - began, sum(len(item.data) for item in fetched)
        self._job.times.add(read_s=spent, bytes=size, tiles=len(fetched))
        return fetched

    def decode(self, fetched: list[Fetched]) -> None:
        """Decode tiles, and lend them."""
        began = time.perf_counter()
        whole = [item for item in fetched if item.jpeg.rfind(_EOI, -_MAX_PADDING_BYTES - 2) >= 0]
        images = self._job.decoder.decode([item.jpeg for item in whole]) if whole else []
        decoded = {item.loan: image for item, image in zip(whole, images, strict=True)}
        for item in fetched:
            if item.error is not None or not item.data:
                self._lent[item.loan] = item.error
                continue
            image = decoded.get(item.loan)
            if image is None or tuple(image.shape) != self._shape:
                self._lent[item.loan] = self._on_host(item)
                self._job.times.add(host_tiles=1)
                continue
            self._lent[item.loan] = image
            if not self._job.colours.is_set():
                self._check_colours(item, image)
        self._job.times.add(decode_s=time.perf_counter() - began)

    def _on_host(self, item: Fetched) -> Tensor | SlideReadError:
        import torch

        pixels = np.empty(self._shape, np.uint8)
        try:
            self._slide().decode_tile(self._plan.level, item.tile, item.data, pixels)
        except SlideReadError as err:
            return err
        return torch.from_numpy(pixels).to(self._job.decoder.device)

    def _check_colours(self, item: Fetched, image: Tensor) -> None:
        """Refuse a decoder that shows other colours than the host; once for each stream."""
        wanted = self._on_host(item)
        if isinstance(wanted, SlideReadError):
            return  # damaged in a way that the device does not mind; the next one will tell
        self._job.colours.set()
        difference = float((image.float() - wanted.float()).abs().mean())
        if difference > COLOUR_LEVELS:
            raise SlideReadError(
                f"decoder '{self._job.decoder.name}' shows tile {item.tile} of level "
                f"{self._plan.level} in other colours than the CPU "
                f"({difference:.0f} levels apart on average).",
                slide=self._slide().info.id,
                stage="tiles",
                hint="Pass --decode cpu.",
            )

    def cut(self, work: Unit, rows: NDArray[np.int64], ok: NDArray[np.bool_]) -> Tensor:
        """Cut the patches of a unit; gives its tiles back.

        Args:
            work: The unit.
            rows: int64 (patches,), rows of the grid.
            ok: bool (patches,), True; set to False where a patch could not be read.

        Returns:
            uint8 (patches, T, T, 3).

        Raises:
            SlideReadError: a patch cannot be read and `on_bad_tile` is `fail`.
        """
        import torch

        began, side = time.perf_counter(), self._plan.read_px
        shape = (len(work.whole), side, side, 3)
        patches = torch.full(shape, WHITE, dtype=torch.uint8, device=self._job.decoder.device)
        bad: dict[int, SlideReadError] = {}
        there, missing = set[int](), set[int]()
        for use in (*work.own, *work.borrowed.values()):
            tile, on_it = self._lent[use.loan], {piece[0] for piece in use.pieces}
            if tile is None:
                missing |= on_it
            elif isinstance(tile, SlideReadError):
                bad |= dict.fromkeys(on_it, tile)
            else:
                there |= on_it
                for k, ty, tx, y, x, height, width in use.pieces:
                    part = tile[ty : ty + height, tx : tx + width]
                    patches[k, y : y + height, x : x + width] = part
            self._left[use.loan] -= 1
            if not self._left[use.loan]:
                del self._lent[use.loan]
        for k in missing - there - bad.keys():
            bad[k] = no_tile(self._slide(), self._job.grid, int(rows[k]))
        if bad and self._job.on_bad_tile == "fail":
            raise bad[min(bad)]
        for k in bad:
            patches[k], ok[k] = WHITE, False
        if side != self._plan.patch_px:
            patches = shrink(patches, self._plan.patch_px)
        self._job.times.add(cut_s=time.perf_counter() - began)
        return patches
