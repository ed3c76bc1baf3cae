from __future__ import annotations

import struct
from pathlib import Path

import pytest

from wsiprep.core.errors import SlideOpenError
from wsiprep.slide.dicom import WSI_STORAGE, is_dicom, read_header, slide_instances

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"


def element(group: int, number: int, vr: bytes, value: bytes, explicit: bool = True) -> bytes:
    value += b"\0" * (len(value) % 2)
    tag = struct.pack("<HH", group, number)
    if not explicit:
        return tag + struct.pack("<I", len(value)) + value
    return tag + vr + struct.pack("<H", len(value)) + value


def write_dicom(path: Path, series: str, syntax: str = EXPLICIT, sop: str = WSI_STORAGE) -> Path:
    """A header with a sequence of undefined length that names another series."""
    explicit = syntax != IMPLICIT
    undefined = struct.pack("<I", 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item += element(0x0020, 0x000E, b"UI", b"6.6.6", explicit)
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    head = struct.pack("<HH", 0x0008, 0x1115) + (b"SQ\0\0" if explicit else b"") + undefined
    sequence = head + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    body = element(0x0008, 0x0016, b"UI", sop.encode(), explicit) + sequence
    body += element(0x0020, 0x000E, b"UI", series.encode(), explicit)
    body += element(0x0028, 0x0010, b"US", b"\x10\0", explicit)
    meta = element(0x0002, 0x0010, b"UI", syntax.encode())
    path.write_bytes(bytes(128) + b"DICM" + meta + body)
    return path


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_header_skips_nested_series(tmp_path: Path, syntax: str) -> None:
    header = read_header(write_dicom(tmp_path / "a.dcm", "1.2.3", syntax))
    assert header is not None
    assert (header.sop_class, header.series) == (WSI_STORAGE, "1.2.3")


def test_what_cannot_be_walked_is_none(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", "1.2.3", DEFLATED)
    assert read_header(path) is None
    whole = write_dicom(path, "1.2.3").read_bytes()
    for cut in range(0, len(whole) - 30, 7):
        path.write_bytes(whole[:cut])
        header = read_header(path)
        assert header is None or header.series in ("", "1.2.3")


def test_several_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    a0, a1 = (write_dicom(tmp_path / f"a{i}.dcm", "1.1") for i in (0, 1))
    write_dicom(tmp_path / "c.dcm", "1.3", sop="1.2.840.10008.5.1.4.1.1.66.4")  # segmentation
    (tmp_path / "readme.dcm").write_text("not DICOM")
    assert slide_instances(tmp_path) == (a0, a1)
    b = write_dicom(tmp_path / "b.dcm", "1.2")
    with pytest.raises(SlideOpenError, match="2 DICOM") as caught:
        slide_instances(tmp_path)
    assert "a0.dcm, b.dcm" in str(caught.value)
    assert slide_instances(b) == (b,)
    assert slide_instances(a1) == (a0, a1)


def test_real_files(shared_data: Path) -> None:
    slides = shared_data / "slides"
    assert len(slide_instances(slides / "dicom_cmu1")) == 12
    assert slide_instances(slides / "dicom_enc") == ()
    assert is_dicom(slides / "highdicom_sm_image.dcm")
    assert not is_dicom(slides / "osp_small.svs")
    assert slide_instances(slides / "highdicom_sm_control.dcm") == ()
