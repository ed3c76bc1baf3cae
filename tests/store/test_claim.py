"""Which store a slide has, and who may write into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes import make_info
from tests.store.made import claimed, tissue_of, write_all
from wsiprep.core.errors import StoreBusyError, StoreMismatchError
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.claim import claim_store, find_store
from wsiprep.store.read import FeatureStore


def test_a_store_that_nothing_came_of_is_removed(tmp_path, info):
    with claim_store(tmp_path, info) as store:
        assert store.path.is_dir()
    assert not (tmp_path / "slide.zarr").exists()


def test_two_slides_with_one_stem_do_not_collide(tmp_path):
    first = make_info(uri="a/x.svs", fingerprint="a" * 64)
    second = make_info(uri="b/x.svs", fingerprint="b" * 64)
    names = []
    for info in (first, second, first, second):
        names.append(claimed(tmp_path, info))
        store = FeatureStore(tmp_path / f"{names[-1]}.zarr")
        assert store.slide.fingerprint == info.fingerprint
    assert names == ["slide", "slide-bbbbbbbb"] * 2
    assert find_store(tmp_path, "slide", "b" * 64).slide.uri == "b/x.svs"
    assert find_store(tmp_path, "slide", "c" * 64) is None


def test_an_id_that_the_user_gave_is_never_changed(tmp_path):
    claimed(tmp_path, make_info(uri="a/x.svs", fingerprint="a" * 64), fixed_id=True)
    second = make_info(uri="b/x.svs", fingerprint="b" * 64)
    with (
        pytest.raises(StoreMismatchError, match=r"already holds another slide.*slide_id"),
        claim_store(tmp_path, second, fixed_id=True),
    ):
        pass


def test_a_slide_that_changed_under_its_name_is_refused(tmp_path, info):
    grid = make_grid(info, tissue_of(info), GridConfig())
    write_all(tmp_path, info, grid)
    changed = replace(info, fingerprint="f" * 64)
    with (
        pytest.raises(StoreMismatchError, match=r"has changed.*--overwrite"),
        claim_store(tmp_path, changed),
    ):
        pass
    with claim_store(tmp_path, changed, overwrite=True) as store:
        assert store.manifest.units == {}


def test_another_mpp_is_refused(tmp_path, info):
    claimed(tmp_path, info)
    with (
        pytest.raises(StoreMismatchError, match=r"0\.5 µm/px.*--slide-mpp"),
        claim_store(tmp_path, replace(info, mpp=0.25)),
    ):
        pass


def test_one_writer_at_a_time(tmp_path, info):
    with (
        claim_store(tmp_path, info),
        pytest.raises(StoreBusyError, match="another process"),
        claim_store(tmp_path, info),
    ):
        pass
    with claim_store(tmp_path, info):
        pass
    assert not [p for p in (tmp_path / ".work").rglob("*") if p.is_file()]


def test_odd_names_round_trip(tmp_path):
    name = "Schnitt 3 - «ä»\u0301 🧫 'x'"
    info = make_info(slide_id=name, uri=f"x/{name}.svs")
    assert claimed(tmp_path, info) == name
    assert FeatureStore(tmp_path / f"{name}.zarr").slide.uri == info.uri
    undecodable = "x/\udce4.svs"
    claimed(tmp_path, make_info(slide_id="u", uri=undecodable, fingerprint="9" * 64))
    assert FeatureStore(tmp_path / "u.zarr").slide.uri == undecodable
