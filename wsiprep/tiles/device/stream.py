"""Batches of patches made on the device that encodes them: only JPEG bytes travel there.

Threads fetch stored tiles; one thread hands the JPEGs of a batch to a decoder (`decode.py`), cuts
the patches as the schedule says (`schedule.py`) and shrinks them (`area.py`), all on the device.
The host decodes what the decoder gives back, and its verdict on a damaged tile is the one that
counts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import JpegSlide, Slide
from wsiprep.core.errors import DeviceError
from wsiprep.core.types import OnBadTile, PatchGrid, ReadPlan
from wsiprep.tiles.device.decode import JpegDecoder
from wsiprep.tiles.device.make import DeviceJob, DeviceMaker, Fetched
from wsiprep.tiles.make import pieces_of
from wsiprep.tiles.schedule import Unit
from wsiprep.tiles.times import ReadTimes
from wsiprep.tiles.units import (
    TILE_BYTES,
    UNIT_PATCHES,
    Handles,
    Span,
    batches_ahead,
    stretches_of,
    units_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DeviceBatch", "stream_on_device", "why_on_host"]

UNIT_BYTES = 32 << 20
"""Pixels cut at a time; some five times that, where they are shrunk in float32."""
FETCH_TILES = 8
"""Tiles a thread fetches at a go."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A `core.types.TileBatch` whose pixels are on a device.

    Attributes:
        index: int64 (B,), rows of the grid.
        pixels: uint8 (B, T, T, 3) RGB; what the consumer's current stream does next waits for it.
        ok: bool (B,), on the host; False where the tile could not be read (its pixels are white).
    """

    index: NDArray[np.int64]
    pixels: Tensor
    ok: NDArray[np.bool_]


def why_on_host(slide: Slide, plan: ReadPlan) -> str | None:
    """Why the patches of a slide are decoded on the host in any case; None where they are not.

    It depends on the slide and the plan alone, so the answer is the same on every machine.
    """
    if plan.read_px < plan.patch_px:
        return "its patches are magnified"
    if not isinstance(slide, JpegSlide):
        return f"reader '{slide.info.reader}' gives no access to stored tiles"
    if not slide.stores_jpeg(plan.level):
        return f"level {plan.level} is not stored as JPEG tiles"
    return None


def stream_on_device(
    open_slide: Callable[[], Slide],
    grid: PatchGrid,
    spans: Sequence[Span],
    decoder: JpegDecoder,
    *,
    workers: int,
    on_bad_tile: OnBadTile = "fail",
    times: ReadTimes | None = None,
) -> Generator[DeviceBatch]:
    """Yield the pixels of spans of grid rows on the device, in the order of the spans.

    As `stream_tiles`, for a slide that `why_on_host` has no objection to. Patches that are not
    resized are the decoder's pixels, byte for byte; shrunk ones are within a level of what the
    host would make of these.

    The first tile that the device decodes is decoded on the host, too: a decoder that ignores
    whether a JPEG is RGB or YCbCr is refused. What a decoder does with damaged data is its own
    affair; a tile without its end marker, and one that it does not decode or gives in another
    size, is left to the host.

    Memory on the device: as many batches as `stream_tiles` makes in advance, `TILE_BYTES` of
    tiles that units share or those of a unit if that is more, the other tiles of a unit, and some
    5 * `UNIT_BYTES` to shrink patches.

    Args:
        open_slide: Opens a new handle; called once in each thread, and once here.
        grid: The patches.
        spans: (start, stop) rows of each batch.
        decoder: Decodes; its device is where the pixels are made.
        workers: Fetching threads, at least 1.
        on_bad_tile: `fail` raises; `mask` gives white pixels with `ok` False.
        times: Filled in as the stream goes. Work on a GPU is queued, so `decode_s` and `cut_s`
            are what the host spends on them.

    Raises:
        SlideReadError: a tile cannot be decoded, or a patch lies on absent tiles alone, and
            `on_bad_tile` is `fail`; or the decoder shows other colours than the host.
        DeviceError: the device has no memory for it.
    """
    times = ReadTimes() if times is None else times
    plan, stopped = grid.plan, threading.Event()
    unit = max(1, UNIT_BYTES // (plan.read_px**2 * 3))
    largest = max((stop - start for start, stop in spans), default=1)
    ahead = batches_ahead(workers, largest, UNIT_PATCHES, plan.patch_px)
    handles, queue = Handles(open_slide), _Queue(decoder.device)
    fetching = ThreadPoolExecutor(workers, thread_name_prefix="wsiprep-read")
    decoding = ThreadPoolExecutor(1, thread_name_prefix="wsiprep-decode")
    waiting: deque[Future[tuple[DeviceBatch, Any]]] = deque()

    def finished() -> DeviceBatch:
        began = time.perf_counter()
        batch, done = waiting.popleft().result()
        times.add(wait_s=time.perf_counter() - began)
        queue.hand_over(batch.pixels, done)
        return batch

    job = DeviceJob(
        grid, decoder, handles.get, on_bad_tile, stopped, times, TILE_BYTES, threading.Event()
    )
    try:
        for stretch in stretches_of(spans, pieces_of(handles.get(), plan)):
            rows, bounds = units_of(stretch, unit)
            maker = DeviceMaker(job, rows, bounds)
            number = 0
            for start, stop in stretch:
                parts = []
                for _ in range(start, stop, unit):
                    work = maker.tiles.unit(number)
                    groups = range(0, len(work.own), FETCH_TILES)
                    fetched = [
                        fetching.submit(maker.fetch, work.own[k : k + FETCH_TILES]) for k in groups
                    ]
                    parts.append((work, fetched))
                    number += 1
                waiting.append(decoding.submit(_make, maker, decoder, queue, (start, stop), parts))
                if len(waiting) > ahead:
                    yield finished()
        while waiting:
            yield finished()
    finally:
        stopped.set()
        decoding.shutdown(wait=False, cancel_futures=True)
        fetching.shutdown(wait=True, cancel_futures=True)
        decoding.shutdown(wait=True)
        handles.close()


class _Queue:
    """Where the decoding thread queues its work: on CUDA, a stream beside the encoder's."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._torch: Any = torch
        self._stream: Any = self._torch.cuda.Stream(device) if device.type == "cuda" else None

    def current(self) -> AbstractContextManager[Any]:
        """Within it, work of this thread is queued here."""
        if self._stream is None:
            return nullcontext()
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return context

    def mark(self) -> Any:
        """All that was queued so far."""
        return None if self._stream is None else self._stream.record_event()

    def hand_over(self, pixels: Tensor, done: Any) -> None:
        """Let what the calling thread queues next wait for `done`, and own `pixels`."""
        if done is None:
            return
        consumer = self._torch.cuda.current_stream(pixels.device)
        consumer.wait_event(done)
        pixels.record_stream(consumer)  # else its memory is used again before it was read


Part = tuple[Unit, list[Future[list[Fetched]]]]


def _make(
    maker: DeviceMaker, decoder: JpegDecoder, queue: _Queue, span: Span, parts: list[Part]
) -> tuple[DeviceBatch, Any]:
    """A batch and the mark behind it; in the decoding thread."""
    import torch

    index = np.arange(*span, dtype=np.int64)
    ok = np.ones(len(index), np.bool_)
    try:
        with queue.current():
            made, first = [], 0
            for work, fetched in parts:
                maker.decode([tile for job in fetched for tile in job.result()])
                part = slice(first, first + len(work.whole))
                made.append(maker.cut(work, index[part], ok[part]))
                first = part.stop
            pixels = made[0] if len(made) == 1 else torch.cat(made)
            return DeviceBatch(index, pixels, ok), queue.mark()
    except torch.cuda.OutOfMemoryError as err:
        raise DeviceError(
            f"{decoder.device} has no memory to decode tiles in.",
            stage="tiles",
            hint="Free the device, lower --batch-size, or pass --decode cpu.",
        ) from err
