from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from wsiprep.core.errors import SlideOpenError
from wsiprep.slide.fingerprint import fingerprint

MIB = 1 << 20


def test_is_sha256_of_length_and_ends(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 * MIB // 256)
    path = tmp_path / "a.svs"
    path.write_bytes(data)
    wanted = hashlib.sha256(len(data).to_bytes(8, "little") + data[:MIB] + data[-MIB:])
    assert fingerprint(path) == wanted.hexdigest()
    assert fingerprint(str(path)) == wanted.hexdigest()


@pytest.mark.parametrize("at", [0, MIB - 1, 2 * MIB, 3 * MIB - 1])
def test_changes_with_the_ends(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(bytes(3 * MIB))
    before = fingerprint(path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"x")
    assert fingerprint(path) != before


def test_changes_with_the_length_only(tmp_path: Path) -> None:
    for name, length in (("a", 3 * MIB), ("b", 3 * MIB + 1)):
        (tmp_path / name).write_bytes(bytes(length))
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_does_not_depend_on_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"same")
    (tmp_path / "b.tiff").write_bytes(b"same")
    assert fingerprint(tmp_path / "a.svs") == fingerprint(tmp_path / "b.tiff")


def test_mrxs_includes_its_data_folder(tmp_path: Path) -> None:
    (tmp_path / "m.mrxs").write_bytes(b"preview")
    data = tmp_path / "m"
    data.mkdir()
    (data / "Slidedat.ini").write_text("[GENERAL]\nA=1\n")
    (data / "Data0000.dat").write_bytes(b"abc")
    seen = {fingerprint(tmp_path / "m.mrxs")}
    (data / "Slidedat.ini").write_text("[GENERAL]\nA=2\n")
    seen.add(fingerprint(tmp_path / "m.mrxs"))
    (data / "Data0000.dat").write_bytes(b"abcd")
    seen.add(fingerprint(tmp_path / "m.mrxs"))
    (data / "Data0001.dat").write_bytes(b"")
    seen.add(fingerprint(tmp_path / "m.mrxs"))
    assert len(seen) == 4


def test_dicom_is_the_same_from_the_folder_and_any_file(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "slides" / "dicom_cmu1"
    whole = fingerprint(folder)
    assert {fingerprint(f) for f in sorted(folder.iterdir())[:3]} == {whole}
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    copy.chmod(0o755)
    assert fingerprint(copy) == whole
    (copy / "level-5-frames-0-1.dcm").unlink()
    assert fingerprint(copy) != whole


def test_unreadable_paths_are_typed(tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match="No such file"):
        fingerprint(tmp_path / "none.svs")
    with pytest.raises(SlideOpenError, match="no DICOM"):
        fingerprint(tmp_path)
