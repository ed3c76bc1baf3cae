"""Damaged and hostile DICOM files: an error that says where, never pixels."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.slide.dicom_kinds import KINDS, VOLUME, noisy, opened
from tests.slide.made import one_tile_is_lost, reads_or_refuses
from tests.slide.made_dicom import (
    write_instance,
    write_series,
)
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size
from wsiprep.slide.dicom_elements import elements, items
from wsiprep.slide.dicom_frames import defragment
from wsiprep.slide.dicom_image import read_image


class TestDamage:
    @pytest.mark.parametrize(
        ("kind", "how"),
        [
            ("jpeg 422", "zeroed"),
            ("jpeg 422", "half zeroed"),
            ("jpeg 422", "no fragment"),
            # JPEG 2000 that is damaged later decodes to something, here as in OpenSlide.
            ("jpeg 2000 rgb", "zeroed"),
            ("jpeg 2000 rgb", "no fragment"),
        ],
    )
    def test_a_broken_frame_names_its_tile(self, tmp_path: Path, how: str, kind: str) -> None:
        path = write_instance(tmp_path / "hurt.dcm", noisy(), **KINDS[kind])
        image = read_image(path, VOLUME)
        assert image is not None
        offset, length = int(image.offsets[5]), int(image.counts[5])
        with opened(path) as slide:
            wanted = slide.read(Point(0, 0), 0, Size(128, 128))
        data = bytearray(path.read_bytes())
        start, end = {
            "zeroed": (offset + 8, offset + length),
            "half zeroed": (offset + length // 2, offset + length),
            "no fragment": (offset, offset + 8),
        }[how]
        data[start:end] = bytes(end - start)
        path.write_bytes(data)
        says = r"tile 5 of level 0.*\(128, 128\)"
        one_tile_is_lost(opened(path), Point(130, 140), says, Size(128, 128), wanted)

    def test_a_frame_that_would_unpack_to_more(self, tmp_path: Path) -> None:
        path = write_instance(tmp_path / "bomb.dcm", noisy(), **KINDS["jpeg 2000 rgb"])
        data = bytearray(path.read_bytes())
        at = data.rindex(b"\xff\x4f\xff\x51")  # the first is looked at when it is opened
        data[at + 8 : at + 16] = struct.pack(">II", 60000, 60000)
        path.write_bytes(data)
        with opened(path) as slide, pytest.raises(SlideReadError, match="128 x 128"):
            slide.read(Point(0, 0), 0, slide.info.size0)

    @pytest.mark.parametrize("percent", [2, 10, 50, 90, 99])
    @pytest.mark.parametrize("kind", ["jpeg 422", "plain", "no table"])
    def test_a_cut_file_does_not_open(self, tmp_path: Path, percent: int, kind: str) -> None:
        path = write_instance(tmp_path / "a.dcm", noisy(), **KINDS[kind])
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(SlideOpenError, match=r"cut short|no DICOM whole-slide|missing"):
            opened(path)

    def test_missing_files(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "case", noisy())
        with opened(folder) as slide:
            slide.read(Point(0, 0), 0, Size(8, 8))
            twin = slide.reopen()
            (folder / "1.dcm").unlink()
            with pytest.raises(SlideReadError, match="case"):
                twin.read(Point(0, 0), 0, Size(8, 8))
            assert slide.read(Point(0, 0), 1, Size(8, 8)).shape == (8, 8, 3)
        with pytest.raises(SlideOpenError, match="no file"):
            opened(folder / "1.dcm")

    @settings(
        deadline=None,
        max_examples=300,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.data())
    def test_any_change_of_the_header_ends_typed(self, tmp_path: Path, data: st.DataObject) -> None:
        """A slide, or a typed error, and never a huge read."""
        kind = data.draw(st.sampled_from(["jpeg 422", "undefined lengths", "sparse", "plain"]))
        path = write_instance(tmp_path / "f.dcm", noisy(60, 70), tile=32, **KINDS[kind])
        content = bytearray(path.read_bytes())
        end = content.index(b"\xe0\x7f\x10\0") + 60
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(128, end))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(132, end)) :]
        path.write_bytes(content)
        reads_or_refuses(path, "dicom", 99)


class TestElements:
    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=400))
    def test_any_bytes_end(self, data: bytes) -> None:
        for walk in (elements, items):
            try:
                for _, start, *end in walk(data, 0, len(data)):
                    assert all(start <= e <= len(data) for e in end)
            except (IndexError, RecursionError):
                pass

    def test_deep_nesting_is_an_error_of_its_own(self, tmp_path: Path) -> None:
        path = write_instance(tmp_path / "a.dcm", noisy())
        opening = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
        opening += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        data = path.read_bytes()
        at = data.index(b"\x08\0\x18\0UI")
        path.write_bytes(data[:at] + opening * 20000 + data[at:])
        with pytest.raises(SlideOpenError):
            opened(path)

    @given(st.binary(max_size=100))
    def test_defragment(self, data: bytes) -> None:
        def fragment(part: bytes) -> bytes:
            return struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part

        assert defragment(fragment(data)) == data
        assert defragment(fragment(data[:7]) + fragment(data[7:])) == data
        with pytest.raises(ValueError, match="offset table"):
            defragment(fragment(data)[:-1] + b"" if data else b"\1")
        with pytest.raises(ValueError, match="offset table"):
            defragment(fragment(data) + b"\xff")
