"""Reader `dicom` against OpenSlide and our reader of it, and with damaged files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slide.dicom_kinds import KINDS, noisy, opened, whole
from tests.slide.made_dicom import (
    J2K_LOSSLESS,
    element,
    jpeg2000,
    tiles_of,
    write_instance,
    write_series,
)
from tests.slide.test_dicom import IMPLICIT, write_dicom
from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import MissingMppError, SlideError, SlideOpenError
from wsiprep.core.types import Point, Size
from wsiprep.slide.readers.dicom import DicomSlide
from wsiprep.testing.slide import SlideContract


def same_info(ours: Slide, theirs: Slide) -> None:
    for name in ("vendor", "size0", "mpp", "mpp_source", "objective", "downsamples", "level_sizes",
                 "bounds0", "fingerprint", "notes"):  # fmt: skip
        assert getattr(ours.info, name) == getattr(theirs.info, name), name


def same_as_openslide(path: Path) -> None:
    with opened(path) as ours, opened(path, "openslide") as theirs:
        same_info(ours, theirs)
        for level in range(len(ours.info.level_sizes)):
            assert np.array_equal(whole(ours, level), whole(theirs, level)), level


class TestMadeDicom(SlideContract):
    @pytest.fixture(autouse=True, params=["jpeg 422", "plain", "sparse"])
    def _file(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.path = write_series(tmp_path / "case", noisy(), **KINDS[request.param])

    def open_slide(self) -> Slide:
        return opened(self.path)

    def reference(self) -> NDArray[np.uint8]:
        with opened(self.path, "openslide") as slide:
            return whole(slide)


class TestRealDicom(SlideContract):
    @pytest.fixture(autouse=True)
    def _file(self, shared_data: Path) -> None:
        self.path = shared_data / "slides" / "dicom_cmu1"

    def open_slide(self) -> Slide:
        return opened(self.path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_openslide(kind: str, tmp_path: Path) -> None:
    same_as_openslide(write_series(tmp_path / "case", noisy(), **KINDS[kind]))


@pytest.mark.parametrize("name", ["osp_boxes_0.dcm", "highdicom_sm_image.dcm"])
def test_the_bytes_of_openslide_of_real_files(name: str, shared_data: Path) -> None:
    same_as_openslide(shared_data / "slides" / name)


def test_auto_takes_it_for_files_and_folders(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", noisy())
    for path in (folder, folder / "1.dcm"):
        with opened(path, "auto") as slide:
            assert slide.info.reader == "dicom"
            assert isinstance(slide, DicomSlide)
            assert isinstance(slide, TiledSlide)
            assert len(slide.info.level_sizes) == 3
            assert slide.tiling(0).tile == Size(128, 128)


@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    level=st.integers(0, 2), x=st.integers(-90, 500), y=st.integers(-90, 400),
    w=st.integers(1, 300), h=st.integers(1, 300),
)  # fmt: skip
def test_any_rectangle(
    level: int, x: int, y: int, w: int, h: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not _open:
        path = write_series(tmp_path_factory.mktemp("dicom") / "case", noisy(304, 416))
        _open.extend((opened(path), opened(path, "openslide")))
    ours, theirs = _open
    region = ours.read(Point(x, y), level, Size(w, h))
    assert np.array_equal(region, theirs.read(Point(x, y), level, Size(w, h)))


_open: list[Slide] = []


class TestColours:
    @pytest.fixture
    def mislabelled(self, tmp_path: Path) -> Path:
        return write_series(tmp_path / "case", noisy(), photometric="RGB")

    def test_a_mislabelled_slide_is_corrected(self, mislabelled: Path, tmp_path: Path) -> None:
        """To what OpenSlide makes of the right label; OpenCV's rounding differs from it by one."""
        right = write_series(tmp_path / "right", noisy())
        with (
            opened(mislabelled) as ours,
            opened(mislabelled, "openslide") as theirs,
            opened(right, "openslide") as wanted,
        ):
            same_info(ours, theirs)
            assert any("YCbCr" in note for note in ours.info.notes)
            assert np.array_equal(whole(ours), whole(wanted))
            assert np.abs(whole(ours).astype(int) - whole(theirs)).max() <= 1

    def test_a_real_one(self, shared_data: Path) -> None:
        path = shared_data / "slides" / "dicom_cmu1"
        with opened(path) as ours, opened(path, "openslide") as theirs:
            same_info(ours, theirs)
            for level in range(len(ours.info.level_sizes)):
                difference = whole(ours, level).astype(int) - whole(theirs, level)
                assert np.abs(difference).max() <= 1

    def test_ybr_full_is_read_too(self, tmp_path: Path) -> None:
        """OpenSlide refuses it."""
        a = write_series(tmp_path / "a", noisy(), photometric="YBR_FULL")
        b = write_series(tmp_path / "b", noisy())
        with opened(a) as one, opened(b) as two:
            assert np.array_equal(whole(one), whole(two))

    def test_reversible_jpeg_2000_is_lossless(self, tmp_path: Path) -> None:
        path = write_series(
            tmp_path / "a", noisy(), encode=jpeg2000(mct=True), syntax=J2K_LOSSLESS,
            photometric="YBR_RCT",
        )  # fmt: skip
        with opened(path) as slide:
            assert np.array_equal(whole(slide), noisy())


class TestLevels:
    def test_label_overview_and_thumbnail_are_left_out(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "case", noisy(), shrinks=[1, 2])
        for number, kind in enumerate(("LABEL\\NONE", "OVERVIEW\\NONE", "THUMBNAIL\\RESAMPLED")):
            write_instance(
                folder / f"x{number}.dcm", noisy(100, 90), instance=f"1.9.{number}",
                image_type=f"ORIGINAL\\PRIMARY\\{kind}", tile=128,
            )  # fmt: skip
        with opened(folder) as ours:
            assert len(ours.info.level_sizes) == 2
        with opened(folder / "x0.dcm") as ours:  # any file of the series stands for it
            assert len(ours.info.level_sizes) == 2

    def test_a_concatenation(self, tmp_path: Path) -> None:
        """Which OpenSlide 4.0 refuses."""
        single = write_series(tmp_path / "one", noisy(), shrinks=[1])
        for name, options in (("full", {}), ("sparse", {"sparse": True})):
            folder = tmp_path / name
            folder.mkdir()
            half = len(tiles_of(noisy(), 128)) // 2
            for first, keep in ((0, range(half)), (half, range(half, 12))):
                write_instance(
                    folder / f"{first}.dcm", noisy(), instance=f"1.7.{first}", keep=keep,
                    part=(first, "1.7"), **options,
                )  # fmt: skip
            with opened(folder) as parts, opened(single) as one:
                assert np.array_equal(whole(parts), whole(one))
            (folder / "0.dcm").unlink()
            if options:
                with opened(folder) as slide:
                    assert (slide.read(Point(0, 0), 0, Size(128, 128)) == 255).all()
            else:
                with pytest.raises(SlideOpenError, match="6 of 12 frames are missing"):
                    opened(folder)

    def test_two_pictures_of_one_size_are_refused(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "case", noisy(), shrinks=[1])
        write_instance(folder / "b.dcm", noisy(), instance="1.9")
        with pytest.raises(SlideOpenError, match=r"b\.dcm has its size and is no part"):
            opened(folder)

    def test_a_copy_in_the_folder_is_harmless(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "case", noisy())
        (folder / "copy.dcm").write_bytes((folder / "0.dcm").read_bytes())
        with opened(folder) as slide:
            assert len(slide.info.level_sizes) == 3

    def test_no_level(self, tmp_path: Path) -> None:
        write_instance(tmp_path / "a.dcm", noisy(), image_type="ORIGINAL\\PRIMARY\\LABEL\\NONE")
        with pytest.raises(SlideOpenError, match="no instance of the series is a level"):
            opened(tmp_path)


class TestScale:
    def test_not_square(self, tmp_path: Path) -> None:
        write_instance(tmp_path / "a.dcm", noisy(), spacing="0.0005\\0.0006")
        for reader in ("dicom", "openslide"):
            with pytest.raises(SlideError, match=r"0\.6.*0\.5"):
                opened(tmp_path, reader)

    @pytest.mark.parametrize("spacing", [None, "a\\b"])
    def test_none(self, tmp_path: Path, spacing: str | None) -> None:
        write_instance(tmp_path / "a.dcm", noisy(), spacing=spacing, objective=None)
        for reader in ("auto", "openslide"):
            with pytest.raises(MissingMppError):
                opened(tmp_path, reader)
        with opened(tmp_path, slide_mpp=0.25) as slide:
            assert slide.info.mpp == 0.25


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"photometric": "MONOCHROME2"}, "with MONOCHROME2"),
            ({"syntax": "1.2.840.10008.1.2.4.80"}, r"1\.2\.840\.10008\.1\.2\.4\.80 with"),
            ({"syntax": "1.2.840.10008.1.2"}, "no DICOM whole-slide image"),
            ({"syntax": "1.2.840.10008.1.2.2"}, "no DICOM whole-slide image"),
            ({"changed": {(0x28, 0x100): element(0x28, 0x100, "US", [16])}}, "8 bits"),
            ({"changed": {(0x28, 0x6): element(0x28, 0x6, "US", [1])}}, "8 bits"),
            ({"changed": {(0x48, 0x303): element(0x48, 0x303, "UL", [2])}}, "one plane"),
            ({"changed": {(0x28, 0x8): element(0x28, 0x8, "IS", "11")}}, "12 fragments for 11"),
            ({"changed": {(0x28, 0x8): element(0x28, 0x8, "IS", "0")}}, "0 frames"),
            ({"changed": {(0x28, 0x8): element(0x28, 0x8, "IS", "x")}}, "damaged"),
            ({"changed": {(0x28, 0x10): element(0x28, 0x10, "US", [120])}}, "128 x 128"),
            ({"changed": {(0x28, 0x10): element(0x28, 0x10, "US", [0])}}, "128 x 0 px"),
            ({"changed": {(0x48, 0x6): element(0x48, 0x6, "UL", [0])}}, "no pixels"),
            ({"changed": {(0x48, 0x6): element(0x48, 0x6, "UL", [2**31])}}, "frames of 128"),
            ({"keep": [0, 1, 2]}, "9 of 12 frames are missing"),
            ({"split": 2, "table": "none"}, "24 fragments for 12 frames"),
            ({"encode": lambda tile: b"no JPEG at all"}, "not decoded here"),
            ({"sparse": True, "changed": {(0x5200, 0x9230): b""}}, "place of 0 of its 12"),
        ],
    )
    def test_says_why(self, tmp_path: Path, options: dict[str, Any], says: str) -> None:
        write_instance(tmp_path / "a.dcm", noisy(), **options)
        with pytest.raises(SlideOpenError, match=says):
            opened(tmp_path)

    def test_implicit_elements(self, tmp_path: Path) -> None:
        path = write_dicom(tmp_path / "a.dcm", "1.2.3", IMPLICIT)
        with pytest.raises(SlideOpenError, match="its elements are implicit"):
            opened(path)

    def test_sparse_frames_off_the_grid(self, tmp_path: Path) -> None:
        path = write_instance(tmp_path / "a.dcm", noisy(), sparse=True)
        data = path.read_bytes()
        at = data.index(b"\x48\0\x1e\x02SL") + 8
        for column, says in ((2, "not on a grid"), (129, "do not lie"), (12801, "not on a grid")):
            path.write_bytes(data[:at] + struct.pack("<i", column) + data[at + 4 :])
            with pytest.raises(SlideOpenError, match=says):
                opened(path)

    def test_other_files(self, tmp_path: Path, pyramid: Path, shared_data: Path) -> None:
        slides = shared_data / "slides"
        for path, says in (
            (pyramid, "not a DICOM file"),
            (tmp_path, "no DICOM whole-slide image"),
            (slides / "highdicom_sm_control.dcm", "no DICOM whole-slide image"),
        ):
            with pytest.raises(SlideOpenError, match=says):
                opened(path)
