"""Which slide belongs to which reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiprep.core.errors import ManifestError, UsageError
from wsiprep.tasks.evaluate_config import PairsConfig
from wsiprep.tasks.reference_pairs import find_pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def of_folder(folder: Path) -> tuple[dict[str, str], list[str]]:
    pairs, notes = find_pairs(PairsConfig(pairs=(str(folder),)))
    return {str(p.path.relative_to(folder)): str(p.reference.relative_to(folder)) for p in pairs}, [
        note.replace(str(folder), "") for note in notes
    ]


def test_pairs_of_one_folder(tmp_path):
    touch(
        tmp_path, "a.png", "a_mask.png", "b.svs", "b-mask.tif", "c.jpg", "c.geojson",
        "lonely.png", "nobody_mask.png", ".hidden_mask.png", "notes.txt",
    )  # fmt: skip
    pairs, notes = of_folder(tmp_path)
    assert pairs == {"a.png": "a_mask.png", "b.svs": "b-mask.tif", "c.jpg": "c.geojson"}
    assert len(notes) == 2
    assert any("lonely.png has no reference" in note for note in notes)
    assert any("nobody_mask.png has no slide" in note for note in notes)


def test_pairs_of_two_folders(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.tif", "masks/a.png", "masks/b_mask.png")
    pairs, notes = of_folder(tmp_path)
    assert pairs == {"images/a.png": "masks/a.png", "images/b.tif": "masks/b_mask.png"}
    assert notes == []


def test_folders_that_cannot_be_used(tmp_path):
    touch(tmp_path / "two", "a.png", "a_mask.png", "a.geojson")
    with pytest.raises(UsageError, match="more than one reference"):
        of_folder(tmp_path / "two")
    touch(tmp_path / "none", "a.png")
    with pytest.raises(UsageError, match="no slide with a reference"):
        of_folder(tmp_path / "none")
    with pytest.raises(UsageError, match="not a folder"):
        of_folder(tmp_path / "two" / "a.png")
    with pytest.raises(UsageError, match="no slides were named"):
        find_pairs(PairsConfig())
    with pytest.raises(UsageError, match="--split needs a manifest"):
        find_pairs(PairsConfig(pairs=(str(tmp_path),), split="test"))


def from_manifest(tmp_path: Path, text: str, **values):
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    return find_pairs(PairsConfig(manifest=manifest, **values))


def test_a_manifest_in_full(tmp_path):
    pairs, notes = from_manifest(
        tmp_path,
        "slide_id,image_path,reference,reference_pen,predicted,mpp,case_id,split,holes,label\n"
        "s1,a.svs,/abs/a.png,pen.png,p.png,0.5,P1,test,remove,x\n"
        ",b.svs,b.geojson,,,,,train,,y\n"
        ",c.svs,,,,,P1,test,,\n",
    )
    first, second = pairs
    assert (first.id, first.path, first.reference) == (
        "s1", tmp_path / "a.svs", Path("/abs/a.png"),
    )  # fmt: skip
    assert (first.reference_pen, first.predicted) == (tmp_path / "pen.png", tmp_path / "p.png")
    assert (first.group, first.split) == ("P1", "test")
    assert first.overrides == {"slide_mpp": "0.5", "holes": "remove"}
    assert (second.id, second.reference_pen, second.predicted) == ("b", None, None)
    assert second.group == str(tmp_path / "b.svs"), "without a patient a slide stands for itself"
    assert len(notes) == 1
    assert "1 rows" in notes[0]
    pairs, _ = from_manifest(tmp_path, "path;mask;split\na;b;test\nc;d;val\n", split="val")
    assert [p.id for p in pairs] == ["c"]


def test_a_column_that_is_nearly_a_setting_is_told(tmp_path):
    pairs, notes = from_manifest(tmp_path, "path,reference,smoooth,refrence_pen,stain\na,b,3,c,x\n")
    assert pairs[0].overrides == {}
    assert ["`smooth`" in notes[0], "`reference_pen`" in notes[1]] == [True, True]
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path\na.svs\n", "no column for the reference"),
        ("reference\na.png\n", "no column for the path"),
        ("path,reference,mpp,slide_mpp\na,b,1,2\n", "two columns mean slide_mpp"),
        ("path,reference\na,b,c\n", "more cells than columns"),
        ("path,reference\n,b\n", "line 2: there is no path"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, text, message):
    if "mpp,slide_mpp" in text:
        text = text.replace("mpp,slide_mpp", "spacing_at_level_0,mpp")
    with pytest.raises(ManifestError, match=message):
        from_manifest(tmp_path, text)
    with pytest.raises(ManifestError, match="cannot be read"):
        find_pairs(PairsConfig(manifest=tmp_path / "gone.csv"))
    with pytest.raises(ManifestError, match="no column `split`"):
        from_manifest(tmp_path, "path,reference\na,b\n", split="test")
