"""The contract for every reader, and the readers against each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slide.made import MPP, aperio, exact_average, overwrite, smooth, tile_place, write_tiff
from wsiprep.core.contracts import Slide
from wsiprep.core.errors import SlideOpenError, SlideReadError, UsageError
from wsiprep.core.types import Box, Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.readers import _base
from wsiprep.testing.slide import SlideContract


def opened(path: Path, reader: str, **kwargs: object) -> Slide:
    return open_slide(path, SlideConfig(reader=reader, **kwargs))


class _Made(SlideContract):
    reader = ""
    path: Path

    def open_slide(self) -> Slide:
        return opened(self.path, self.reader)


class TestOpenSlidePyramid(_Made):
    reader = "openslide"

    @pytest.fixture(autouse=True)
    def _file(self, pyramid: Path) -> None:
        self.path = pyramid

    def reference(self) -> NDArray[np.uint8]:
        return smooth()


class TestTiffSlidePyramid(TestOpenSlidePyramid):
    reader = "tiffslide"


class TestTiffPyramid(TestOpenSlidePyramid):
    reader = "tiff"


class TestOpenSlideJpeg(_Made):
    reader = "openslide"
    atol = 12  # JPEG at quality 95

    @pytest.fixture(autouse=True)
    def _file(self, jpeg_pyramid: Path) -> None:
        self.path = jpeg_pyramid

    def reference(self) -> NDArray[np.uint8]:
        return smooth(512, 640)


class TestTiffSlideJpeg(TestOpenSlideJpeg):
    reader = "tiffslide"


class TestTiffJpeg(TestOpenSlideJpeg):
    reader = "tiff"


class TestFlatTiff(_Made):
    reader = "image"

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = write_tiff(tmp_path / "flat.tif", smooth(), tile=None, compression=None)

    def reference(self) -> NDArray[np.uint8]:
        return smooth()


class TestRealSvs(SlideContract):
    @pytest.fixture(autouse=True)
    def _file(self, shared_data: Path) -> None:
        self.path = shared_data / "slides" / "cmu-1-small-region.svs"

    def open_slide(self) -> Slide:
        return open_slide(self.path)


class TestRealDicom(TestRealSvs):
    @pytest.fixture(autouse=True)
    def _file(self, shared_data: Path) -> None:
        self.path = shared_data / "slides" / "dicom_cmu1"


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_levels_of_a_pyramid(pyramid: Path, reader: str) -> None:
    with opened(pyramid, reader) as slide:
        assert [(s.width, s.height) for s in slide.info.level_sizes] == [
            (610, 500), (305, 250), (152, 125)]  # fmt: skip
        assert slide.info.downsamples[:2] == (1.0, 2.0)
        assert slide.info.mpp == pytest.approx(MPP, rel=1e-6)
        assert slide.info.bounds0 == Box(0, 0, 610, 500)
        image = smooth()
        half = cv2.resize(image, (305, 250), interpolation=cv2.INTER_AREA)
        # round(31 / 2) is 16: halves go to even, as `round` does it.
        assert np.array_equal(slide.read(Point(31, 20), 1, Size(40, 30)), half[10:40, 16:56])


@pytest.mark.parametrize("kind", ["pyramid", "jpeg_pyramid"])
def test_two_readers_give_the_same_bytes(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    with opened(path, "openslide") as one, opened(path, "tiffslide") as two:
        assert one.info.level_sizes == two.info.level_sizes
        assert one.info.downsamples == pytest.approx(two.info.downsamples)
        assert one.info.fingerprint == two.info.fingerprint
        for level, size in enumerate(one.info.level_sizes):
            a, b = (s.read(Point(0, 0), level, size) for s in (one, two))
            assert np.array_equal(a, b), level


def test_two_readers_give_the_same_bytes_of_a_real_slide(shared_data: Path) -> None:
    path = shared_data / "slides" / "cmu-1-small-region.svs"
    with opened(path, "openslide") as one, opened(path, "tiffslide") as two:
        assert one.info.size0 == two.info.size0 == Size(2220, 2967)
        assert one.info.mpp == two.info.mpp == 0.499
        assert one.info.objective == two.info.objective == 20
        a, b = (s.read(Point(-10, -10), 0, Size(2300, 3000)) for s in (one, two))
        assert np.array_equal(a, b)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide", "image"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    x=st.integers(-150, 700),
    y=st.integers(-150, 700),
    w=st.integers(1, 300),
    h=st.integers(1, 300),
)
def test_any_rectangle_is_the_padded_reference(
    reader: str, x: int, y: int, w: int, h: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    slide = _lossless(reader, tmp_path_factory)
    padded = np.pad(smooth(), ((150, 1000), (150, 1000), (0, 0)), constant_values=255)
    wanted = padded[y + 150 : y + 150 + h, x + 150 : x + 150 + w]
    assert np.array_equal(slide.read(Point(x, y), 0, Size(w, h)), wanted)


_open: dict[str, Slide] = {}


def _lossless(reader: str, factory: pytest.TempPathFactory) -> Slide:
    """One open slide a reader: Hypothesis calls the test function many times."""
    if reader not in _open:
        path = write_tiff(factory.mktemp("lossless") / "any.tiff", smooth(), compression="deflate")
        _open[reader] = opened(path, reader)
    return _open[reader]


class TestThumbnail:
    @pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide", "image"])
    def test_is_the_exact_average_for_whole_and_small_factors(
        self, reader: str, tmp_path: Path
    ) -> None:
        image = np.random.default_rng(1).integers(0, 256, (400, 520, 3), np.uint8)
        with opened(write_tiff(tmp_path / "noise.tiff", image), reader) as slide:
            for factor in (1.0, 1.31, 1.9, 2.0, 4.0, 8.0, 40.0):
                got = slide.thumbnail(MPP * factor).astype(float)
                wanted = exact_average(image, got.shape[1], got.shape[0])
                # Rounded to whole colours once, or twice where blocks are averaged first.
                assert np.abs(got - wanted).max() <= (0.51 if factor < 4 else 1.01), factor

    @pytest.mark.parametrize("factor", [2.0, 2.7, 3.3, 7.0, 9.9, 25.0, 403.0])
    def test_is_about_the_average_for_any_factor(self, factor: float, tmp_path: Path) -> None:
        image = smooth(403, 517)
        with opened(write_tiff(tmp_path / "odd.tiff", image), "openslide") as slide:
            got = slide.thumbnail(MPP * factor).astype(float)
            wanted = exact_average(image, got.shape[1], got.shape[0])
            # Borders move by less than a quarter of a pixel; rounded to whole colours twice.
            steps = [np.abs(np.diff(wanted, axis=axis)).max(initial=0) for axis in (0, 1)]
            assert np.abs(got - wanted).max() <= 1.01 + 0.25 * sum(steps) * (factor >= 4)
            assert np.abs(got - wanted).mean() < 2

    @pytest.mark.parametrize("block", [64, 100])
    def test_has_no_seams(
        self, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = np.random.default_rng(1).integers(0, 256, (403, 517, 3), np.uint8)
        with opened(write_tiff(tmp_path / "noise.tiff", image), "openslide") as slide:
            factors = (1.0, 1.4, 2.0, 3.3, 7.0, 25.0)
            whole = [slide.thumbnail(MPP * factor) for factor in factors]
            monkeypatch.setattr("wsiprep.slide.readers._thumbnail.BLOCK_PX", block)
            for factor, wanted in zip(factors, whole, strict=True):
                assert np.array_equal(slide.thumbnail(MPP * factor), wanted), factor

    def test_comes_from_the_coarsest_level_that_is_fine_enough(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_tiff(tmp_path / "p.tiff", smooth(512, 640), levels=4)
        with opened(path, "openslide") as slide:
            used: list[int] = []
            read_box = type(slide)._read_box

            def spy(self: object, handle: object, level: int, box: Box) -> object:
                used.append(level)
                return read_box(self, handle, level, box)

            monkeypatch.setattr(type(slide), "_read_box", spy)
            for mpp, level in ((0.4, 0), (0.9, 0), (1.0, 1), (1.9, 1), (3.99, 3), (50, 3)):
                used.clear()
                slide.thumbnail(mpp)
                assert set(used) == {level}, mpp

    @pytest.mark.parametrize("mpp", [0, -1, float("nan"), float("inf")])
    def test_needs_a_positive_mpp(self, pyramid: Path, mpp: float) -> None:
        with open_slide(pyramid) as slide, pytest.raises(UsageError, match="positive"):
            slide.thumbnail(mpp)

    @pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
    def test_of_a_broken_tile_only_the_parts_around_are_white(
        self, tmp_path: Path, reader: str
    ) -> None:
        path = write_tiff(tmp_path / "hurt.tiff", smooth(1024, 1536), compression="jpeg")
        with opened(path, reader) as slide:
            sound = slide.thumbnail(MPP * 4)
        overwrite(path, tile_place(path, 26)[0], bytes(200))  # x 256 to 384, y 256 to 384
        bad: set[str] = set()
        with opened(path, reader) as slide:
            got = slide.thumbnail(MPP * 4, bad)
            with pytest.raises(SlideReadError):
                slide.thumbnail(MPP * 4)
        (told,) = bad
        assert "at level-0 origin (192, 256)" in told
        assert (got[64:128, 48:96] == 255).all()
        got[64:128, 48:96] = sound[64:128, 48:96]
        assert np.array_equal(got, sound)

    def test_reads_no_box_larger_than_a_block(self) -> None:
        from wsiprep.slide.readers._thumbnail import BLOCK_PX, area_average

        seen = []

        def read(box: Box) -> NDArray[np.uint8]:
            seen.append(max(box.width, box.height))
            return np.full((box.height, box.width, 3), 200, np.uint8)

        for level, size in ((Size(9000, 17), Size(1, 1)), (Size(5000, 9001), Size(4, 7))):
            thumbnail = area_average(read, level, size)
            assert thumbnail.shape == (size.height, size.width, 3)
            assert (thumbnail == 200).all()
        assert max(seen) <= BLOCK_PX


ORIGIN = {
    "tiff": r"hurt: tile 6 of level 0, at level-0 origin \(128, 128\)",
    "openslide": r"hurt: .* origin \(130, 140\)",
    "tiffslide": r"hurt: .* origin \(130, 140\)",
}


class TestDamage:
    @pytest.fixture
    def jpeg(self, tmp_path: Path) -> Path:
        return write_tiff(tmp_path / "hurt.tiff", smooth(), compression="jpeg")

    @pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
    @pytest.mark.parametrize("how", ["zeroed", "second half zeroed", "start flipped"])
    def test_a_broken_tile_raises_and_the_others_are_read(
        self, jpeg: Path, reader: str, how: str
    ) -> None:
        offset, length = tile_place(jpeg, 6)  # second row, second column of 5
        hurt = {
            "zeroed": (offset, bytes(length)),
            "second half zeroed": (offset + length // 2, bytes(length - length // 2)),
            "start flipped": (offset, bytes(b ^ 255 for b in jpeg.read_bytes()[offset:][:20])),
        }
        good = opened(jpeg, reader)
        wanted = good.read(Point(0, 0), 0, Size(128, 128))
        good.close()
        overwrite(jpeg, *hurt[how])
        with opened(jpeg, reader) as slide:
            with pytest.raises(SlideReadError, match=ORIGIN[reader]) as caught:
                slide.read(Point(130, 140), 0, Size(60, 50))
            assert caught.value.hint is not None
            assert caught.value.stage == "slide"
            # OpenSlide refuses everything after an error; a new handle does not.
            assert np.array_equal(slide.read(Point(0, 0), 0, Size(128, 128)), wanted)
            with pytest.raises(SlideReadError):
                slide.thumbnail(MPP * 4)

    def test_an_absent_tile_is_white(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "sparse.tiff", smooth(), compression="deflate")
        _forget_tile(path, 6)
        for reader in ("tiff", "openslide", "tiffslide"):
            with opened(path, reader) as slide:
                region = slide.read(Point(100, 100), 0, Size(200, 200))
                wanted = smooth()[100:300, 100:300].copy()
                wanted[28:156, 28:156] = 255
                assert np.array_equal(region, wanted), reader

    def test_a_handle_dropped_in_a_child_is_not_closed(
        self, pyramid: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slide = opened(pyramid, "openslide")
        first = slide.read(Point(0, 0), 0, Size(8, 8))
        handle = slide._handle
        monkeypatch.setattr(_base.os, "getpid", lambda: -5)
        assert np.array_equal(slide.read(Point(0, 0), 0, Size(8, 8)), first)
        assert slide._handle is not handle
        assert any(h is handle for h in _base._abandoned)
        assert handle.dimensions == (610, 500)
        slide.close()

    def test_a_file_that_vanished(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "gone.tiff", smooth())
        with opened(path, "openslide") as slide:
            twin = slide.reopen()
            path.unlink()
            with pytest.raises(SlideReadError, match="gone"):
                twin.read(Point(0, 0), 0, Size(8, 8))


def _forget_tile(path: Path, number: int) -> None:
    """Set offset and length of a tile to zero: how TIFF writers leave out empty tiles."""
    import tifffile

    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages.first
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(page.tags[name].value)
            values[number] = 0
            page.tags[name].overwrite(values)


class TestRefusals:
    @pytest.mark.parametrize(
        ("dtype", "shape", "photometric", "says"),
        [
            ("uint8", (300, 300), "minisblack", "1 channel.*uint8, MINISBLACK"),
            ("uint16", (300, 300, 3), "rgb", "uint16, RGB"),
            ("float32", (300, 300), "minisblack", "float32"),
            ("uint8", (300, 300, 4), "rgb", "4 channel"),
        ],
    )
    def test_tiffslide_takes_rgb_only(
        self, dtype: str, shape: tuple[int, ...], photometric: str, says: str, tmp_path: Path
    ) -> None:
        extra = {"extrasamples": ["unassalpha"]} if shape[-1] == 4 else {}
        path = write_tiff(
            tmp_path / "odd.tiff", np.zeros(shape, dtype), photometric=photometric, **extra
        )
        with pytest.raises(SlideOpenError, match=says):
            opened(path, "tiffslide")

    def test_fluorescence_channels(self, tmp_path: Path) -> None:
        import tifffile

        path = tmp_path / "if.ome.tif"
        tifffile.imwrite(path, np.zeros((4, 300, 300), np.uint8), tile=(128, 128),
                         photometric="minisblack", metadata={"axes": "CYX"})  # fmt: skip
        with pytest.raises(SlideOpenError, match="not an RGB slide"):
            opened(path, "tiffslide")

    def test_an_unknown_compression(self, shared_data: Path) -> None:
        path = shared_data / "slides" / "osp_unopenable.tiff"
        with pytest.raises(SlideOpenError, match=r"openslide said: .*52479.*tiffslide.*52479"):
            open_slide(path)


def test_an_aperio_description_gives_scale_and_objective(tmp_path: Path) -> None:
    image = smooth()
    text = aperio(610, 500, AppMag=40, MPP="0.2501")
    path = write_tiff(tmp_path / "a.svs", image, description=text, mpp=None)
    for reader in ("openslide", "tiffslide"):
        with opened(path, reader) as slide:
            assert (slide.info.vendor, slide.info.mpp) == ("aperio", 0.2501)
            assert slide.info.objective == 40
            assert slide.info.notes == ()
            assert np.array_equal(slide.read(Point(0, 0), 0, slide.info.size0), image)
