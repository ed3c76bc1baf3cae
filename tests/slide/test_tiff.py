"""The direct TIFF reader against OpenSlide, codec by codec, and what it refuses."""

from __future__ import annotations

import threading
import zlib
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

from tests.slide.made import aperio, exact_average, overwrite, smooth, tile_place, write_tiff
from wsiprep.core.contracts import ShrinkingSlide, Slide, TiledSlide
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.readers import _tiled
from wsiprep.slide.readers._jpeg import JpegCodec, whole_jpeg
from wsiprep.slide.readers._tiff_codec import PlainCodec
from wsiprep.slide.readers.tiff import TiffSlide
from wsiprep.testing.slide import SlideContract

MPP = 0.5


def opened(path: Path, reader: str = "tiff") -> Slide:
    return open_slide(path, SlideConfig(reader=reader))


def noise(height: int = 300, width: int = 330, seed: int = 0) -> NDArray[np.uint8]:
    """Detail at every scale: wrong colours, chroma or borders would show."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(-40, 41, (height, width, 3))
    return np.clip(smooth(height, width, seed).astype(int) + fine, 0, 255).astype(np.uint8)


def jpeg_tiff(
    path: Path, subsampling: str, *, space: str = "YCBCR", tables: bool = True, levels: int = 2
) -> Path:
    """Tiles of abbreviated JPEG as scanners write them; `space` is what the channels are."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            image = noise()[:: 2**level, :: 2**level]
            h, w = image.shape[:2]
            tiles = []
            for y in range(0, h, 64):
                for x in range(0, w, 64):
                    tile = image[y : y + 64, x : x + 64]
                    fill = ((0, 64 - tile.shape[0]), (0, 64 - tile.shape[1]), (0, 0))
                    tiles.append(
                        imagecodecs.jpeg8_encode(
                            np.ascontiguousarray(np.pad(tile, fill, mode="edge")), level=80,
                            colorspace="RGB", outcolorspace=space, subsampling=subsampling,
                        )
                    )  # fmt: skip
            shared, tiles = abbreviate(tiles) if tables else (None, tiles)
            tiff.write(
                iter(tiles), shape=(h, w, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg",
                photometric="ycbcr",
                subsampling={"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling],
                jpegtables=shared, subfiletype=1 if level else 0, metadata=None,
                resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
            )  # fmt: skip
    if space == "RGB":  # tifffile always says YCbCr of JPEG
        with tifffile.TiffFile(path, mode="r+b") as written:
            for page in written.pages:
                page.tags["PhotometricInterpretation"].overwrite(2)
    return path


def abbreviate(tiles: list[bytes]) -> tuple[bytes, list[bytes]]:
    """JPEGTables and tiles without them, and without JFIF and Adobe markers."""
    tables, short = b"", []
    for tile in tiles:
        at, kept, found = 2, b"", b""
        while tile[at + 1] != 0xDA:
            marker, length = tile[at + 1], 2 + int.from_bytes(tile[at + 2 : at + 4], "big")
            if marker in (0xDB, 0xC4):
                found += tile[at : at + length]
            elif not 0xE0 <= marker <= 0xEF:
                kept += tile[at : at + length]
            at += length
        tables = found
        short.append(b"\xff\xd8" + kept + tile[at:])
    return b"\xff\xd8" + tables + b"\xff\xd9", short


def same_as_openslide(path: Path, levels: int | None = None) -> None:
    with opened(path) as ours, opened(path, "openslide") as theirs:
        a, b = ours.info, theirs.info
        for fact in ("size0", "mpp", "mpp_source", "objective", "vendor", "bounds0", "fingerprint",
                     "downsamples", "level_sizes", "notes"):  # fmt: skip
            assert getattr(a, fact) == getattr(b, fact), fact
        assert levels is None or len(a.level_sizes) == levels
        for level, size in enumerate(a.level_sizes):
            for origin, size_ in ((Point(0, 0), size), (Point(-8, 40), Size(333, 200))):
                one, two = (s.read(origin, level, size_) for s in (ours, theirs))
                assert np.array_equal(one, two), (level, np.abs(one.astype(int) - two).max())


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


def aperio_jp2k(path: Path, *, ycbcr: bool) -> Path:
    image = noise(256, 320)
    tiles = []
    for y in range(0, 256, 64):
        for x in range(0, 320, 64):
            tile = image[y : y + 64, x : x + 64]
            if ycbcr:
                tile = np.asarray(
                    imagecodecs.jpeg8_decode(
                        imagecodecs.jpeg8_encode(tile, level=95, subsampling="444"),
                        outcolorspace="YCBCR",
                    )
                )
            tiles.append(imagecodecs.jpeg2k_encode(tile, level=45, codecformat="j2k", mct=False))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(tiles), shape=image.shape, dtype=np.uint8, tile=(64, 64), metadata=None,
            compression="aperio_jp2000_ycbc" if ycbcr else "aperio_jp2000_rgb",
            photometric="ycbcr" if ycbcr else "rgb", subsampling=(1, 1) if ycbcr else None,
            description=aperio(320, 256, MPP=0.5, AppMag=20),
        )  # fmt: skip
    return path


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


class TestDamage:
    @pytest.fixture
    def jpeg(self, tmp_path: Path) -> Path:
        return jpeg_tiff(tmp_path / "hurt.tif", "420")

    def test_what_libjpeg_complains_about_is_an_error(self, jpeg: Path) -> None:
        """As it is to OpenSlide. Other decoders go on with made-up pixels."""
        offset, length = tile_place(jpeg, 8)
        overwrite(jpeg, offset + length // 2, b"\xff\xd9")
        for reader, says in (("tiff", r"tile 8 .*premature"), ("openslide", "premature")):
            with opened(jpeg, reader) as slide, pytest.raises(SlideReadError, match=says):
                slide.read(Point(128, 64), 0, Size(64, 64))

    def test_bytes_between_the_scan_and_its_end_do_no_harm(self, tmp_path: Path) -> None:
        tile = imagecodecs.jpeg8_encode(noise(64, 64), level=90, outcolorspace="YCBCR")
        path = tmp_path / "padded.tif"
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                iter([tile[:-2] + bytes(8) + tile[-2:]]), shape=(64, 64, 3), dtype=np.uint8,
                tile=(64, 64), compression="jpeg", photometric="ycbcr", subsampling=(1, 1),
                metadata=None, resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
            )  # fmt: skip
        with opened(path) as slide:
            pixels = slide.read(Point(0, 0), 0, Size(64, 64))
            assert np.array_equal(pixels, simplejpeg.decode_jpeg(tile))

    def test_a_file_that_shrinks_while_it_is_open(self, jpeg: Path) -> None:
        offset, length = tile_place(jpeg, 29)
        with opened(jpeg) as slide:
            with jpeg.open("r+b") as file:
                file.truncate(offset + length // 2)
            with pytest.raises(SlideReadError, match=r"tile 29 .*beyond the end of the file"):
                slide.read(Point(325, 295), 0, Size(4, 4))
            slide.read(Point(0, 0), 0, Size(4, 4))

    def test_a_tile_of_another_size(self, jpeg: Path) -> None:
        offset, length = tile_place(jpeg, 9)
        small = imagecodecs.jpeg8_encode(noise(32, 64), level=10, subsampling="420")
        assert len(small) < length
        overwrite(jpeg, offset, bytes(small))
        with opened(jpeg) as slide, pytest.raises(SlideReadError, match="tile 9 of level 0"):
            slide.read(Point(200, 70), 0, Size(4, 4))

    @pytest.mark.parametrize("size", [64 * 64 * 3 - 1, 64 * 64 * 3 + 1, 1 << 26])
    def test_a_tile_that_unpacks_to_more_or_less_than_its_pixels(
        self, tmp_path: Path, size: int
    ) -> None:
        path = tmp_path / "bomb.tif"
        tiles = [zlib.compress(bytes(64 * 64 * 3)), zlib.compress(bytes(size))]
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                iter(tiles), shape=(64, 128, 3), dtype=np.uint8, tile=(64, 64), metadata=None,
                compression="adobe_deflate", photometric="rgb",
                resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
            )  # fmt: skip
        with opened(path) as slide:
            assert not slide.read(Point(0, 0), 0, Size(64, 64)).any()
            with pytest.raises(SlideReadError, match="tile 1 of level 0"):
                slide.read(Point(64, 0), 0, Size(64, 64))


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

    def test_an_aperio_level_with_holes(self, tmp_path: Path) -> None:
        """OpenSlide fills a missing tile of a lower level from the level above it."""
        path = write_tiff(
            tmp_path / "a.svs", smooth(), levels=2, description=aperio(610, 500, MPP=0.5)
        )
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            page: Any = tiff.pages[1]
            counts = list(page.tags["TileByteCounts"].value)
            counts[1] = 0
            page.tags["TileByteCounts"].overwrite(counts)
        assert "tiles of level 1 are missing" in self.refusal(path)
        with open_slide(path) as slide:
            assert slide.info.reader == "openslide"
            assert (slide.read(Point(300, 100), 1, Size(64, 64)) < 255).any()

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
        try:
            with open_slide(path, SlideConfig(reader="tiff", slide_mpp=0.5)) as slide:
                slide.read(Point(0, 0), 0, Size(64, 64))
        except (SlideOpenError, SlideReadError):
            pass


class TestThumbnail:
    @pytest.fixture
    def jpeg(self, tmp_path: Path) -> Path:
        """One level of 1024 x 960 px, without sharp edges, as JPEG."""
        return write_tiff(tmp_path / "one.tif", smooth(960, 1024), compression="jpeg", tile=64)

    @pytest.mark.parametrize(
        ("factor", "most", "mean"),
        [(16.0, 3, 0.5), (17.0, 6, 1), (23.7, 6, 1), (40.0, 7, 1.5), (100.0, 9, 2)],
    )
    def test_shrunk_tiles_average_to_about_the_same(
        self, jpeg: Path, factor: float, most: float, mean: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shrunk: list[int] = []
        honest = JpegCodec.decode_shrunk

        def spy(self: JpegCodec, data: bytes, out: NDArray[np.uint8]) -> None:
            shrunk.append(1)
            honest(self, data, out)

        monkeypatch.setattr(JpegCodec, "decode_shrunk", spy)
        with opened(jpeg) as slide:
            got = slide.thumbnail(MPP * factor).astype(float)
            level0 = slide.read(Point(0, 0), 0, slide.info.size0)
        # The borders of pixels move as `area_average` says where the factor is no multiple.
        difference = np.abs(got - exact_average(level0, got.shape[1], got.shape[0]))
        assert difference.max() <= most
        assert difference.mean() <= mean
        assert len(shrunk) >= 15 * 16

    def test_finer_ones_are_exact(self, jpeg: Path) -> None:
        with opened(jpeg) as slide, opened(jpeg, "openslide") as whole:
            for factor in (1.0, 2.0, 3.3, 15.0):
                assert np.array_equal(
                    slide.thumbnail(MPP * factor), whole.thumbnail(MPP * factor)
                ), factor

    def test_it_does_not_depend_on_threads_or_blocks(
        self, jpeg: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(jpeg) as slide:
            wanted = [slide.thumbnail(MPP * factor) for factor in (4.0, 7.0, 20.0)]
            for threads, block in ((1, 2048), (5, 128), (3, 200)):
                monkeypatch.setattr(_tiled, "available_cores", lambda n=threads: n)
                monkeypatch.setattr("wsiprep.slide.readers._thumbnail.BLOCK_PX", block)
                for factor, picture in zip((4.0, 7.0, 20.0), wanted, strict=True):
                    assert np.array_equal(slide.thumbnail(MPP * factor), picture)

    @pytest.mark.parametrize("factor", [4.0, 20.0])
    def test_a_broken_tile_is_an_error_and_no_thread_stays(self, jpeg: Path, factor: float) -> None:
        overwrite(jpeg, tile_place(jpeg, 100)[0], bytes(2))
        with opened(jpeg) as slide, pytest.raises(SlideReadError, match="tile 100 of level 0"):
            slide.thumbnail(MPP * factor)
        assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-thumbnail")]

    def test_an_absent_tile_is_white(self, jpeg: Path) -> None:
        with tifffile.TiffFile(jpeg, mode="r+b") as tiff:
            page: Any = tiff.pages.first
            for name in ("TileOffsets", "TileByteCounts"):
                values = list(page.tags[name].value)
                values[17] = 0
                page.tags[name].overwrite(values)
        with opened(jpeg) as slide:
            assert (slide.thumbnail(MPP * 16)[4:8, 4:8] == 255).all()


class TestShrunk:
    def test_tiles_decoded_smaller_are_near_the_mean(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(512, 512), compression="jpeg", tile=128)
        with opened(path) as slide:
            assert isinstance(slide, ShrinkingSlide)
            assert slide.shrinks(0)
            data, whole = slide.fetch_tile(0, 5), slide.read(Point(128, 128), 0, Size(128, 128))
            for factor in (2, 4, 8):
                side = 128 // factor
                out = np.empty((side, side, 3), np.uint8)
                slide.decode_shrunk(0, 5, data, out)
                mean = whole.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
                assert np.abs(out - mean).max() < 4
            with pytest.raises(SlideReadError, match="tile 5 of level 0"):
                slide.decode_shrunk(0, 5, data[:100], out)
            slide.decode_shrunk(0, 5, b"", out)
            assert (out == 255).all()

    def test_other_codecs_do_not_shrink(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", smooth(), compression="deflate")
        with opened(path) as slide:
            assert isinstance(slide, ShrinkingSlide)
            assert not slide.shrinks(0)
            with pytest.raises(SlideReadError, match="not decoded smaller"):
                slide.decode_shrunk(0, 0, b"x", np.empty((16, 16, 3), np.uint8))


class TestReviewed:
    """What once was read wrong, or no longer opened."""

    def test_subsampled_jpeg_2000_is_left_to_openslide(self, tmp_path: Path) -> None:
        """The decoder at hand turns such into RGB by itself, whatever the TIFF says they are."""
        path = aperio_jp2k(tmp_path / "a.svs", ycbcr=True)
        offset, length = tile_place(path, 0)
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

    def test_a_decimal_comma(self, tmp_path: Path) -> None:
        text = aperio(330, 300, MPP="0,25")
        path = write_tiff(tmp_path / "a.svs", noise(), description=text, mpp=None)
        with open_slide(path) as slide:
            assert (slide.info.reader, slide.info.mpp) == ("tiff", 0.25)

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

    def test_a_webp_bomb_is_not_unpacked(self, tmp_path: Path, monkeypatch: Any) -> None:
        bomb = imagecodecs.webp_encode(np.zeros((1024, 1024, 3), np.uint8), lossless=True)
        codec = PlainCodec(50001)
        monkeypatch.setattr(imagecodecs, "webp_decode", lambda data: pytest.fail("unpacked"))
        for data in (bomb, imagecodecs.webp_encode(noise(32, 32), level=80), b"RIFF"):
            with pytest.raises(ValueError, match="no WebP picture of 64 x 64 px"):
                codec.decode(data, np.empty((64, 64, 3), np.uint8))

    def test_shrunk_thumbnails_are_not_stretched(self, tmp_path: Path) -> None:
        image = np.full((327, 327, 3), 240, np.uint8)
        image[300:], image[:, 300:] = 10, 10
        path = write_tiff(tmp_path / "a.tif", image, compression="jpeg", tile=64)
        with opened(path) as slide:
            got = slide.thumbnail(MPP * 327 / 20).astype(float)
        wanted = exact_average(image, 20, 20)
        assert np.abs(got - wanted).max() < 12
