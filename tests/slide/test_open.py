"""Which reader, why, and what is said when none opens the file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.slide.made import aperio, overwrite, smooth, tile_place, write_tiff
from wsiprep.core import registry
from wsiprep.core.errors import (
    ImplausibleMppError,
    MissingMppError,
    SlideError,
    SlideOpenError,
    SlideReadError,
    UnknownPluginError,
)
from wsiprep.core.types import Point, Size
from wsiprep.slide import SlideConfig, open_slide
from wsiprep.slide.open import (
    looks_like_slide,
    readers,
    slide_id_of,
    slide_suffixes,
    why_not_tiled,
)
from wsiprep.slide.search import search_folder


class TestChoice:
    def test_auto_takes_the_first_that_opens(self, pyramid: Path) -> None:
        with open_slide(pyramid) as slide:
            assert slide.info.reader == "tiff"
            assert slide.info.reader_reason == "tiff: opened first"
            assert slide.info.id == "pyramid"
            assert slide.info.uri == str(pyramid)

    def test_auto_falls_back_and_says_why(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "odd.tiff", smooth(), compression="zstd", tile=None)
        with open_slide(path) as slide:
            assert slide.info.reader == "tiffslide"
            assert slide.info.reader_reason.startswith(
                "tiffslide: opened after tiff does not read it: not tiled; ndpi said: not an NDPI "
                "file; dicom said: not a DICOM file; openslide said: "
            )
            assert np.array_equal(slide.read(Point(0, 0), 0, slide.info.size0), smooth())

    def test_by_name(self, pyramid: Path) -> None:
        with open_slide(pyramid, SlideConfig(reader="tiffslide"), slide_id="x/1") as slide:
            assert slide.info.reader_reason == "tiffslide: chosen by name"
            assert slide.info.id == "x/1"

    def test_an_unknown_name(self, pyramid: Path) -> None:
        with pytest.raises(UnknownPluginError, match="openslide"):
            open_slide(pyramid, SlideConfig(reader="openslid"))

    def test_an_installed_reader_comes_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> object:
            calls.append(reason)
            return "opened"

        plugin = SimpleNamespace(EXTENSIONS=(".zzz",), create=create)
        monkeypatch.setattr(EntryPoint, "load", lambda self: plugin)
        point = EntryPoint("zzz", "zzz_reader", "wsiprep.readers")
        monkeypatch.setattr(registry, "entry_points", lambda group: [point])
        slide_suffixes.cache_clear()
        (tmp_path / "a.zzz").write_bytes(b"\1\2\3\4")
        assert open_slide(tmp_path / "a.zzz") == "opened"
        assert calls[0].startswith("zzz: opened after tiff said: not a TIFF file; ndpi said: ")
        assert looks_like_slide(tmp_path / "a.zzz")
        monkeypatch.undo()
        slide_suffixes.cache_clear()
        assert not looks_like_slide(tmp_path / "a.zzz")


class TestScale:
    def test_missing_mpp_ends_the_search(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.svs", smooth(), description=aperio(610, 500), mpp=None)
        with pytest.raises(MissingMppError, match=r"a: .*aperio\.MPP.*--slide-mpp.*`mpp`"):
            open_slide(path)
        with open_slide(path, SlideConfig(slide_mpp=0.25)) as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == (0.25, "override")

    def test_unreadable_mpp_is_shown(self, tmp_path: Path) -> None:
        text = aperio(610, 500, MPP="abc")
        path = write_tiff(tmp_path / "a.svs", smooth(), description=text, mpp=None)
        with pytest.raises(ImplausibleMppError, match="'abc'"):
            open_slide(path)

    def test_missing_mpp_does_not_mask_a_corrupt_file(self, tmp_path: Path) -> None:
        text = aperio(610, 500)
        path = write_tiff(tmp_path / "a.svs", smooth(), compression="jpeg", description=text,
                          mpp=None)  # fmt: skip
        offset, length = tile_place(path, 0)
        overwrite(path, offset, bytes(length))
        for reader in ("auto", "tiffslide"):
            with pytest.raises(SlideReadError, match=r"origin \(0, 0\)"):
                open_slide(path, SlideConfig(reader=reader))

    def test_a_refusal_tells_which_readers_failed_before(self, shared_data: Path) -> None:
        with pytest.raises(
            ImplausibleMppError,
            match=r"Opened by image; tiff does not read it: not tiled; .*; openslide said",
        ):
            open_slide(shared_data / "slides" / "li_grey10kx5k.tif")


class TestNothingOpens:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"id,label\n1,tumour\n" * 50, "text file"),
            ("Übersicht\n".encode() * 3, "text file"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"PK\x03\x04" + bytes(50), "ZIP archive"),
            (bytes(5000), "zeros only"),
            (bytes(range(1, 256)) * 9, "none of the slide formats"),
            (b"II*\0" + (10**6).to_bytes(4, "little") + bytes(600), "cut short"),
        ],
    )
    @pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide", "image"])
    def test_says_what_the_file_is(
        self, tmp_path: Path, data: bytes, says: str, reader: str
    ) -> None:
        path = tmp_path / "case 1.svs"
        path.write_bytes(data)
        with pytest.raises(SlideOpenError, match=says) as caught:
            open_slide(path, SlideConfig(reader=reader))
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("case 1: ")
        if data and reader == "auto":
            for name in readers.builtin_names():
                assert re.search(rf"\b{name} (said|does not read it): ", str(caught.value)), name

    def test_missing_paths(self, tmp_path: Path) -> None:
        with pytest.raises(SlideOpenError, match="no file or folder"):
            open_slide(tmp_path / "none.svs")
        with pytest.raises(SlideOpenError, match="Remote addresses"):
            open_slide("s3://bucket/none.svs")
        (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
        with pytest.raises(SlideOpenError, match="link to a file that is not there"):
            open_slide(tmp_path / "link.svs")
        with pytest.raises(SlideOpenError, match="cannot be read"):
            open_slide(tmp_path / "nul\0.svs")
        (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
        with pytest.raises(SlideOpenError):
            open_slide(tmp_path / "loop.svs")

    def test_a_folder_without_slides(self, tmp_path: Path) -> None:
        with pytest.raises(SlideOpenError, match="folder without DICOM"):
            open_slide(tmp_path)

    @pytest.mark.parametrize("percent", [0, 1, 25, 50, 90, 99])
    @pytest.mark.parametrize("kind", ["jpeg", "deflate", "pyramid"])
    @pytest.mark.parametrize("reader", ["auto", "tiffslide", "image"])
    def test_a_truncated_tiff(self, tmp_path: Path, percent: int, kind: str, reader: str) -> None:
        whole = write_tiff(tmp_path / "w.tiff", smooth(), levels=3 if kind == "pyramid" else 1,
                           compression="jpeg" if kind == "jpeg" else "deflate")  # fmt: skip
        data = whole.read_bytes()
        path = tmp_path / "cut.tiff"
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(SlideOpenError, match=r"cut: .*(cut short|empty|not flat)"):
            open_slide(path, SlideConfig(reader=reader))

    @pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "tiffslide"])
    def test_a_tiff_whose_last_tile_is_cut(self, tmp_path: Path, reader: str) -> None:
        """All its directories are there: they come before their tiles."""
        path = write_tiff(tmp_path / "cut.tif", smooth(), levels=2, compression=None)
        path.write_bytes(path.read_bytes()[:-1000])
        self.is_called_cut(path, reader)

    def test_a_subifd_whose_last_tile_is_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.ome.tif"
        how: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb"}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(smooth(), subifds=1, **how)
            tiff.write(smooth()[::2, ::2], subfiletype=1, **how)
        with tifffile.TiffFile(path, mode="r+b") as whole:
            first: Any = whole.pages.first
            offsets = first.pages[0].tags["TileOffsets"]
            offsets.overwrite([*offsets.value[:-1], path.stat().st_size - 1000])
        self.is_called_cut(path, "tiff")

    def is_called_cut(self, path: Path, reader: str) -> None:
        with pytest.raises(SlideOpenError) as caught:
            open_slide(path, SlideConfig(reader=reader, slide_mpp=0.5))
        parts = "1 of 6 parts of a picture of 305 x 250 px"
        assert f"cut short ({parts} lie beyond its end): copy it again" in str(caught.value.hint)

    @pytest.mark.parametrize("percent", [1, 25, 50, 90, 99])
    def test_a_truncated_svs(self, tmp_path: Path, percent: int, shared_data: Path) -> None:
        data = (shared_data / "slides" / "cmu-1-small-region.svs").read_bytes()
        path = tmp_path / "cut.svs"
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(SlideOpenError, match="cut short"):
            open_slide(path)


class TestRealFiles:
    def test_dicom_twin(self, shared_data: Path) -> None:
        slides = shared_data / "slides"
        member = slides / "dicom_cmu1" / "level-3-frames-0-1.dcm"
        with (
            open_slide(slides / "dicom_cmu1") as folder,
            open_slide(member) as file,
            open_slide(slides / "cmu-1-small-region.svs") as svs,
        ):
            assert folder.info.id == "dicom_cmu1"
            assert folder.info.vendor == "dicom"
            assert folder.info.fingerprint == file.info.fingerprint != svs.info.fingerprint
            assert folder.info.size0 == file.info.size0 == svs.info.size0
            assert folder.info.mpp == svs.info.mpp == 0.499
            box = Point(900, 1200), 0, Size(500, 400)
            assert np.array_equal(folder.read(*box), file.read(*box))
            # Compressed twice, with half the colour resolution: finer than 8 px nothing is equal.
            difference = folder.read(*box).astype(int) - svs.read(*box)
            assert np.abs(difference).mean() < 10
            assert np.abs(difference.mean((0, 1))).max() < 1
            # Its lower levels are no area averages: noisier, of the same mean colour.
            a, b = (s.thumbnail(8).astype(int) for s in (folder, svs))
            assert a.shape == b.shape
            assert np.abs((a - b).mean((0, 1))).max() < 1.5
            # Its files say RGB and hold YCbCr: OpenSlide alone shows glass in salmon pink.
            assert any("YCbCr" in note for note in folder.info.notes)

    def test_levels_that_are_not_square_are_left_out(self, shared_data: Path) -> None:
        with open_slide(shared_data / "slides" / "dicom_cmu1") as slide:
            assert len(slide.info.level_sizes) == 8  # of 12; the last is one pixel
            assert not any("level" in note for note in slide.info.notes)

    def test_ndpi(self, shared_data: Path) -> None:
        path = shared_data / "slides" / "hamamatsu_test3-DAPI.ndpi"
        with open_slide(path) as slide:
            assert slide.info.reader == "ndpi"
            assert slide.info.downsamples == (1, 2, 4, 8)
            assert slide.info.mpp == pytest.approx(0.22818, abs=1e-5)
            assert slide.info.objective == 40
            assert slide.info.notes == ()
            wanted = slide.read(Point(1000, 1000), 0, Size(64, 64))
        with open_slide(path, SlideConfig(reader="tiffslide")) as slide:
            assert np.array_equal(slide.read(Point(1000, 1000), 0, Size(64, 64)), wanted)
            assert any("hamamatsu" in note for note in slide.info.notes)

    @pytest.mark.parametrize("name", [
        "osp_unreadable.svs", "osp_unopenable.tiff", "hs2p_test-mask.tif", "li_grey10kx5k.tif",
        "li_rgb_geotiff.tiff", "li_yb10kx5k.zstd.tiff", "li_sample_zarr.zip", "osp_boxes.tiff",
        "osp_boxes_0.dcm", "highdicom_sm_control.dcm", "highdicom_sm_image.dcm", "dicom_enc",
    ])  # fmt: skip
    @pytest.mark.parametrize("reader", ["auto", "ndpi", "dicom", "openslide", "tiffslide", "image"])
    def test_odd_files_end_as_a_slide_or_a_typed_error(
        self, shared_data: Path, name: str, reader: str
    ) -> None:
        failure = None
        try:
            with open_slide(shared_data / "slides" / name, SlideConfig(reader=reader)) as slide:
                region = slide.read(Point(0, 0), 0, Size(16, 16))
                assert region.shape == (16, 16, 3)
                assert 0.05 <= slide.info.mpp <= 20
        except SlideError as err:
            failure = err
        assert failure is None or (failure.slide and failure.stage == "slide" and failure.hint)

    def test_unreadable_pixels_are_an_error_of_reading(self, shared_data: Path) -> None:
        with (
            open_slide(shared_data / "slides" / "osp_unreadable.svs") as slide,
            pytest.raises(SlideReadError, match="Bogus marker length"),
        ):
            slide.read(Point(0, 0), 0, Size(8, 8))

    def test_dicom_that_is_no_slide(self, shared_data: Path) -> None:
        with pytest.raises(SlideOpenError, match="not of a whole-slide image"):
            open_slide(shared_data / "slides" / "highdicom_sm_control.dcm")


class TestCatalog:
    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("TCGA-02.abc.svs", "TCGA-02.abc"),
            ("cafe\u0301.svs", "caf\u00e9"),
            ("a\nb\t.svs", "a_b_"),
            ("a\\b.svs", "a_b"),
            ("NA", "NA"),
            ("001.tiff", "001"),
            (" .svs", "_"),
            ("🔬 slide.svs", "🔬 slide"),
            (b"caf\xe9.svs", "caf_"),
        ],
    )
    def test_slide_id(self, name: str | bytes, wanted: str) -> None:
        assert slide_id_of("/data/" + os.fsdecode(name)) == wanted

    def test_the_id_of_a_folder_is_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "case.1").mkdir()
        assert slide_id_of(tmp_path / "case.1") == "case.1"
        assert slide_id_of(str(tmp_path / "case.1") + "/") == "case.1"

    def test_suffixes_are_those_of_all_readers(self) -> None:
        assert {".svs", ".ndpi", ".mrxs", ".dcm", ".png", ".scn", ".bif"} <= slide_suffixes()
        assert all(s == s.lower() and s.startswith(".") for s in slide_suffixes())

    def test_a_folder_is_searched(self, tmp_path: Path) -> None:
        for name in ("b.SVS", "a.tiff", "._a.tiff", "notes.txt", "m.mrxs", "m/Data0.png",
                     "case/0.dcm", "case/1.dcm", "case/deep/x.svs", "sub/c.ndpi",
                     "sub/dcm/0.dcm", ".hidden/d.svs", "mixed/0.dcm", "mixed/e.svs"):  # fmt: skip
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "sub" / "loop").symlink_to(tmp_path)
        assert looks_like_slide(tmp_path / "case")
        assert not looks_like_slide(tmp_path / "sub")
        assert not looks_like_slide(tmp_path / "._a.tiff")
        assert not looks_like_slide(tmp_path / "absent.svs")

        def names(recursive: bool) -> list[str]:
            found = search_folder(tmp_path, recursive=recursive)
            return sorted(str(p.relative_to(tmp_path)) for p in found.slides)

        flat = ["a.tiff", "b.SVS", "case", "m.mrxs", "mixed"]
        assert names(recursive=False) == flat
        deep = ["case/deep/x.svs", "sub/c.ndpi", "sub/dcm"]
        assert names(recursive=True) == sorted([*flat, "mixed/e.svs", *deep])
        assert search_folder(tmp_path / "case").slides == (tmp_path / "case",)

    def test_listing_extensions_imports_no_slide_library(self) -> None:
        code = (
            "import sys; from wsiprep.slide.open import slide_suffixes; assert slide_suffixes();"
            "sys.exit(', '.join({'openslide', 'tiffslide', 'tifffile', 'zarr', 'torch'}"
            " & set(sys.modules)) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestWhyNotTiled:
    def test_a_tiff_left_to_others_says_why(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "odd.tiff", smooth(), compression="zstd", tile=None)
        with open_slide(path) as slide:
            assert why_not_tiled(slide) == (
                "Slides read by tiffslide, patch by patch: tiff does not read it: not tiled."
            )

    def test_nothing_to_say(self, pyramid: Path, tmp_path: Path) -> None:
        flat = tmp_path / "flat.png"
        flat.write_bytes(imagecodecs.png_encode(smooth()))
        for path, cfg in (
            (pyramid, SlideConfig()),
            (pyramid, SlideConfig(reader="openslide")),
            (flat, SlideConfig(slide_mpp=0.5)),
        ):
            with open_slide(path, cfg) as slide:
                assert why_not_tiled(slide) is None, slide.info.reader_reason
