"""Slides as a model takes them: found in stores, or embedded as far as that is missing."""

from __future__ import annotations

import numpy as np
import pytest

from wsiprep.core.errors import SlideError, StoreMismatchError, UsageError
from wsiprep.slide.config import SlideConfig
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import CoordsConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.embedded import EmbeddedSlide, gather_embedded, open_features, visit
from wsiprep.tasks.prepare import prepare
from wsiprep.tasks.use_config import SlidesOrStores
from wsiprep.train.language.fingerprint import Fingerprint

LATTICE = {"mpp": 1.0, "patch_size": 64, "stride": 64}


@pytest.fixture(scope="module")
def embedded(small_slide, tmp_path_factory):
    """The output folder of `wsiprep run`, and the fingerprint of its features."""
    out = tmp_path_factory.mktemp("run")
    done = prepare(
        PrepareConfig.of(
            slides=(str(small_slide),), output=out, encoder=("test",), overlay=False, **LATTICE
        )
    )
    assert done.exit_code == 0
    return out, Fingerprint.of(FeatureStore(out / "small.zarr"))


def gathered(*arguments, out, expect, on_event=lambda _: None):
    return gather_embedded(
        SlidesOrStores(slides=tuple(map(str, arguments))), SlideConfig(), out, expect,
        device="cpu", on_event=on_event,
    )  # fmt: skip


def vectors(store, expect):
    features, _, _ = open_features(EmbeddedSlide("small", store), expect)
    return features.bag().features.numpy()


@pytest.mark.parametrize("there", ["nothing", "tissue", "another grid", "the grid"])
def test_what_is_missing_is_made(small_slide, embedded, tmp_path, there):
    run, expect = embedded
    common = {"slides": (str(small_slide),), "output": tmp_path, "overlay": False}
    if there != "nothing":
        assert prepare(SegmentConfig.of(**common, tissue_mpp=16.0)).exit_code == 0
    if there == "another grid":
        assert prepare(CoordsConfig.of(**common, mpp=2.0, patch_size=32)).exit_code == 0
    if there == "the grid":
        # With a setting of its own, under which the model's features may lie as well.
        assert prepare(CoordsConfig.of(**common, **LATTICE, min_tissue=0.9)).exit_code == 0
    found = gathered(small_slide, out=tmp_path, expect=expect)
    assert found.failed == ()
    (slide,) = found.slides
    assert slide.store.parent == tmp_path
    store = FeatureStore(slide.store)
    assert len(store.grids) == (2 if there == "another grid" else 1)
    made = vectors(slide.store, expect)
    if there == "nothing":
        np.testing.assert_array_equal(made, vectors(run / "small.zarr", expect))
    else:
        assert store.tissue().mpp == 16.0
        assert len(made)
    events = []
    again = gathered(small_slide, out=tmp_path, expect=expect, on_event=events.append)
    assert again.slides == found.slides
    assert events == []  # nothing was run


def test_stores_folders_and_globs(embedded, tmp_path):
    run, expect = embedded
    store = run / "small.zarr"
    for argument in (store, run, run / "*.zarr", run / "sm*"):
        assert [s.store for s in gathered(argument, out=tmp_path, expect=expect).slides] == [store]
    assert len(gathered(store, run, store, out=tmp_path, expect=expect).slides) == 1
    with pytest.raises(UsageError, match="no slides were found"):
        gathered(tmp_path, out=tmp_path, expect=expect)
    (tmp_path / "small.zarr").symlink_to(store)
    (tmp_path / "other.svs").write_bytes(b"")
    found = gathered(tmp_path, out=tmp_path, expect=expect)
    assert [s.store.resolve() for s in found.slides] == [store.resolve()]
    assert "1 slide files" in found.notes[0]


def test_a_slide_that_cannot_be_embedded_is_told(small_slide, embedded, tmp_path):
    _, expect = embedded
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(b"no slide")
    found = gathered(bad, small_slide, tmp_path / "none.svs", out=tmp_path / "o", expect=expect)
    assert [row.slide for row in found.failed] == ["bad", "none"]
    assert [slide.id for slide in found.slides] == ["small"]


def test_features_are_chosen_by_how_they_were_made(small_slide, embedded, tmp_path):
    _, expect = embedded
    for lattice in (LATTICE, {"mpp": 2.0, "patch_size": 32}):
        values = {"slides": (str(small_slide),), "output": tmp_path, "overlay": False, **lattice}
        assert prepare(PrepareConfig.of(encoder=("test",), **values)).exit_code == 0
    store = tmp_path / "small.zarr"
    assert len(FeatureStore(store).grids) == 2
    _, grid, encoder = open_features(EmbeddedSlide("small", store), expect)
    assert (grid, encoder) == ("mpp1_patch64_stride64", "test")
    other = Fingerprint.of_canonical({**expect.canonical(), "encoder": "other", "dim": 9})
    with pytest.raises(StoreMismatchError, match="encoder is other in the checkpoint, test in"):
        open_features(EmbeddedSlide("small", store), other)


def test_visit_tells_of_every_slide(tmp_path):
    slides = [EmbeddedSlide(name, tmp_path / f"{name}.zarr") for name in "abc"]

    def work(slide):
        if slide.id == "a":
            raise SlideError("is no good.", stage="grid", hint="Mend it.")
        if slide.id == "b":
            raise KeyError("a bug")
        return "done"

    rows = visit(slides, work, lambda _: None)
    assert [row.status for row in rows] == ["failed", "failed", "ok"]
    assert (rows[0].reason, rows[0].remedy) == ("is no good.", "Mend it.")
    assert rows[1].stage == "bug"
    assert "Traceback" in rows[1].remedy

    def usage(_slide):
        raise UsageError("all wrong.")

    with pytest.raises(UsageError):
        visit(slides, usage, lambda _: None)
