"""Slides that samples name, found among stores."""

from __future__ import annotations

import pytest

from wsiprep.core.errors import ManifestError
from wsiprep.train.language.stores import StoreFolder

A = "TCGA-AR-A1AI-01Z-00-DX1.7D3B4C9E-0000"
B = "TCGA-AR-A1AI-01Z-00-DX2.11112222-0000"
OTHER = "TCGA-AR-A1AIX-01Z-00-DX1.9"


@pytest.fixture
def folder(tmp_path):
    for name in (A, B, OTHER, "10", "10-2", "x"):
        (tmp_path / f"{name}.zarr").mkdir()
    (tmp_path / "run.jsonl").write_text("")
    return tmp_path


def test_slides_are_found_by_id_path_and_barcode(folder):
    stores = StoreFolder(folder)

    def names(slide):
        return [path.stem for path in stores.find(slide)]

    assert names(A) == [A]
    assert names(A.lower()) == [A]
    assert names(f"{A}.zarr") == [A]
    assert stores.find(str(folder / "x.zarr")) == (folder / "x.zarr",)
    assert names("TCGA-AR-A1AI-01Z-00-DX2") == [B]
    assert names("TCGA-AR-A1AI") == [A, B]
    # Only barcodes are known to go on: slide 10 of another set is not slide 10-2.
    assert names("10") == ["10"]
    for missing in ("1", "TCGA-AR", "TCGA-AR-A1A", "nothing.zarr", "run", "x.zarrx"):
        assert names(missing) == []


def test_case_decides_where_names_differ_in_nothing_else(folder):
    for name in ("slide", "SLIDE"):
        (folder / f"{name}.zarr").mkdir()
    stores = StoreFolder(folder)
    assert stores.find("SLIDE") == (folder / "SLIDE.zarr",)
    assert stores.find("slide") == (folder / "slide.zarr",)
    with pytest.raises(ManifestError, match=r"'Slide' could be SLIDE\.zarr or slide\.zarr"):
        stores.find("Slide")


def test_a_folder_is_needed(folder):
    with pytest.raises(ManifestError, match="not a folder"):
        StoreFolder(folder / "none")
