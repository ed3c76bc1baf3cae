"""Contract suite for slide readers: subclass `SlideContract`, and pytest judges your reader.

    from wsiprep.testing.slide import SlideContract

    class TestMyReader(SlideContract):
        def open_slide(self):
            return my_reader.create(str(PATH), SlideConfig(), slide_id="x", reason="test")

        def reference(self):
            return LEVEL_0_PIXELS  # uint8 (H, W, 3), or None where they are not known

Use a slide of at least 64 x 64 px, and better one of several levels. Where the pixels are stored
with loss, give what the file decodes to, or set `atol`.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import SlideReadError
from wsiprep.core.types import Point, Size

__all__ = ["SlideContract"]


def _read_in_child(slide: Slide, queue: Any) -> None:
    """Read with a handle that came with the fork; report pixels or the error."""
    try:
        queue.put(slide.read(Point(3, 5), 0, Size(40, 30)))
    except Exception as err:  # noqa: BLE001 - the parent shows it
        queue.put(repr(err))


class SlideContract:
    """What every `core.contracts.Slide` must do.

    Override `open_slide`, and `reference` where the true pixels are known.
    """

    atol: int = 0
    """Largest difference from `reference` that is allowed in a channel."""

    def open_slide(self) -> Slide:
        """A newly opened slide; the suite closes it."""
        raise NotImplementedError("a contract suite needs open_slide()")

    def reference(self) -> NDArray[np.uint8] | None:
        """Pixels of level 0, uint8 (H, W, 3), or None."""
        return None

    @pytest.fixture
    def slide(self) -> Iterator[Slide]:
        """A slide that is closed after the test."""
        slide = self.open_slide()
        yield slide
        slide.close()

    def test_is_a_slide(self, slide: Slide) -> None:
        """It has every member of the protocol."""
        assert isinstance(slide, Slide)

    def test_info_is_coherent(self, slide: Slide) -> None:
        """Sizes, levels, bounds and scale agree with each other."""
        info = slide.info
        assert info.level_sizes[0] == info.size0
        assert 0.05 <= info.mpp <= 20
        assert len(info.fingerprint) == 64
        assert int(info.fingerprint, 16) >= 0
        assert info.reader
        assert info.reader_reason
        bounds = info.bounds0
        assert 0 <= bounds.x < bounds.x + bounds.width <= info.size0.width
        assert 0 <= bounds.y < bounds.y + bounds.height <= info.size0.height
        for scale, size in zip(info.downsamples, info.level_sizes, strict=True):
            # A level is the slide divided by its downsample, within a pixel or 2 %.
            assert abs(size.width - info.size0.width / scale) <= max(1, 0.02 * size.width)
            assert abs(size.height - info.size0.height / scale) <= max(1, 0.02 * size.height)

    def test_pixels_are_those_of_the_reference(self, slide: Slide) -> None:
        """The whole of level 0, and a box in it, are what they should be."""
        reference = self.reference()
        if reference is None:
            pytest.skip("no reference pixels given")
        self._same(slide.read(Point(0, 0), 0, slide.info.size0), reference)
        self._same(slide.read(Point(11, 7), 0, Size(33, 21)), reference[7:28, 11:44])

    def test_read_gives_what_was_asked(self, slide: Slide) -> None:
        """At every level: uint8 (h, w, 3), contiguous, the caller's own."""
        for level in range(len(slide.info.level_sizes)):
            region = slide.read(Point(0, 0), level, Size(17, 9))
            assert region.shape == (9, 17, 3)
            assert region.dtype == np.uint8
            assert region.flags.c_contiguous
            before = slide.read(Point(0, 0), level, Size(17, 9))
            region[...] = 7
            assert np.array_equal(slide.read(Point(0, 0), level, Size(17, 9)), before)

    def test_outside_is_white(self, slide: Slide) -> None:
        """Beyond each edge, near and far, at every level."""
        size0 = slide.info.size0
        for level, scale in enumerate(slide.info.downsamples):
            far = round(100 * scale)
            for origin in (
                Point(-far, 0),
                Point(0, -far),
                Point(size0.width + far, 0),
                Point(0, size0.height + far),
                Point(-(10**9), -(10**9)),
                Point(10**9, 10**9),
            ):
                assert (slide.read(origin, level, Size(20, 10)) == 255).all(), (level, origin)

    def test_a_read_across_an_edge_is_padded(self, slide: Slide) -> None:
        """Inside the slide it is the slide, outside it is white."""
        size0 = slide.info.size0
        inside = slide.read(Point(0, 0), 0, Size(20, 10))
        region = slide.read(Point(-5, -3), 0, Size(25, 13))
        assert np.array_equal(region[3:, 5:], inside)
        assert (region[:3] == 255).all()
        assert (region[:, :5] == 255).all()
        corner = Point(size0.width - 6, size0.height - 4)
        region = slide.read(corner, 0, Size(16, 14))
        assert np.array_equal(region[:4, :6], slide.read(corner, 0, Size(6, 4)))
        assert (region[4:] == 255).all()
        assert (region[:, 6:] == 255).all()

    def test_reads_join_without_a_seam(self, slide: Slide) -> None:
        """Two halves of a box of level 0 are the box."""
        whole = slide.read(Point(5, 9), 0, Size(50, 30))
        left, right = (
            slide.read(Point(5, 9), 0, Size(23, 30)),
            slide.read(Point(28, 9), 0, Size(27, 30)),
        )
        assert np.array_equal(np.concatenate([left, right], axis=1), whole)

    def test_a_level_that_is_not_there_raises(self, slide: Slide) -> None:
        """Neither black pixels nor another level."""
        for level in (-1, len(slide.info.level_sizes), 99):
            with pytest.raises(SlideReadError):
                slide.read(Point(0, 0), level, Size(8, 8))

    def test_reading_twice_gives_the_same(self, slide: Slide) -> None:
        """Also after other reads in between."""
        first = slide.read(Point(3, 5), 0, Size(40, 30))
        slide.read(Point(20, 20), len(slide.info.level_sizes) - 1, Size(30, 30))
        assert np.array_equal(slide.read(Point(3, 5), 0, Size(40, 30)), first)

    def test_reopen_is_independent(self, slide: Slide) -> None:
        """Closing one handle leaves the other at work; what is known is the same."""
        expected = slide.read(Point(3, 5), 0, Size(40, 30))
        twin = slide.reopen()
        try:
            assert twin is not slide
            assert twin.info == slide.info
            slide.close()
            assert np.array_equal(twin.read(Point(3, 5), 0, Size(40, 30)), expected)
        finally:
            twin.close()

    def test_closing_twice_is_allowed(self, slide: Slide) -> None:
        """And a closed slide does not read."""
        slide.close()
        slide.close()
        with pytest.raises(SlideReadError):
            slide.read(Point(0, 0), 0, Size(8, 8))

    def test_threads_with_their_own_handles_agree(self, slide: Slide) -> None:
        """Four threads at once read what one reads."""
        size0 = slide.info.size0
        origins = [Point(x % size0.width, x * 3 % size0.height) for x in range(0, 600, 29)]
        expected = [slide.read(origin, 0, Size(64, 48)) for origin in origins]

        def read_all(own: Slide) -> list[NDArray[np.uint8]]:
            return [own.read(origin, 0, Size(64, 48)) for origin in origins]

        _agree_in_threads(slide, read_all, expected)

    def test_survives_pickling(self, slide: Slide) -> None:
        """A handle sent to another process opens the slide there."""
        expected = slide.read(Point(3, 5), 0, Size(40, 30))
        twin: Slide = pickle.loads(pickle.dumps(slide))  # noqa: S301 - our own bytes
        try:
            assert twin.info == slide.info
            assert np.array_equal(twin.read(Point(3, 5), 0, Size(40, 30)), expected)
        finally:
            twin.close()

    @pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
    )
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_survives_a_fork(self, slide: Slide) -> None:
        """A handle open before a fork reads right in the child, and still in the parent."""
        expected = slide.read(Point(3, 5), 0, Size(40, 30))
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_read_in_child, args=(slide, queue))
        child.start()
        child.join(60)
        alive = child.is_alive()
        if alive:
            child.kill()
            child.join()
        assert not alive, "the child hangs"
        assert not queue.empty(), "the child died"
        result = queue.get()
        assert not isinstance(result, str), result
        assert np.array_equal(result, expected)
        assert np.array_equal(slide.read(Point(3, 5), 0, Size(40, 30)), expected)

    def test_thumbnail_has_the_promised_size(self, slide: Slide) -> None:
        """W = max(1, round(width0 * mpp / asked)); never above level 0; at least one pixel."""
        info = slide.info
        for factor in (2.0, 3.7, 9.3, 1e9):
            shape = slide.thumbnail(info.mpp * factor).shape
            shrink = info.mpp / (info.mpp * factor)
            width = max(1, round(info.size0.width * shrink))
            height = max(1, round(info.size0.height * shrink))
            assert shape == (height, width, 3), factor
        finer = slide.thumbnail(info.mpp / 4)
        assert finer.shape == (info.size0.height, info.size0.width, 3)

    def test_thumbnail_is_an_area_average(self, slide: Slide) -> None:
        """Each quarter of a thumbnail has the mean colour of that quarter of level 0."""
        info = slide.info
        thumbnail = slide.thumbnail(info.mpp * 4).astype(float)
        assert thumbnail.shape[2] == 3
        level0 = slide.read(Point(0, 0), 0, info.size0).astype(float)
        for part in ((0, 0), (0, 1), (1, 0), (1, 1)):
            small, large = _quarter(thumbnail, part), _quarter(level0, part)
            assert np.abs(small - large).max() < 6, part

    def test_a_sound_thumbnail_has_no_bad_parts(self, slide: Slide) -> None:
        """Told to go on without what cannot be decoded, it is the same and notes nothing."""
        bad: set[str] = set()
        mpp = slide.info.mpp * 4
        assert np.array_equal(slide.thumbnail(mpp, bad), slide.thumbnail(mpp))
        assert not bad

    def test_stored_tiles_make_up_the_levels(self, slide: Slide) -> None:
        """Of a slide that gives its stored tiles: corner and middle of every level are theirs."""
        if not isinstance(slide, TiledSlide):
            pytest.skip("it gives no stored tiles")
        for level, size in enumerate(slide.info.level_sizes):
            tiling = slide.tiling(level)
            rows, cols = tiling.shape
            assert rows * tiling.tile.height >= size.height > (rows - 1) * tiling.tile.height
            assert cols * tiling.tile.width >= size.width > (cols - 1) * tiling.tile.width
            for row, col in {(0, 0), (rows // 2, cols // 2), (rows - 1, cols - 1)}:
                pixels = self._tile(slide, level, row * cols + col)
                x, y = col * tiling.tile.width, row * tiling.tile.height
                inside = Size(
                    min(tiling.tile.width, size.width - x), min(tiling.tile.height, size.height - y)
                )
                scale = slide.info.downsamples[level]
                origin = Point(round(x * scale), round(y * scale))
                if (round(origin.x / scale), round(origin.y / scale)) == (x, y):
                    region = slide.read(origin, level, inside)
                    assert np.array_equal(region, pixels[: inside.height, : inside.width]), level

    def test_stored_tiles_are_decoded_by_several_threads(self, slide: Slide) -> None:
        """Handles of their own; what one thread fetched, another may decode."""
        if not isinstance(slide, TiledSlide):
            pytest.skip("it gives no stored tiles")
        rows, cols = slide.tiling(0).shape
        tiles = range(0, rows * cols, max(1, rows * cols // 12))
        expected = [self._tile(slide, 0, tile) for tile in tiles]
        fetched = [slide.fetch_tile(0, tile) for tile in tiles]

        def decode_all(own: Slide) -> list[NDArray[np.uint8]]:
            assert isinstance(own, TiledSlide)
            return [self._tile(own, 0, t, d) for t, d in zip(tiles, fetched, strict=True)]

        _agree_in_threads(slide, decode_all, expected)

    def test_stored_tiles_that_are_damaged_raise(self, slide: Slide) -> None:
        """Bytes cut to a few are an error, never pixels; no bytes are an absent, white tile."""
        if not isinstance(slide, TiledSlide):
            pytest.skip("it gives no stored tiles")
        data = slide.fetch_tile(0, 0)
        assert data
        with pytest.raises(SlideReadError):
            self._tile(slide, 0, 0, data[: min(len(data) // 2, 40)])
        assert (self._tile(slide, 0, 0, b"") == 255).all()
        slide.close()
        with pytest.raises(SlideReadError):
            slide.fetch_tile(0, 0)

    def _tile(
        self, slide: TiledSlide, level: int, tile: int, data: bytes | None = None
    ) -> NDArray[np.uint8]:
        """A decoded tile, over a pattern that would show where it is not written to."""
        side = slide.tiling(level).tile
        out = np.full((side.height, side.width, 3), 7, np.uint8)
        slide.decode_tile(level, tile, slide.fetch_tile(level, tile) if data is None else data, out)
        return out

    def _same(self, got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
        assert got.shape == wanted.shape
        assert int(np.abs(got.astype(int) - wanted.astype(int)).max()) <= self.atol


def _agree_in_threads(
    slide: Slide,
    read: Callable[[Slide], list[NDArray[np.uint8]]],
    expected: Sequence[NDArray[np.uint8]],
) -> None:
    """What four threads read at once, each by a handle of its own, is what is expected."""

    def read_all(_: int) -> list[NDArray[np.uint8]]:
        own = slide.reopen()
        try:
            return read(own)
        finally:
            own.close()

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(read_all, range(4)):
            assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))


def _quarter(pixels: NDArray[np.float64], part: tuple[int, int]) -> NDArray[np.float64]:
    """Mean colour of a quarter of a picture."""
    h, w = pixels.shape[0] // 2, pixels.shape[1] // 2
    row, col = part
    mean: NDArray[np.float64] = pixels[row * h : (row + 1) * h, col * w : (col + 1) * w].mean(
        (0, 1)
    )
    return mean
