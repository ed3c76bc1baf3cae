"""Flat images: what is taken, what is refused, and what their resolution tags are worth."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.slide.made import smooth, write_tiff
from wsiprep.core.contracts import Slide
from wsiprep.core.errors import ImplausibleMppError, MissingMppError, SlideOpenError
from wsiprep.core.types import Point
from wsiprep.slide import SlideConfig, open_slide


def opened(path: Path, **cfg: object) -> Slide:
    return open_slide(path, SlideConfig(reader="image", **{"slide_mpp": 0.5, **cfg}))


def pixels(path: Path) -> NDArray[np.uint8]:
    with opened(path) as slide:
        return slide.read(Point(0, 0), 0, slide.info.size0)


def png(path: Path, image: NDArray[np.generic], per_metre: int | None = None) -> Path:
    data = imagecodecs.png_encode(image)
    if per_metre is not None:
        body = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
        chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
        data = data[:33] + chunk + data[33:]
    path.write_bytes(data)
    return path


def jpeg(path: Path, image: NDArray[np.uint8], density: tuple[int, int] = (1, 72)) -> Path:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    raw = bytearray(data.tobytes())
    assert raw[6:11] == b"JFIF\0"
    raw[13:18] = struct.pack(">BHH", density[0], density[1], density[1])
    path.write_bytes(raw)
    return path


def test_png(tmp_path: Path) -> None:
    assert np.array_equal(pixels(png(tmp_path / "a.png", smooth())), smooth())


def test_png_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, [[0, 255, 128], [1, 254, 64]]
    got = pixels(png(tmp_path / "a.png", rgba))
    alpha = rgba[..., 3:] / 255
    assert np.abs(got - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.5


def test_grey_is_repeated_and_told(tmp_path: Path) -> None:
    grey = smooth()[..., 0].copy()
    paths = [png(tmp_path / "a.png", grey),
             write_tiff(tmp_path / "a.tif", grey, photometric="minisblack")]  # fmt: skip
    for path in paths:
        assert np.array_equal(pixels(path), np.repeat(grey[..., None], 3, axis=2))
        with opened(path) as slide:
            assert any("greyscale" in note for note in slide.info.notes)


def test_palette_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
        + chunk(b"IDAT", zlib.compress(b"\0\1\0"))
        + chunk(b"IEND", b"")
    )
    assert pixels(path).tolist() == [[[40, 50, 60], [10, 20, 30]]]


def test_jpeg(tmp_path: Path) -> None:
    got = pixels(jpeg(tmp_path / "a.jpg", smooth()))
    assert np.abs(got.astype(int) - smooth()).max() < 12


def test_associated_alpha_of_tiff(tmp_path: Path) -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:10] = (100, 50, 0, 128)  # multiplied already
    path = write_tiff(tmp_path / "a.tif", rgba, extrasamples=["assocalpha"], tile=None)
    got = pixels(path)
    assert got[0, 0].tolist() == [227, 177, 127]
    assert got[15, 0].tolist() == [255, 255, 255]


def test_planar_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(smooth(), -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(pixels(path), smooth())


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("deep.png", imagecodecs.png_encode(np.zeros((4, 4, 3), np.uint16)), "16-bit"),
        ("cut.png", imagecodecs.png_encode(smooth())[:-9000], "damaged PNG"),
        ("head.png", imagecodecs.png_encode(smooth())[:20], "cut short"),
        ("cut.jpg", imagecodecs.jpeg8_encode(smooth())[:-900], "end marker is missing"),
        ("head.jpg", imagecodecs.jpeg8_encode(smooth())[:30], "header"),
        ("text.png", b"hello", "not a PNG, JPEG or TIFF"),
    ],
)
def test_refused(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SlideOpenError, match=says):
        opened(tmp_path / name)


def test_a_corrupt_png_is_refused(tmp_path: Path) -> None:
    data = bytearray(imagecodecs.png_encode(smooth()))
    for i in range(len(data) // 2, len(data) // 2 + 40):
        data[i] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SlideOpenError, match="damaged PNG"):
        opened(tmp_path / "a.png")


def test_tiffs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    deep = write_tiff(tmp_path / "deep.tif", smooth().astype(np.uint16))
    with pytest.raises(SlideOpenError, match="uint16"):
        opened(deep)
    pyramid = write_tiff(tmp_path / "pyramid.tif", smooth(), levels=2)
    with pytest.raises(SlideOpenError, match="pyramidal"):
        opened(pyramid)


def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(imagecodecs.png_encode(np.zeros((8, 8), np.uint8)))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)

    def never(_: bytes) -> None:
        pytest.fail("it was decoded")

    monkeypatch.setattr(imagecodecs, "png_decode", never)
    with pytest.raises(SlideOpenError, match="60000 x 60000 px is more than"):
        opened(tmp_path / "bomb.png")


@pytest.mark.parametrize("per_metre", [2835, 3779, 11811])  # 72, 96, 300 dpi
def test_a_print_resolution_is_none(tmp_path: Path, per_metre: int) -> None:
    path = png(tmp_path / "a.png", smooth(), per_metre)
    with pytest.raises(MissingMppError, match=r"pHYs \(found .* dpi, a print resolution\)"):
        opened(path, slide_mpp=None)
    with opened(path) as slide:
        assert slide.info.notes == ()


def test_a_print_resolution_of_jpeg_is_none(tmp_path: Path) -> None:
    for density in ((1, 72), (1, 300), (0, 1), (2, 28)):
        with pytest.raises(MissingMppError, match="JFIF density"):
            opened(jpeg(tmp_path / "a.jpg", smooth(), density), slide_mpp=None)


def test_a_microscopic_resolution_is_believed(tmp_path: Path) -> None:
    with opened(png(tmp_path / "a.png", smooth(), 2_000_000), slide_mpp=None) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.5, "metadata")
    with opened(jpeg(tmp_path / "a.jpg", smooth(), (2, 20_000)), slide_mpp=None) as slide:
        assert slide.info.mpp == 0.5
    with opened(write_tiff(tmp_path / "a.tif", smooth(), tile=None), slide_mpp=None) as slide:
        assert slide.info.mpp == pytest.approx(0.5)


def test_default_dpi_of_tiff_is_implausible(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", smooth(), tile=None, mpp=(352.8, 352.8))
    with pytest.raises(ImplausibleMppError, match=r"352\.8.*--slide-mpp"):
        opened(path, slide_mpp=None)


def test_reopened_handles_share_the_picture(tmp_path: Path) -> None:
    with opened(png(tmp_path / "a.png", smooth())) as slide, slide.reopen() as twin:
        assert twin._handle is slide._handle
        assert not twin._handle.flags.writeable
