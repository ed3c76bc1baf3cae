"""Files of others: bounded, whatever they unfold to."""

from __future__ import annotations

import gzip

import pytest

from wsiprep.core.errors import ManifestError
from wsiprep.train.language import text_file
from wsiprep.train.language.text_file import read_lines, read_text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_plain_and_gzip_are_told_apart_by_content(tmp_path, pack):
    path = tmp_path / "whatever.name"
    path.write_bytes(pack("\ufeffone µ\r\ntwo\u2028\x85still two\n\nfour".encode()))
    assert read_text(path) == "one µ\r\ntwo\u2028\x85still two\n\nfour"
    assert list(read_lines(path)) == [
        (1, "one µ"), (2, "two\u2028\x85still two"), (3, ""), (4, "four"),
    ]  # fmt: skip


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_nothing_unfolds_without_bound(tmp_path, pack, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(pack(b"0" * 3_000_000))
    with pytest.raises(ManifestError, match="more than 1,000,000 bytes"):
        read_text(path, limit=1_000_000)
    assert len(read_text(path, limit=3_000_000)) == 3_000_000
    monkeypatch.setattr(text_file, "MAX_LINE_BYTES", 1_000_000)
    with pytest.raises(ManifestError, match="more than 1,000,000 bytes in line 1"):
        list(read_lines(path))
    path.write_bytes(pack(b"0\n" * 1_500_000))
    monkeypatch.setattr(text_file, "MAX_BYTES", 2_000_000)
    with pytest.raises(ManifestError, match="more than 2,000,000 bytes"):
        for _ in read_lines(path):
            pass


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "latin").write_bytes("a\nµ".encode("latin-1"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_text(tmp_path / "latin")
    with pytest.raises(ManifestError, match="line 2 is not UTF-8"):
        list(read_lines(tmp_path / "latin"))
    with pytest.raises(ManifestError, match="cannot be read"):
        read_text(tmp_path)
    packed = bytearray(gzip.compress(bytes(range(256)) * 50))
    packed[200] ^= 255
    (tmp_path / "bad").write_bytes(packed)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_text(tmp_path / "bad")
