"""Which slides: files, folders, globs, manifests, and names that try to escape."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiprep.core.errors import ManifestError, UsageError
from wsiprep.tasks.config import InputConfig
from wsiprep.tasks.inputs import gather


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(inputs) -> list[str]:
    return [ref.path.name for ref in inputs.slides]


@pytest.fixture
def folder(tmp_path):
    touch(
        tmp_path / "b.svs", tmp_path / "a.tiff", tmp_path / "notes.txt", tmp_path / "c.vsi",
        tmp_path / "sub" / "d.ndpi", tmp_path / ".hidden.svs", tmp_path / "m.mrxs",
        tmp_path / "m" / "Data0001.dat", tmp_path / "m" / "Slidedat.ini",
        tmp_path / "out.zarr" / "x.tiff",
    )  # fmt: skip
    return tmp_path


def test_a_folder_is_sorted_and_says_what_it_passed_over(folder):
    inputs = gather(InputConfig(slides=(str(folder),)))
    assert names(inputs) == ["a.tiff", "b.svs", "m.mrxs"]
    said = " ".join(inputs.notes)
    assert "1 .txt" in said
    assert "1 .vsi" in said
    assert "1 sub-folders" in said
    assert "--recursive" in said


def test_recursive_does_not_enter_pixel_data_or_stores(folder):
    inputs = gather(InputConfig(slides=(str(folder),), recursive=True))
    assert names(inputs) == ["a.tiff", "b.svs", "m.mrxs", "d.ndpi"]


def test_extensions_globs_and_doubles(folder):
    assert names(gather(InputConfig(slides=(str(folder),), ext=("svs", ".TIFF")))) == [
        "a.tiff",
        "b.svs",
    ]
    star = str(folder / "*.svs")
    assert names(gather(InputConfig(slides=(star, str(folder / "b.svs"))))) == ["b.svs"]


def test_a_link_that_leads_back_is_followed_once(folder):
    (folder / "sub" / "loop").symlink_to(folder)
    inputs = gather(InputConfig(slides=(str(folder),), recursive=True))
    assert sorted(names(inputs)) == ["a.tiff", "b.svs", "d.ndpi", "m.mrxs"]


def test_a_link_to_itself_is_one_bad_slide(folder):
    (folder / "self.svs").symlink_to(folder / "self.svs")
    assert names(gather(InputConfig(slides=(str(folder),)))) == [
        "a.tiff",
        "b.svs",
        "m.mrxs",
        "self.svs",
    ]


def test_names_that_no_disk_holds_are_attempted(tmp_path):
    inputs = gather(InputConfig(slides=("x" * 300,)))
    assert len(inputs.slides) == 1


def test_a_glob_that_matches_a_folder_searches_it(folder):
    assert names(gather(InputConfig(slides=(str(folder / "su?"),)))) == ["d.ndpi"]


def test_what_is_named_outright_is_attempted_even_if_it_is_not_there(tmp_path):
    inputs = gather(InputConfig(slides=(str(tmp_path / "gone.svs"),)))
    assert names(inputs) == ["gone.svs"]


@pytest.mark.parametrize("slides", [(), ("nothing-*.svs",)])
def test_no_slides_is_a_usage_error(slides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        gather(InputConfig(slides=slides))


def manifest(folder: Path, text: str) -> InputConfig:
    path = folder / "slides.csv"
    path.write_text(text, encoding="utf-8")
    return InputConfig(manifest=path)


def test_manifest_ids_are_text_and_aliases_are_known(tmp_path):
    touch(*(tmp_path / f"{n}.svs" for n in "abcde"))
    rows = gather(
        manifest(
            tmp_path,
            "sample_id,image_path,spacing_at_level_0,mask_path,label,case_id\n"
            "001,a.svs,0.25,,x,p1\n"
            "1e5,b.svs,,roi.geojson,y,p1\n"
            "nan,c.svs,,,z,p2\n"
            "NA,d.svs,,,,\n"
            "null,e.svs,,,,\n",
        )
    ).slides
    assert [r.id for r in rows] == ["001", "1e5", "nan", "NA", "null"]
    assert all(r.fixed_id for r in rows)
    assert rows[0].path == tmp_path / "a.svs"
    assert rows[0].overrides == {"slide_mpp": "0.25"}
    assert rows[1].overrides == {"mask": str(tmp_path / "roi.geojson")}


def test_manifest_columns_named_as_tissue_settings(tmp_path):
    touch(tmp_path / "a.svs")
    cfg = manifest(tmp_path, "path;min_tissue_area;holes\na.svs;0.2;remove\n")
    assert gather(cfg).slides[0].overrides == {"min_tissue_area": "0.2", "holes": "remove"}
    with pytest.raises(ManifestError, match=r"'patch_size' cannot be set for one slide"):
        gather(manifest(tmp_path, "path,patch_size\na.svs,512\n"))


def test_a_column_that_is_nearly_a_setting_is_told_once(tmp_path):
    touch(tmp_path / "a.svs", tmp_path / "b.svs")
    inputs = gather(
        manifest(
            tmp_path,
            "path,smoooth,minTissueArea,--holes,slide mp,stain,stage,age,site,label,section,block\n"
            "a.svs,3,1,remove,0.5,x,x,x,x,x,x,x\nb.svs,3,1,remove,0.5,x,x,x,x,x,x,x\n",
        )
    )
    assert all(ref.overrides == {} for ref in inputs.slides)
    assert len(inputs.notes) == 4, "columns of the user's own are not spoken of"
    said = zip(
        inputs.notes,
        ("smoooth", "minTissueArea", "--holes", "slide mp"),
        ("smooth", "min_tissue_area", "holes", "slide_mpp"),
        strict=True,
    )
    for note, column, setting in said:
        assert f"column '{column}' is passed over" in note
        assert f"`{setting}`" in note


def test_manifest_without_paths_selects_from_the_slides_given(tmp_path):
    touch(tmp_path / "s" / "a.svs", tmp_path / "s" / "b.svs")
    path = tmp_path / "list.csv"
    path.write_text("wsi,mpp\nb.svs,0.25\n")
    rows = gather(InputConfig(slides=(str(tmp_path / "s"),), manifest=path)).slides
    assert [(r.path.name, r.id, r.overrides["slide_mpp"]) for r in rows] == [("b.svs", "b", "0.25")]
    path.write_text("wsi\nzzz\n")
    with pytest.raises(ManifestError, match="'zzz' names 0"):
        gather(InputConfig(slides=(str(tmp_path / "s"),), manifest=path))


@pytest.mark.parametrize(
    "bad", ["../x", "/etc/x", "a/b", "a\\b", "..", ".", ".x", "a\x00b", "a\nb", "y" * 200]
)
def test_ids_that_lead_elsewhere_are_refused(tmp_path, bad):
    touch(tmp_path / "a.svs")
    with pytest.raises(ManifestError, match="cannot be a slide id"):
        gather(manifest(tmp_path, f'slide_id,path\n"{bad}",a.svs\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("label\nx\n", "no column for the path"),
        ("slide_id,path\na,x.svs\nA,y.svs\n", "also on line 2"),
        ("image_path,slide_path\nx,y\n", "two columns mean path"),
        ("path\na.svs,extra\n", "more cells than columns"),
        ("slide_id,path\n,\n", "neither a path nor an id"),
        ("slide_id,path\n,x.svs\nx,y.svs\n", "'x' is also on line 2"),
        ("path,mask\nx.svs,a.png\nx.svs,b.png\n", "'x' is also on line 2"),
        ("path,wkt\nx.svs," + "1" * 200_000 + "\n", "field larger than"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        gather(manifest(tmp_path, text))


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        gather(InputConfig(manifest=tmp_path / "none.csv"))
