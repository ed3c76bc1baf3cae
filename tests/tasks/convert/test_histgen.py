"""HistGen's annotations."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, samples_of, write_json
from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample

SLIDE = "TCGA-A7-A0CJ-01Z-00-DX2.U"


def report(name, **more):
    return {"id": name, "report": f" Report of {name}. ", **more}


def test_reports(tmp_path):
    both = ["a/TCGA-A7-A0CJ-01Z-00-DX1.V.pt", f"{SLIDE}.pt"]
    parts = {
        "train": [report(SLIDE, split="train"), report("TCGA-A7-A0CK", image_path=["x.pt"])],
        "val": [report("b1", image_path=[])],
        "test": [report("TCGA-A7-A0CJ-x", image_path=both, split="test")],
    }
    first, second, third, fourth = samples_of("histgen", write_json(tmp_path / "a.json", parts))
    assert first == Sample(
        SLIDE,
        (SLIDE,),
        case_id="TCGA-A7-A0CJ",
        patient_id="TCGA-A7-A0CJ",
        caption=f"Report of {SLIDE}.",
        task="report",
        split="train",
    )
    assert second.slides == ("TCGA-A7-A0CK",)
    assert (third.case_id, third.patient_id, third.split) == ("b1", "", "val")
    assert fourth.slides == ("TCGA-A7-A0CJ-01Z-00-DX1.V", SLIDE)
    assert fourth.split == "test"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [report("a"), report("b", split="test")]}, "train, item 2: it stands under"),
        ({"train": [report("a"), report("a")]}, "train, item 2: the id 'a' has been there"),
        ({"train": [report("a")], "val": [{"id": "b"}]}, "val, item 1: 'report' is missing"),
        ({"train": [report("a"), 7]}, "train, item 2: this is not an object"),
        ({"trian": [report("a")]}, "no split 'trian'"),
        ({"train": {}}, "not an annotation of HistGen"),
        ([report("a")], "not an annotation of HistGen"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, parts, message):
    path = write_json(tmp_path / "annotation.json", parts)
    with pytest.raises(ManifestError, match=message):
        converted("histgen", tmp_path / "m.jsonl", path)
