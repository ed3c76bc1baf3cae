"""What a plug-in must offer. Contract test suites for each live in `wsiprep.testing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import EncoderSpec, Point, Segmentation, Size, SlideInfo, Tiling

__all__ = [
    "AsyncEncoder",
    "BatchSegmenter",
    "DeviceEncoder",
    "Encoder",
    "JpegSlide",
    "Pending",
    "Segmenter",
    "ShrinkingSlide",
    "Slide",
    "TiledSlide",
]


@runtime_checkable
class Slide(Protocol):
    """An open slide. Not shared between threads, never carried across a fork."""

    @property
    def info(self) -> SlideInfo:
        """Sizes, resolution, identity."""
        ...

    def read(self, origin0: Point, level: int, size: Size) -> NDArray[np.uint8]:
        """Read a region.

        The first level pixel is round(origin0 / downsample) along each axis, halves to even.

        Args:
            origin0: Top-left corner in level-0 pixels; may lie outside the slide.
            level: Pyramid level.
            size: Size in pixels of that level.

        Returns:
            uint8 (size.height, size.width, 3) RGB; white outside the slide, alpha on white.

        Raises:
            SlideReadError: the pixels cannot be decoded, or the level does not exist.
        """
        ...

    def thumbnail(self, mpp: float, bad: set[str] | None = None) -> NDArray[np.uint8]:
        """The whole of level 0 at about `mpp` µm/px, area-averaged.

        Args:
            mpp: µm per pixel.
            bad: Takes a sentence for each stored tile, or other part, that cannot be decoded; it
                is white then. None: it is an error.

        Returns:
            uint8 (h, w, 3) RGB with w = max(1, round(width0 * info.mpp / mpp)), h alike;
            never magnified beyond level 0.

        Raises:
            SlideReadError: a part of the level it is made from cannot be decoded; with `bad`,
                there is nothing but white beside such parts.
        """
        ...

    def reopen(self) -> Slide:
        """A new, independent handle on the same slide, for another thread or process."""
        ...

    def close(self) -> None:
        """Release the handle; closing twice is allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class TiledSlide(Slide, Protocol):
    """A slide whose stored tiles can be fetched and decoded one by one.

    A region that `read` gives is made of these tiles and of nothing else: byte for byte the
    decoded tiles, white outside the level.
    """

    def tiling(self, level: int) -> Tiling:
        """How a level is stored."""
        ...

    def fetch_tile(self, level: int, tile: int) -> bytes:
        """Compressed bytes of a tile; empty where the file declares it absent (it is white).

        A patch of a grid that lies on absent tiles alone counts as one that cannot be read.

        Raises:
            SlideReadError: the bytes are not there.
        """
        ...

    def decode_tile(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode what `fetch_tile` gave.

        Args:
            level: Pyramid level.
            tile: Number of the tile, for messages.
            data: Its compressed bytes.
            out: uint8 (tile height, tile width, 3), contiguous; filled with RGB.

        Raises:
            SlideReadError: the bytes are damaged.
        """
        ...


@runtime_checkable
class ShrinkingSlide(TiledSlide, Protocol):
    """A tiled slide whose decoder can shrink tiles, with less work and other pixels."""

    def shrinks(self, level: int) -> bool:
        """Whether tiles of a level can be decoded at 1/2, 1/4 and 1/8 of their side."""
        ...

    def decode_shrunk(self, level: int, tile: int, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode what `fetch_tile` gave, at the scale of `out`.

        Args:
            level: Pyramid level.
            tile: Number of the tile, for messages.
            data: Its compressed bytes.
            out: uint8 (tile height // k, tile width // k, 3), k = 2, 4 or 8; contiguous.

        Raises:
            SlideReadError: the bytes are damaged.
        """
        ...


@runtime_checkable
class JpegSlide(TiledSlide, Protocol):
    """A tiled slide that can hand out stored tiles for others to decode."""

    def stores_jpeg(self, level: int) -> bool:
        """Whether the tiles of a level are JPEG, each of which gives its pixels by itself."""
        ...

    def jpeg_tile(self, level: int, tile: int, data: bytes) -> bytes:
        """What `fetch_tile` gave as a JPEG file of its own: tables and colour marker put in.

        Args:
            level: A level that `stores_jpeg`.
            tile: Number of the tile, for messages.
            data: Its compressed bytes, not empty.

        Raises:
            SlideReadError: the bytes are no JPEG.
        """
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds tissue on a thumbnail."""

    def segment(self, thumbnail: NDArray[np.uint8], mpp: float) -> Segmentation:
        """Find tissue.

        Args:
            thumbnail: uint8 (h, w, 3) RGB of the whole slide.
            mpp: Its µm/px.

        Returns:
            Masks of the thumbnail's shape. Deterministic: the same input, the same output.
        """
        ...


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that finds tissue on several slides at once faster than on one after another."""

    @property
    def batch(self) -> int:
        """Slides that are best given at once; 1 where nothing is gained."""
        ...

    def segment_many(
        self, thumbnails: Sequence[NDArray[np.uint8]], mpps: Sequence[float]
    ) -> list[Segmentation]:
        """Find tissue on each, as `segment` but for rounding."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Turns patches into vectors. A patch's vector does not depend on its neighbours in a batch."""

    @property
    def spec(self) -> EncoderSpec:
        """Facts, with `weights_sha256` filled in and `precision` as used."""
        ...

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches.

        Args:
            pixels: uint8 (B, T, T, 3) RGB, B >= 1.

        Returns:
            float32 (B, spec.dim) on the host.

        Raises:
            DeviceError: out of memory even for one patch.
            EncodingError: the network returned another shape.
        """
        ...


@runtime_checkable
class Pending(Protocol):
    """A batch that an encoder is at work on."""

    def result(self) -> NDArray[np.float32]:
        """Wait for this batch, and for no other; may be asked for again.

        Returns:
            float32 (B, spec.dim) on the host: what the encoder gives when called.

        Raises:
            DeviceError: out of memory even for one patch.
            EncodingError: the network returned another shape.
        """
        ...


@runtime_checkable
class AsyncEncoder(Encoder, Protocol):
    """An encoder that computes a batch while its caller does something else."""

    def begin(self, pixels: NDArray[np.uint8]) -> Pending:
        """Begin a batch; the next may be begun before the result of this one is asked for.

        Results are asked for in the order of the batches, by the thread that began them. A batch
        whose `Pending` is dropped need not be computed.

        Args:
            pixels: uint8 (B, T, T, 3) RGB, B >= 1; not written to until its result is there.

        Raises:
            EncodingError: `pixels` is something else, or the network returned another shape.
        """
        ...

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An uninitialised uint8 buffer for pixels, of the memory that `begin` is fastest with.

        Buffers and parts of them may be used for one batch after another. Called by the threads
        that read, several at a time, also while batches are begun and finished.
        """
        ...


@runtime_checkable
class DeviceEncoder(AsyncEncoder, Protocol):
    """An encoder that also takes pixels that are where it computes."""

    @property
    def device(self) -> str:
        """Where it computes, as torch names it: `cpu`, `cuda:0`."""
        ...

    def begin(self, pixels: Any) -> Pending:
        """As of an `AsyncEncoder`; `pixels` may also be a torch tensor on `device`."""
        ...
