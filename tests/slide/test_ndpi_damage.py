"""Reader `ndpi` on damaged files: a typed error, never pixels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.slide.made import one_tile_is_lost, overwrite, reads_or_refuses
from tests.slide.made_ndpi import (
    interval_starts,
    noisy,
    opened,
    pages_of,
    same_as_openslide,
    write_ndpi,
)
from wsiprep.core.errors import SlideOpenError, SlideReadError
from wsiprep.core.types import Point, Size


class TestDamage:
    @pytest.fixture
    def hurt(self, tmp_path: Path) -> Path:
        return write_ndpi(tmp_path / "hurt.ndpi", pages_of(noisy(), shrinks=[1]))

    def place(self, path: Path, row: int, col: int) -> tuple[int, int]:
        """Position and length of an interval of 16 a row, marker included."""
        starts = [12 + at for at in interval_starts(pages_of(noisy(), shrinks=[1])[0].jpeg)]
        number = row * 16 + col
        return starts[number], starts[number + 1] - starts[number]

    @pytest.mark.parametrize("how", ["zeroed", "marker inside", "no marker after", "cut short"])
    def test_a_broken_interval_names_its_tile(self, hurt: Path, how: str) -> None:
        with opened(hurt) as slide:
            wanted = slide.read(Point(0, 0), 0, Size(64, 256))
        offset, length = self.place(hurt, 40, 3)  # tile 19: second row, fourth column
        damage = {
            "zeroed": (offset, bytes(length - 2)),
            "marker inside": (offset + length // 2, b"\xff\xd2"),
            "no marker after": (offset + length - 2, b"\0\0"),
            "cut short": (offset + 4, b"\xff\xd9"),
        }
        overwrite(hurt, *damage[how])
        says = r"tile 19 of level 0.*\(192, 256\)"
        one_tile_is_lost(opened(hurt), Point(200, 300), says, Size(64, 256), wanted)

    def test_padding_before_a_marker_is_harmless(self, tmp_path: Path) -> None:
        page = pages_of(noisy(), shrinks=[1])[0]
        head = interval_starts(page.jpeg)[0]
        entropy = re.sub(rb"\xff[\xd0-\xd7\xd9]", lambda m: bytes(3) + m[0], page.jpeg[head:])
        page.jpeg = page.jpeg[:head] + entropy
        same_as_openslide(write_ndpi(tmp_path / "padded.ndpi", [page]), levels=1)

    def test_a_file_cut_while_open(self, hurt: Path) -> None:
        with opened(hurt) as slide:
            with hurt.open("r+b") as file:
                file.truncate(30000)
            with pytest.raises(SlideReadError, match="beyond the end of the file"):
                slide.read(Point(0, 600), 0, Size(64, 30))

    def test_a_missing_file(self, hurt: Path) -> None:
        with opened(hurt) as slide:
            twin = slide.reopen()
            hurt.unlink()
            with pytest.raises(SlideReadError, match="hurt"):
                twin.read(Point(0, 0), 0, Size(8, 8))
        with pytest.raises(SlideOpenError, match="no file"):
            opened(hurt)

    @pytest.mark.parametrize("percent", [1, 30, 60, 90, 99])
    @pytest.mark.parametrize("reader", ["auto", "ndpi"])
    def test_a_cut_file_does_not_open(self, hurt: Path, percent: int, reader: str) -> None:
        data = hurt.read_bytes()
        hurt.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(SlideOpenError):
            opened(hurt, reader)

    def test_a_lost_last_directory_is_noticed(self, tmp_path: Path) -> None:
        path = write_ndpi(tmp_path / "a.ndpi", pages_of(noisy()))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(SlideOpenError, match="cut short: directory 1"):
            opened(path)

    @settings(
        deadline=None,
        max_examples=150,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.data())
    def test_any_flipped_header_byte_ends_typed(self, tmp_path: Path, data: st.DataObject) -> None:
        """Directories and JPEG header: a slide, or a typed error, and never a huge read."""
        page = pages_of(noisy(128, 256), shrinks=[1])[0]
        path = write_ndpi(tmp_path / "f.ndpi", [page])
        whole = bytearray(path.read_bytes())
        head = 12 + interval_starts(page.jpeg)[0]
        tail = 12 + len(page.jpeg)
        places = st.one_of(st.integers(0, head - 1), st.integers(tail, len(whole) - 1))
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(places)] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        reads_or_refuses(path, "ndpi", 300)
