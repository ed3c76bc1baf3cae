"""Reader `ndpi` against OpenSlide and against whole decoding."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.slide.made import smooth, write_tiff
from tests.slide.made_ndpi import (
    Page,
    encode,
    interval_mcus,
    interval_starts,
    noisy,
    opened,
    pages_of,
    same_as_openslide,
    tiled,
    write_ndpi,
)
from wsiprep.core.contracts import Slide
from wsiprep.core.errors import MissingMppError, SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide.readers import _ndpi_levels
from wsiprep.slide.readers._jpeg_intervals import read_frame
from wsiprep.testing.slide import SlideContract


@pytest.fixture(scope="module", params=["444", "422"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels, 16 and 4 intervals in a row; the height is no multiple of a tile's."""
    pages = pages_of(noisy(), request.param, interval_mcus(request.param))
    return write_ndpi(tmp_path_factory.mktemp("ndpi") / f"{request.param}.ndpi", pages)


class TestMadeNdpi(SlideContract):
    @pytest.fixture(autouse=True)
    def _file(self, made: Path) -> None:
        self.path = made

    def open_slide(self) -> Slide:
        return opened(self.path)

    def reference(self) -> NDArray[np.uint8]:
        with opened(self.path, "openslide") as slide:
            return slide.read(Point(0, 0), 0, slide.info.size0)


class TestRealNdpi(SlideContract):
    @pytest.fixture(autouse=True)
    def _file(self, shared_data: Path) -> None:
        self.path = shared_data / "slides" / "hamamatsu_test3-DAPI.ndpi"

    def open_slide(self) -> Slide:
        return opened(self.path)


def test_the_bytes_of_openslide(made: Path) -> None:
    same_as_openslide(made, levels=2)


def test_the_bytes_of_openslide_on_a_real_slide(shared_data: Path) -> None:
    same_as_openslide(shared_data / "slides" / "hamamatsu_test3-DAPI.ndpi", levels=4)


def test_rgb_stored_as_rgb(tmp_path: Path) -> None:
    same_as_openslide(write_ndpi(tmp_path / "rgb.ndpi", pages_of(noisy(), keep_rgb=True)), levels=2)


_open: dict[Path, tuple[Slide, Slide]] = {}


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    level=st.sampled_from([0, 1]), x=st.integers(-90, 1100), y=st.integers(-90, 700),
    w=st.integers(1, 300), h=st.integers(1, 300),
)  # fmt: skip
def test_any_rectangle(made: Path, level: int, x: int, y: int, w: int, h: int) -> None:
    if made not in _open:
        _open[made] = opened(made), opened(made, "openslide")
    ours, theirs = _open[made]
    twin = theirs.info.level_sizes.index(ours.info.level_sizes[level])
    region = ours.read(Point(x, y), level, Size(w, h))
    assert np.array_equal(region, theirs.read(Point(x, y), twin, Size(w, h)))


def test_tiles_are_columns_of_intervals(made: Path) -> None:
    with tiled(made) as slide:
        assert slide.tiling(0).tile == Size(64, 256)
        assert slide.tiling(0).shape == (3, 16)
        assert slide.tiling(1).tile == Size(64, 160)  # no higher than the level
        whole = slide.read(Point(0, 0), 0, slide.info.size0)
        out = np.empty((256, 64, 3), np.uint8)
        for tile in (0, 17, 35, 47):
            row, col = divmod(tile, 16)
            data = slide.fetch_tile(0, tile)
            # A JPEG of its own, whatever decodes it.
            assert np.asarray(Image.open(io.BytesIO(data))).shape == out.shape
            slide.decode_tile(0, tile, data, out)
            inside = whole[row * 256 :, col * 64 :][:256, :64]
            assert np.array_equal(out[: inside.shape[0]], inside)


class TestVerticalSubsampling:
    """OpenSlide refuses such intervals; the reader tiffslide decodes each alone."""

    def test_intervals_are_decoded_one_by_one(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy(), "420", 4, shrinks=[1]))
        with tiled(path) as slide, opened(path, "tiffslide") as other:
            size = slide.info.size0
            whole = slide.read(Point(0, 0), 0, size)
            assert np.array_equal(whole, other.read(Point(0, 0), 0, size))
        with opened(path, "openslide") as slide, pytest.raises(SlideReadError, match="RST0"):
            slide.read(Point(0, 0), 0, Size(64, 64))

    def test_together_they_would_differ(self) -> None:
        frame = read_frame(encode(noisy(), "420", 4))
        assert not frame.stacks
        assert frame.interval == Size(64, 16)


class TestPartialIntervals:
    def test_a_last_row(self, tmp_path: Path) -> None:
        image = noisy(635, 1024)
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(image, shrinks=[1]))
        wanted = np.asarray(Image.open(io.BytesIO(encode(image, "444", 8))))
        with opened(path) as ours, opened(path, "openslide") as theirs:
            region = ours.read(Point(0, 0), 0, Size(1024, 635))
            assert np.array_equal(region, wanted)
            shown = theirs.read(Point(0, 0), 0, Size(1024, 635))
            assert np.array_equal(region[:632], shown[:632])
            assert (shown[632:] == 255).all()  # the difference that is told in the reader

    def test_a_last_column(self, tmp_path: Path) -> None:
        image = noisy(635, 997)  # 125 MCUs: 24 intervals of 40 px, and one of 37
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(image, interval_mcus=5, shrinks=[1]))
        wanted = np.asarray(Image.open(io.BytesIO(encode(image, "444", 5))))
        with opened(path) as slide:
            assert np.array_equal(slide.read(Point(0, 0), 0, Size(997, 635)), wanted)


class TestLevels:
    def test_macro_map_and_focal_planes_are_left_out(self, tmp_path: Path) -> None:
        pages = pages_of(noisy())
        beside = encode(smooth(100, 200))
        extra = [
            Page(pages[0].jpeg, 1024, 640, 40.0, focal_plane=-500),
            Page(beside, 200, 100, -1.0),
            Page(beside, 200, 100, -2.0),
        ]
        path = write_ndpi(tmp_path / "a.ndpi", [pages[0], extra[0], pages[1], *extra[1:]])
        same_as_openslide(path, levels=2)

    def test_a_small_level_without_restart_markers_is_one_tile(self, tmp_path: Path) -> None:
        pages = pages_of(noisy(), "420", 0, shrinks=[4])
        path = write_ndpi(tmp_path / "a.ndpi", [*pages_of(noisy(), shrinks=[1]), *pages])
        with tiled(path) as slide:
            assert slide.tiling(1).shape == (1, 1)
        same_as_openslide(path, levels=2)

    def test_a_level_of_one_interval(self, tmp_path: Path) -> None:
        pages = pages_of(noisy(), shrinks=[1]) + pages_of(noisy(8, 64, 1), shrinks=[1])
        with tiled(write_ndpi(tmp_path / "a.ndpi", pages)) as slide:
            # 16-fold in x and 80-fold in y: known to be there, and not used.
            assert slide.info.level_sizes == (Size(1024, 640),)

    def test_wide_intervals_make_lower_tiles(
        self, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_ndpi_levels, "MAX_TILE_PX", 64 * 24)
        with tiled(made) as slide:
            assert slide.tiling(0).tile == Size(64, 24)
        same_as_openslide(made, levels=2)

    def test_one_interval_a_row(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy(), interval_mcus=32, shrinks=[4]))
        with tiled(path) as slide:
            assert slide.tiling(0).shape == (1, 1)
        same_as_openslide(path, levels=1)

    def test_beyond_4_gib(self, tmp_path: Path) -> None:
        pages = pages_of(noisy())
        path = write_ndpi(tmp_path / "a.ndpi", pages, at=(1 << 32) + 1000)  # a hole takes no room
        same_as_openslide(path, levels=2)

    def test_high_bytes_of_the_starts(self, tmp_path: Path) -> None:
        import tifffile

        pages = pages_of(noisy(), shrinks=[1])
        count = len(interval_starts(pages[0].jpeg))
        pages[0].tags[65432] = ("I", [0, *[3] * (count - 1)])
        path = write_ndpi(tmp_path / "a.ndpi", pages)
        with tifffile.TiffFile(path, is_ndpi=True) as tiff:
            starts = _ndpi_levels._starts(tiff.pages.first, count, 0)
        assert starts.tolist()[1:] == [s + (3 << 32) for s in interval_starts(pages[0].jpeg)[1:]]
        with pytest.raises(SlideOpenError, match="restart markers of level 0 are not where"):
            opened(path)


class TestScale:
    def test_a_fraction(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy()), resolution=(87653, 2))
        same_as_openslide(path, levels=2)

    def test_inches(self, tmp_path: Path) -> None:
        pages = pages_of(noisy())
        pages[0].tags[296] = ("H", [2])
        same_as_openslide(write_ndpi(tmp_path / "a.ndpi", pages, resolution=(50800, 1)), levels=2)

    def test_no_unit(self, tmp_path: Path) -> None:
        pages = pages_of(noisy())
        pages[0].tags[296] = ("H", [1])
        path = write_ndpi(tmp_path / "a.ndpi", pages)
        for reader in ("auto", "openslide"):
            with pytest.raises(MissingMppError):
                opened(path, reader)
        with opened(path, slide_mpp=0.25) as slide:
            assert slide.info.mpp == 0.25

    def test_zero(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy()), resolution=(0, 1))
        with pytest.raises(MissingMppError):
            opened(path)


class TestRefusals:
    def refuse(self, path: Path, says: str) -> None:
        with pytest.raises(SlideOpenError, match=says):
            opened(path)

    def test_other_files(self, tmp_path: Path, shared_data: Path) -> None:
        self.refuse(write_tiff(tmp_path / "a.ndpi", smooth()), "not an NDPI file")
        self.refuse(shared_data / "slides" / "cmu-1-small-region.svs", "not an NDPI file")
        self.refuse(tmp_path, "not an NDPI file")

    def test_any_extension(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.tif", pages_of(noisy()))
        same_as_openslide(path, levels=2)
        with opened(path, "auto") as slide:
            assert slide.info.reader == "ndpi"

    def test_no_list_of_intervals(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), shrinks=[1])[0]
        page.with_starts = False
        path = write_ndpi(tmp_path / "a.ndpi", [page])
        self.refuse(path, "place of 0 restart intervals of 1280")
        with opened(path, "auto") as slide:  # it looks for the markers in the file
            assert slide.info.reader == "openslide"

    def test_a_large_level_without_markers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy(), "444", 0, shrinks=[1]))
        same_as_openslide(path, levels=1)
        monkeypatch.setattr(_ndpi_levels, "MAX_LONE_PX", 1024 * 639)
        self.refuse(path, "without restart markers")

    def test_other_compressions_and_jpegs(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), shrinks=[1])[0]
        page.tags[259] = ("H", [22610])
        self.refuse(write_ndpi(tmp_path / "xr.ndpi", [page]), "JPEGXR")
        page = pages_of(noisy(), "444", 0, shrinks=[1], progressive=True)[0]
        self.refuse(write_ndpi(tmp_path / "p.ndpi", [page]), "progressive")
        grey = imagecodecs.jpeg8_encode(noisy()[..., 0].copy())
        self.refuse(write_ndpi(tmp_path / "g.ndpi", [Page(grey, 1024, 640)]), "three channels")

    def test_16_bit_fluorescence(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), shrinks=[1])[0]
        page.tags[65441] = ("I", [7])
        self.refuse(write_ndpi(tmp_path / "a.ndpi", [page]), r"1 channel\(s\) of uint16")

    def test_levels_out_of_order(self, tmp_path: Path) -> None:
        pages = pages_of(noisy())
        self.refuse(write_ndpi(tmp_path / "a.ndpi", pages[::-1]), "not in order")

    def test_no_level(self, tmp_path: Path) -> None:
        page = Page(encode(smooth(100, 200)), 200, 100, -1.0)
        self.refuse(write_ndpi(tmp_path / "a.ndpi", [page]), "holds no level")

    def test_another_size_in_the_jpeg(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), shrinks=[1])[0]
        page.width = 960
        self.refuse(write_ndpi(tmp_path / "a.ndpi", [page]), "960 x 640 px by its tags and 1024")

    def test_intervals_that_do_not_fit_the_width(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), interval_mcus=7, shrinks=[1])[0]
        self.refuse(write_ndpi(tmp_path / "a.ndpi", [page]), "do not fit its width")
