"""Settings of single slides beside those of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiprep.core.config import build
from wsiprep.core.errors import ConfigError
from wsiprep.tasks.config import SegmentConfig, stages
from wsiprep.tasks.inputs import gather
from wsiprep.tasks.setting_notes import setting_notes
from wsiprep.tasks.slides import own_settings
from wsiprep.tissue.config import TissueConfig


def settled(tmp_path: Path, table: str, **given) -> tuple[list[TissueConfig], list[str]]:
    """Settings of tissue detection of each row, and what is told."""
    manifest = tmp_path / "m.csv"
    manifest.write_text(table)
    layer = {"manifest": manifest, "output": tmp_path / "out", **given}
    cfg = build(SegmentConfig, ("command line", layer))
    inputs = gather(cfg.inputs)
    configs = own_settings(cfg, inputs)
    found = [stages(own).tissue for own in configs]
    return [one for one in found if one is not None], setting_notes(cfg, inputs, configs)


@pytest.mark.parametrize(
    "cell", ['"threshold=0.3,pen_threshold=0.9"', "threshold=0.3; pen_threshold=0.9;"]
)
def test_a_cell_holds_several_options(tmp_path, cell):
    (own,), _ = settled(tmp_path, f"path,segmenter_option\na.svs,{cell}\n")
    assert own.segmenter_option == ("threshold=0.3", "pen_threshold=0.9")


def test_a_separator_in_a_path_parts_nothing():
    text = "checkpoint=/data/a,b;c.pth"
    assert TissueConfig(segmenter_option=(text,)).segmenter_option == (text,)
    assert TissueConfig(segmenter_option=("a=1", "b=2,c=3")).segmenter_option == (
        "a=1",
        "b=2",
        "c=3",
    )


@pytest.mark.parametrize(
    ("column", "cell", "options"),
    [("segmenter", "otsu", ()), ("preset", "cytology", ("thin_um=4", "close_um=20"))],
)
def test_options_of_the_command_stay_with_its_segmenter(tmp_path, column, cell, options):
    found, notes = settled(
        tmp_path,
        f"path,{column},segmenter_option\na.svs,,\nb.svs,{cell},\nc.svs,{cell},pen=false\n",
        segmenter_option=("threshold=0.3",),
    )
    assert [one.segmenter for one in found] == ["net", "otsu", "otsu"]
    assert [one.segmenter_option for one in found] == [("threshold=0.3",), options, ("pen=false",)]
    told = [note for note in notes if "threshold=0.3" in note]
    assert told == [
        "--segmenter-option threshold=0.3 is for 'net'; slides with 'otsu' do not take it: b."
    ]


def test_an_option_that_the_slides_segmenter_lacks_is_still_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such option"):
        settled(tmp_path, "path,segmenter,segmenter_option\na.svs,otsu,threshold=0.3\n")


def test_settings_that_say_nothing_of_a_given_mask_are_named(tmp_path):
    found, notes = settled(
        tmp_path,
        "path,mask,smooth\na.svs,a.png,\nb.svs,,\nc.svs,c.png,\nd.svs,d.png,3\n",
        preset="biopsy", holes="remove", exclude="none", tissue_mpp=8.0,
    )  # fmt: skip
    assert len(found) == 4
    told = [note for note in notes if "mask of your own" in note]
    assert told == [
        "--exclude none, --holes remove: not for a mask of your own, which is taken as it is"
        " (a, c).",
        "--exclude none, --holes remove, --smooth 3: not for a mask of your own, which is taken"
        " as it is (d).",
    ]
    by_mask, by_segmenter = (note for note in notes if note.startswith("preset biopsy"))
    assert by_mask == "preset biopsy: --section-gap 400. Set by you: --tissue-mpp 8."
    assert "--min-tissue-area 0.01" in by_segmenter
