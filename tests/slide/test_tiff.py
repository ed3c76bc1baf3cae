"""The direct TIFF reader against OpenSlide, codec by codec, and what it leaves to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slide.made import aperio, overwrite, reads_or_refuses, smooth, tile_place, write_tiff
from tests.slide.made_tiff import aperio_jp2k, jpeg_tiff, noise, opened, same_as_openslide
from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.readers._jpeg import whole_jpeg
from wsiprep.slide.readers.tiff import TiffSlide
from wsiprep.testing.slide import SlideContract


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_jpeg_ycbcr_is_openslides_to_the_byte(
    tmp_path: Path, subsampling: str, tables: bool
) -> None:
    same_as_openslide(jpeg_tiff(tmp_path / "a.tif", subsampling, tables=tables), levels=2)


@pytest.mark.parametrize("tables", [True, False])
def test_jpeg_rgb_without_a_marker_is_openslides_to_the_byte(tmp_path: Path, tables: bool) -> None:
    path = jpeg_tiff(tmp_path / "a.tif", "444", space="RGB", tables=tables)
    same_as_openslide(path, levels=2)
    with opened(path) as slide:
        difference = slide.read(Point(0, 0), 0, Size(330, 300)).astype(int) - noise()
        assert np.abs(difference).mean() < 10  # colours as they were written, not as if YCbCr


@pytest.mark.parametrize(
    ("space", "marker"),
    [
        ("RGB", bytes.fromhex("ffe000104a46494600010100000100010000")),
        ("RGB", bytes.fromhex("ffee000e41646f626500640000000001")),
        ("YCBCR", bytes.fromhex("ffee000e41646f626500640000000000")),
        ("YCBCR", bytes.fromhex("ffffee000e41646f626500640000000000")),
    ],
    ids=["JFIF", "Adobe YCbCr", "Adobe RGB", "filled Adobe RGB"],
)
def test_markers_in_the_tables_do_not_tell_the_colours(
    tmp_path: Path, space: str, marker: bytes
) -> None:
    """The TIFF does, as OpenSlide has it."""
    plain = jpeg_tiff(tmp_path / "plain.tif", "444", space=space)
    path = jpeg_tiff(tmp_path / "a.tif", "444", space=space, marker=marker)
    same_as_openslide(path, levels=2)
    with opened(path) as slide, opened(plain) as wanted:
        box = Point(0, 0), 0, Size(330, 300)
        assert np.array_equal(slide.read(*box), wanted.read(*box))


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize(
    "compression", [None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd"]
)
def test_lossless_tiles_are_the_picture(
    tmp_path: Path, compression: str | None, predictor: bool
) -> None:
    if predictor and compression in (None, "packbits"):
        pytest.skip("these have no predictor")
    path = write_tiff(
        tmp_path / "a.tif", noise(), levels=2, compression=compression, predictor=predictor
    )
    with opened(path) as slide:
        assert np.array_equal(slide.read(Point(0, 0), 0, Size(330, 300)), noise())
    same_as_openslide(path, levels=2)


def test_webp_tiles_are_what_libwebp_gives(tmp_path: Path) -> None:
    """OpenSlide does not open them."""
    path = write_tiff(tmp_path / "a.tif", noise(), compression="webp")
    with opened(path) as slide:
        assert np.array_equal(slide.read(Point(0, 0), 0, Size(330, 300)), tifffile.imread(path))


@pytest.mark.parametrize("ycbcr", [True, False])
def test_aperio_jpeg_2000_is_openslides_to_the_byte(tmp_path: Path, ycbcr: bool) -> None:
    path = aperio_jp2k(tmp_path / "a.svs", ycbcr=ycbcr)
    same_as_openslide(path, levels=1)
    with opened(path) as slide:
        difference = slide.read(Point(0, 0), 0, Size(320, 256)).astype(int) - noise(256, 320)
        assert np.abs(difference).mean() < 10


def test_a_real_slide_is_openslides_to_the_byte(shared_data: Path) -> None:
    same_as_openslide(shared_data / "slides" / "cmu-1-small-region.svs", levels=1)


_both: list[tuple[Slide, Slide]] = []


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    x=st.integers(-100, 400),
    y=st.integers(-100, 400),
    w=st.integers(1, 200),
    h=st.integers(1, 200),
    level=st.integers(0, 1),
)
def test_any_rectangle_is_openslides_to_the_byte(
    x: int, y: int, w: int, h: int, level: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not _both:
        path = jpeg_tiff(tmp_path_factory.mktemp("tiff") / "any.tif", "420")
        _both.append((opened(path), opened(path, "openslide")))
    one, two = (s.read(Point(2 * x, 2 * y), level, Size(w, h)) for s in _both[0])
    assert np.array_equal(one, two)


class TestOme(SlideContract):
    """The pyramid of an OME-TIFF lies in SubIFDs, where OpenSlide does not look."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "a.ome.tif"
        image = smooth(400, 480)
        with tifffile.TiffWriter(self.path, ome=True) as tiff:
            how: dict[str, Any] = {
                "tile": (64, 64), "photometric": "rgb", "compression": "deflate"
            }  # fmt: skip
            said = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
            tiff.write(image, subifds=2, metadata=said, **how)
            tiff.write(image[::2, ::2], subfiletype=1, **how)
            tiff.write(image[::4, ::4], subfiletype=1, **how)

    def open_slide(self) -> Slide:
        return opened(self.path)

    def reference(self) -> NDArray[np.uint8]:
        return smooth(400, 480)

    def test_levels_in_subifds_are_found(self) -> None:
        with open_slide(self.path) as slide:
            assert slide.info.reader == "tiff"
            assert slide.info.mpp == 0.25
            assert slide.info.downsamples == (1, 2, 4)
            quarter = slide.read(Point(0, 0), 2, Size(120, 100))
            assert np.array_equal(quarter, smooth(400, 480)[::4, ::4])


class TestTiles:
    def test_a_slide_gives_its_tiles(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", noise(), levels=2, tile=64)
        with opened(path) as slide:
            assert isinstance(slide, TiledSlide)
            tiling = slide.tiling(0)
            assert (tiling.tile, tiling.shape) == (Size(64, 64), (5, 6))
            out = np.empty((64, 64, 3), np.uint8)
            for tile in (0, 7, 14):
                slide.decode_tile(0, tile, slide.fetch_tile(0, tile), out)
                row, col = divmod(tile, 6)
                wanted = noise()[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
                assert np.array_equal(out, wanted)
            for level in (-1, 2):
                with pytest.raises(SlideReadError, match="no level"):
                    slide.tiling(level)

    def test_a_jpeg_tile_stands_by_itself(self, tmp_path: Path) -> None:
        """Any decoder gives the right colours, whatever it would guess."""
        path = jpeg_tiff(tmp_path / "a.tif", "444", space="RGB", levels=1)
        with opened(path) as slide:
            assert isinstance(slide, TiffSlide)
            codec: Any = slide._table(0).codec
            jpeg = codec.whole(slide.fetch_tile(0, 0))
            wanted = slide.read(Point(0, 0), 0, Size(64, 64))
            for decode in (imagecodecs.jpeg8_decode, simplejpeg.decode_jpeg):
                assert np.array_equal(decode(jpeg), wanted)

    def test_markers_that_say_otherwise_are_left_out(self) -> None:
        image = noise(64, 64)
        jpeg = imagecodecs.jpeg8_encode(image, level=90, outcolorspace="YCBCR")
        assert b"JFIF" in jpeg[:30]
        whole = whole_jpeg(jpeg, ycbcr=True)
        assert b"JFIF" not in whole
        assert np.array_equal(simplejpeg.decode_jpeg(whole), simplejpeg.decode_jpeg(jpeg))
        with pytest.raises(ValueError, match="does not begin"):
            whole_jpeg(b"\0" * 10, ycbcr=True)

    @pytest.mark.parametrize("tables", ["ffd8ffe000ffffd9", "ffd800ffd9", "ffdb00020000", "ffd8"])
    def test_tables_that_are_none(self, tables: str) -> None:
        with pytest.raises(ValueError, match="JPEGTables are no JPEG"):
            whole_jpeg(b"\xff\xd8\xff\xd9", bytes.fromhex(tables), ycbcr=True)


def _without_tile_1(path: Path, level: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page: Any = tiff.pages[level]
        counts = list(page.tags["TileByteCounts"].value)
        counts[1] = 0
        page.tags["TileByteCounts"].overwrite(counts)


class TestLeftToOthers:
    def refusal(self, path: Path) -> str:
        with pytest.raises(SlideOpenError) as caught:
            opened(path)
        return caught.value.message

    @pytest.mark.parametrize(
        ("image", "how", "says"),
        [
            (smooth(), {"tile": None}, "not tiled"),
            (smooth()[..., 0], {"photometric": "minisblack"}, "1 channel"),
            (smooth().astype(np.uint16), {}, "uint16"),
            (np.dstack([smooth(), smooth()[..., :1]]), {"extrasamples": ["unassalpha"]}, "4 chan"),
            (smooth().transpose(2, 0, 1).copy(), {"planarconfig": "separate"}, "RGB"),
            (smooth(), {"compression": "jpegxl"}, "JPEGXL"),
        ],
    )
    def test_pictures_of_another_kind(
        self, tmp_path: Path, image: NDArray[Any], how: dict[str, Any], says: str
    ) -> None:
        path = write_tiff(tmp_path / "odd.tif", image, **how)
        assert says in self.refusal(path)

    @pytest.mark.parametrize(
        ("software", "description", "says"),
        [
            ("Philips DP v1.0", "<?xml version='1.0'?><DataObject></DataObject>", "Philips"),
            ("MedScan 1.0", None, "Trestle"),
            (None, "<scn xmlns='http://www.leica-microsystems.com/scn/2010/10/01'></scn>", "Leica"),
        ],
    )
    def test_scanners_whose_levels_need_more(
        self, tmp_path: Path, software: str | None, description: str | None, says: str
    ) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(), software=software, description=description)
        assert says in self.refusal(path)

    @pytest.mark.parametrize("level", [0, 1])
    def test_an_aperio_level_with_holes(self, tmp_path: Path, level: int) -> None:
        """OpenSlide draws a level from the one before it where either lacks a tile."""
        path = write_tiff(
            tmp_path / "a.svs", smooth(), levels=2, description=aperio(610, 500, MPP=0.5)
        )
        _without_tile_1(path, level)
        assert f"tiles of level {level} are missing" in self.refusal(path)
        with open_slide(path) as slide:
            assert slide.info.reader == "openslide"
            assert (slide.read(Point(300, 100), 1, Size(64, 64)) < 255).any()
            hole = slide.read(Point(128, 0), 1, Size(64, 64))
            assert (hole == 255).all() if level == 0 else (hole < 255).any()

    def test_an_aperio_slide_of_one_level_with_holes_is_read(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.svs", smooth(), description=aperio(610, 500, MPP=0.5))
        _without_tile_1(path, 0)
        same_as_openslide(path, levels=1)

    def test_a_file_cut_short(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", noise(), levels=2)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert "cut short" in self.refusal(path)

    def test_what_is_no_tiff(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        path.write_bytes(b"II*")
        assert "not a TIFF" in self.refusal(path)
        assert "not a TIFF" in self.refusal(tmp_path)

    @settings(deadline=None, max_examples=60)
    @given(at=st.integers(0, 2000), data=st.binary(min_size=1, max_size=12))
    def test_damaged_structure_is_refused_or_read(
        self, at: int, data: bytes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever is altered in the directories: an error of ours, or a slide."""
        path = write_tiff(tmp_path_factory.mktemp("fuzz") / "a.tif", smooth(64, 64), tile=64)
        at = min(at, path.stat().st_size - len(data))
        overwrite(path, at, data)
        reads_or_refuses(path, "tiff", 64)

    def test_subsampled_jpeg_2000_is_left_to_openslide(self, tmp_path: Path) -> None:
        """The decoder at hand turns such into RGB by itself, whatever the TIFF says they are."""
        path = aperio_jp2k(tmp_path / "a.svs", ycbcr=True)
        for tile in range(4 * 5):
            offset, length = tile_place(path, tile)
            data = bytearray(path.read_bytes()[offset:][:length])
            at = data.find(b"\xff\x4f\xff\x51") + 8 + 34
            assert data[at : at + 9] == b"\x07\x01\x01" * 3
            data[at + 4] = 2  # the second channel, every other column
            overwrite(path, offset, bytes(data))
        with pytest.raises(SlideOpenError, match="subsampled colours"):
            opened(path)

    @pytest.mark.parametrize("at", [2**63, 2**64 - 1, 10**9])
    def test_a_directory_beyond_all_files(self, tmp_path: Path, at: int) -> None:
        path = tmp_path / "a.tif"
        path.write_bytes(b"II+\0\x08\0\0\0" + at.to_bytes(8, "little") + bytes(64))
        for reader in ("auto", "tiff", "image"):
            with pytest.raises(SlideOpenError):
                open_slide(path, SlideConfig(reader=reader))

    @pytest.mark.parametrize(("orientation", "reader"), [(1, "tiff"), (3, "openslide")])
    def test_a_turned_picture(self, tmp_path: Path, orientation: int, reader: str) -> None:
        tag = [(274, "H", 1, orientation, True)]
        path = write_tiff(tmp_path / "a.tif", noise(), extratags=tag)
        with open_slide(path) as slide:
            assert slide.info.reader == reader

    def test_a_first_page_that_is_not_the_largest(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        how: dict[str, Any] = {
            "tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None,
            "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER",
        }  # fmt: skip
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(smooth(150, 200), **how)
            tiff.write(smooth(300, 400), subfiletype=1, **how)
        with open_slide(path) as slide:
            assert slide.info.reader == "openslide"
            assert slide.info.size0 == Size(400, 300)

    @pytest.mark.parametrize("compression", ["zstd", "packbits"])
    def test_lossless_tiles_that_only_others_read(self, tmp_path: Path, compression: str) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(64, 64), compression=compression, tile=64)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            page: Any = tiff.pages.first
            tiff.filehandle.seek(0, 2)
            data = path.read_bytes()[page.dataoffsets[0] :][: page.databytecounts[0]]
            end = tiff.filehandle.tell()
            tiff.filehandle.write(data + bytes(16))
            page.tags["TileOffsets"].overwrite([end])
            page.tags["TileByteCounts"].overwrite([len(data) + 16])
        with open_slide(path) as slide:
            assert np.array_equal(slide.read(Point(0, 0), 0, Size(64, 64)), smooth(64, 64))


def test_a_decimal_comma(tmp_path: Path) -> None:
    text = aperio(330, 300, MPP="0,25")
    path = write_tiff(tmp_path / "a.svs", noise(), description=text, mpp=None)
    with open_slide(path) as slide:
        assert (slide.info.reader, slide.info.mpp) == ("tiff", 0.25)
