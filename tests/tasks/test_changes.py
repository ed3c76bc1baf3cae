"""Change: nothing stale is shown as current, and nothing is removed that cannot be made."""

from __future__ import annotations

import pytest

from tests.tasks.runs import run, tree
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig


def test_pictures_never_show_an_earlier_mask(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path / "a")
    change = {"holes": "remove", "min_tissue_area": 0.3, "min_hole_area": 0.0}
    run(PrepareConfig, small_slide, tmp_path / "a", overwrite=True, overlay=False, **change)
    run(PrepareConfig, small_slide, tmp_path / "a", **change)
    run(PrepareConfig, small_slide, tmp_path / "b", **change)
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert {k for k in first if k.startswith("overlays")} == {
        "overlays/mpp0.5_patch128_stride128/small.jpg"
    }
    for name in first:
        if name.startswith(("overlays", "geojson")):
            assert first[name] == second[name]


def test_each_grid_has_its_own_picture(small_slide, tmp_path):
    (row,) = run(PrepareConfig, small_slide, tmp_path).rows
    (other,) = run(PrepareConfig, small_slide, tmp_path, mpp=1.0).rows
    (again,) = run(PrepareConfig, small_slide, tmp_path).rows
    assert again.overlay == row.overlay != other.overlay


def test_features_of_another_precision_are_refused(small_slide, tmp_path):
    values = {"encoder": ("timm:resnet10t",), "random_weights": True}
    run(PrepareConfig, small_slide, tmp_path, precision="bf16", **values)
    (row,) = run(PrepareConfig, small_slide, tmp_path, **values).rows
    assert row.error == "StoreMismatchError"
    assert "precision" in row.reason


def test_a_given_mpp_can_be_withdrawn(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path, slide_mpp=0.4)
    (row,) = run(PrepareConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert FeatureStore(row.store).slide.mpp == 0.5


def test_two_encoders_of_one_name_are_refused(small_slide, tmp_path):
    from wsiprep.core.errors import UsageError

    with pytest.raises(UsageError, match="under one name"):
        run(PrepareConfig, small_slide, tmp_path / "o", encoder=("test", "test "))
    assert not (tmp_path / "o").exists()


def test_another_reader_with_other_levels_is_refused(small_slide, tmp_path, monkeypatch):
    from dataclasses import replace

    from wsiprep.slide.open import open_slide
    from wsiprep.tasks import prepare as module

    run(CoordsConfig, small_slide, tmp_path)
    run(SegmentConfig, small_slide, tmp_path)
    run(CoordsConfig, small_slide, tmp_path)

    def fewer_levels(*args, **kwargs):
        slide = open_slide(*args, **kwargs)
        slide._info = replace(
            slide.info, reader="other", downsamples=slide.info.downsamples[:1],
            level_sizes=slide.info.level_sizes[:1],
        )  # fmt: skip
        return slide

    monkeypatch.setattr(module, "open_slide", fewer_levels)
    (row,) = run(EmbedConfig, small_slide, tmp_path).rows
    assert row.error == "StoreMismatchError"
    assert "--reader tiff" in row.remedy


@pytest.mark.parametrize("model", [CoordsConfig, EmbedConfig])
@pytest.mark.parametrize("change", ["mpp", "content", "root"])
def test_a_later_stage_never_removes_what_it_cannot_make(small_slide, tmp_path, model, change):
    slide = tmp_path / "s.tiff"
    slide.write_bytes(small_slide.read_bytes())
    run(PrepareConfig, slide, tmp_path / "o", slide_mpp=0.45)
    if change == "content":
        slide.write_bytes(small_slide.read_bytes() + b"1")
    if change == "root":
        (tmp_path / "o" / "s.zarr" / "zarr.json").write_text("{}")
    before = tree(tmp_path / "o" / "s.zarr")
    given = {"slide_mpp": 0.3} if change == "mpp" else {}
    (row,) = run(model, slide, tmp_path / "o", overwrite=True, **given).rows
    assert row.status == "failed"
    assert "wsiprep run" in row.remedy
    assert tree(tmp_path / "o" / "s.zarr") == before


def test_a_later_stage_overwrites_with_the_mpp_that_was_given(small_slide, tmp_path):
    run(PrepareConfig, small_slide, tmp_path, slide_mpp=0.45)
    (row,) = run(EmbedConfig, small_slide, tmp_path, overwrite=True).rows
    assert row.status == "ok"
    assert row.encoded == row.patches


def test_the_settings_of_every_command_can_be_read_back(small_slide, tmp_path):
    import yaml

    for model in (SegmentConfig, CoordsConfig, EmbedConfig, PrepareConfig):
        run(model, small_slide, tmp_path)
        values = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert values["output"] == str(tmp_path)
