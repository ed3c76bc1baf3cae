"""Tiles through encoders into journals: reading, encoding and writing side by side.

Threads make the batches (`tiles/stream.py`), this thread hands them to the encoders, one thread
writes. Each waits for the next where it must, so memory is bounded: the batches of the stream, one
more than `BEGUN` that are being encoded, and the vectors of `UNWRITTEN` batches.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.contracts import AsyncEncoder, Encoder, Pending, Slide
from wsiprep.core.errors import EncodingError
from wsiprep.core.profile import EncodeTimes
from wsiprep.core.report import Event
from wsiprep.core.types import PatchGrid, TileBatch
from wsiprep.encoders.config import EncoderConfig
from wsiprep.store.journal import Journal
from wsiprep.tasks.steps import Context
from wsiprep.tiles.device.stream import DeviceBatch, stream_on_device
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tiles.times import ReadTimes

__all__ = ["Work", "fill"]

Batch = TileBatch | DeviceBatch
_Beginning = Callable[[Any], Pending]
"""Takes the pixels of a batch."""

BEGUN = 2
"""Batches handed to the encoders at a time: one computes while the next one travels. One, where no
encoder computes by itself: its pixels are not needed any more."""
UNWRITTEN = 4
"""Batches of vectors that may wait to be written."""


@dataclass(frozen=True, slots=True)
class Work:
    """An encoder whose features are not there yet."""

    encoder: Encoder
    key: str
    journal: Journal


@dataclass(frozen=True, slots=True)
class _Begun:
    """A batch, and what each encoder makes of it."""

    batch: Batch
    pending: list[tuple[Work, Pending]]


@dataclass(frozen=True, slots=True)
class _Done:
    """Vectors of an encoder that computes while it is called."""

    vectors: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        return self.vectors


def fill(
    slide: Slide,
    grid: PatchGrid,
    spans: Sequence[tuple[int, int]],
    todo: Sequence[Work],
    cfg: EncoderConfig,
    ctx: Context,
    times: EncodeTimes,
) -> None:
    """Encode spans of rows that some journal lacks.

    A stop lets the batches under way be written first. `times` is filled in, however it ends.

    Raises:
        SlideReadError: a tile cannot be decoded and `on_bad_tile` is `fail`.
        EncodingError: an encoder gave something else than finite vectors of its length.
        DeviceError, OutputError: as encoder and journal do.
        Interrupted: a stop was asked for.
    """
    reading, began = ReadTimes(), time.perf_counter()
    tiles = _batches(slide, grid, spans, todo, cfg, ctx, reading)
    begun: deque[_Begun] = deque()
    begins = [(work, _beginning(work.encoder)) for work in todo]
    at_a_time = BEGUN if any(isinstance(work.encoder, AsyncEncoder) for work in todo) else 1
    writer = _Writer(slide.info.id)
    try:
        with writer:
            for batch in tiles:
                started = time.perf_counter()
                begun.append(_begin(batch, begins))
                times.encode_s += time.perf_counter() - started
                if len(begun) >= at_a_time:
                    _finish(begun.popleft(), writer, times)
                _tell(writer, times, slide, ctx)
                if ctx.stop.asked:
                    break
            while begun:
                _finish(begun.popleft(), writer, times)
            started = time.perf_counter()
            writer.close()
            times.blocked_s += time.perf_counter() - started
        _tell(writer, times, slide, ctx)
    finally:
        tiles.close()
        times.tiles, times.write_s = writer.written, writer.busy_s
        times.seconds = time.perf_counter() - began
        times.stored_tiles = reading.tiles
        for name in ("read_s", "decode_s", "patch_s", "cut_s", "wait_s", "bytes", "host_tiles"):
            setattr(times, name, getattr(reading, name))
    ctx.stop.check()


def _batches(
    slide: Slide,
    grid: PatchGrid,
    spans: Sequence[tuple[int, int]],
    todo: Sequence[Work],
    cfg: EncoderConfig,
    ctx: Context,
    times: ReadTimes,
) -> Generator[TileBatch] | Generator[DeviceBatch]:
    """Pixels where they are to be decoded: in memory that the encoders like, or on their device."""
    if cfg.decode in ctx.decoders:
        return stream_on_device(
            slide.reopen, grid, spans, ctx.decoders[cfg.decode], workers=ctx.workers,
            on_bad_tile=ctx.on_bad_tile, times=times,
        )  # fmt: skip
    encoders = [work.encoder for work in todo]
    allocate = next((e.allocate for e in encoders if isinstance(e, AsyncEncoder)), None)
    return stream_tiles(
        slide.reopen, grid, spans, workers=ctx.workers, on_bad_tile=ctx.on_bad_tile,
        allocate=allocate, times=times, scaled=cfg.decode == "scaled",
    )  # fmt: skip


def _beginning(encoder: Encoder) -> _Beginning:
    """How an encoder is handed a batch; asked once, for protocols are slow to tell."""
    if isinstance(encoder, AsyncEncoder):  # `load_decoders` looks where pixels are on a device
        return encoder.begin
    return lambda pixels: _Done(encoder(pixels))


def _begin(batch: Batch, begins: Sequence[tuple[Work, _Beginning]]) -> _Begun:
    start, stop = int(batch.index[0]), int(batch.index[-1]) + 1
    return _Begun(
        batch,
        [
            (work, beginning(batch.pixels))
            for work, beginning in begins
            if not work.journal.done[start:stop].all()
        ],
    )


def _tell(writer: _Writer, times: EncodeTimes, slide: Slide, ctx: Context) -> None:
    """Progress is what is written: a kill costs none of it."""
    new = writer.written - times.tiles
    times.tiles += new
    if new:
        ctx.on_event(Event("tiles", slide=slide.info.id, done=new))


def _finish(begun: _Begun, writer: _Writer, times: EncodeTimes) -> None:
    for number, (work, pending) in enumerate(begun.pending, start=1):
        started = time.perf_counter()
        vectors = pending.result()
        computed = time.perf_counter()
        writer.put(work, begun.batch, vectors, last=number == len(begun.pending))
        times.encode_s += computed - started
        times.blocked_s += time.perf_counter() - computed


@dataclass(frozen=True, slots=True)
class _Item:
    """Vectors of a batch, whose pixels are not kept; `done` patches are complete with them."""

    work: Work
    start: int
    vectors: NDArray[np.float32]
    ok: NDArray[np.bool_]
    done: int


class _Writer:
    """A thread that checks vectors and appends them to journals.

    What went wrong in it is raised by the next `put`, or by `close`.

    Attributes:
        busy_s: Seconds it was at work.
        written: Patches of which all vectors are written.
    """

    def __init__(self, slide: str) -> None:
        self.busy_s = 0.0
        self.written = 0
        self._slide = slide
        self._queue: queue.Queue[_Item | None] = queue.Queue(UNWRITTEN)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="wsiprep-write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, work: Work, batch: Batch, vectors: NDArray[np.float32], *, last: bool) -> None:
        """Hand over vectors of a batch, the `last` ones or not; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        done = len(batch.index) if last else 0
        self._queue.put(_Item(work, int(batch.index[0]), vectors, batch.ok, done))

    def __exit__(self, *_: object) -> None:
        self._end()

    def close(self) -> None:
        """Wait until all is written; raises what went wrong."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:  # take the rest, so that nobody waits for room
                continue
            began = time.perf_counter()
            try:
                item.work.journal.append(item.start, _stored(item, self._slide), item.ok)
                self.written += item.done
            except BaseException as err:  # noqa: BLE001 - raised again in the caller's thread
                self._error = err
            self.busy_s += time.perf_counter() - began


def _stored(item: _Item, slide: str) -> NDArray[np.floating[Any]]:
    """Vectors of a batch in the dtype of the store; zero where the tile is not ok.

    Raises:
        EncodingError: a vector has another length, or a value that is not finite.
    """
    encoder, vectors = item.work.encoder, item.vectors
    name, count = encoder.spec.name, len(item.ok)
    if vectors.shape != (count, encoder.spec.dim):
        raise EncodingError(
            f"'{name}' returned {vectors.shape}, expected {(count, encoder.spec.dim)}.",
            slide=slide,
            stage="encoder",
            hint="The encoder's declared dim is wrong.",
        )
    vectors = np.where(item.ok[:, None], vectors, 0)
    with np.errstate(over="ignore"):
        stored = vectors.astype(item.work.journal.dtype)
    bad = int((~np.isfinite(stored)).any(axis=1).sum())
    if bad:
        overflow = bool(np.isfinite(vectors).all())
        raise EncodingError(
            f"'{name}' gave values that are not finite for {bad} of {count} patches of a batch.",
            slide=slide,
            stage="encoder",
            hint="They exceed float16: pass --store-dtype float32."
            if overflow
            else "Try --precision fp32.",
        )
    return stored
