"""Settings: flat names, layers, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiprep.core.config import build, leaves, override
from wsiprep.core.errors import ConfigError
from wsiprep.tasks.config import (
    CoordsConfig,
    EmbedConfig,
    InspectConfig,
    PrepareConfig,
    SegmentConfig,
)

COMMANDS = [PrepareConfig, SegmentConfig, CoordsConfig, EmbedConfig, InspectConfig]


@pytest.mark.parametrize("model", COMMANDS)
def test_every_setting_has_its_own_name_and_says_what_it_is(model):
    names = [name for _, name, _, _ in leaves(model)]
    assert len(names) == len(set(names))
    for _, name, kind, field in leaves(model):
        assert field.description, f"{kind.__name__}.{name} has no docstring"
        assert kind.panel


def test_later_layers_win():
    cfg = build(
        PrepareConfig,
        ("run.yaml", {"min-tissue": 0.4, "output": "out", "patch_size": 512}),
        ("command line", {"min_tissue": 0.7}),
    )
    assert cfg.patches.min_tissue == 0.7
    assert cfg.patches.patch_size == 512
    assert cfg.run.output == Path("out")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"run\.yaml: there is no setting 'min_tisue'.*min_tissue"
    ):
        build(PrepareConfig, ("run.yaml", {"min_tisue": 0.4, "output": "x"}))


def test_a_wrong_value_names_the_flag_and_where_it_came_from():
    with pytest.raises(ConfigError, match=r"--min-tissue in run\.yaml: .*less than or equal to 1"):
        build(PrepareConfig, ("run.yaml", {"min_tissue": 3, "output": "x"}))
    with pytest.raises(ConfigError, match="--output is required"):
        build(PrepareConfig)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    cfg = build(PrepareConfig, ("run.yaml", {"min_tissue": "3e-1", "output": "x"}))
    assert cfg.patches.min_tissue == 0.3


def test_overriding_keeps_the_rest_and_checks_again():
    cfg = build(PrepareConfig, ("command line", {"mag": 20, "output": "x", "holes": "remove"}))
    other = override(cfg, {"min_tissue_area": "0.2", "slide_mpp": "0.25"}, "manifest row of 'a'")
    assert other.tissue.min_tissue_area == 0.2
    assert other.tissue.holes == "remove"
    assert other.slide.slide_mpp == 0.25
    assert other.patches.mpp == 0.5
    with pytest.raises(ConfigError, match=r"--slide-mpp in manifest row of 'a'"):
        override(cfg, {"slide_mpp": "abc"}, "manifest row of 'a'")


def test_the_key_is_of_all_values():
    base = build(PrepareConfig, ("", {"output": "x"}))
    same = build(PrepareConfig, ("", {"output": "y"}))
    assert base.tissue.canonical() == same.tissue.canonical()
    for name, value in {"tissue_mpp": 4, "holes": "remove", "min_tissue_area": 0.1}.items():
        other = build(PrepareConfig, ("", {"output": "x", name: value}))
        assert other.tissue.canonical() != base.tissue.canonical()


def test_settings_are_frozen():
    cfg = build(PrepareConfig, ("", {"output": "x"}))
    with pytest.raises(ValueError, match="frozen"):
        cfg.patches.mpp = 2


def test_a_later_layer_replaces_the_other_way_to_say_it():
    cfg = build(
        PrepareConfig,
        ("run.yaml", {"output": "x", "mpp": 0.5, "stride": 64}),
        ("command line", {"mag": 10, "overlap": 128}),
    )
    assert cfg.patches.mpp == 1.0
    assert cfg.patches.stride_px == 128
    with pytest.raises(ConfigError, match="not both"):
        build(PrepareConfig, ("command line", {"output": "x", "mag": 20, "mpp": 0.5}))


def test_one_is_several():
    cfg = build(PrepareConfig, ("run.yaml", {"output": "x", "encoder": "test"}))
    assert cfg.encoding.encoder == ("test",)
