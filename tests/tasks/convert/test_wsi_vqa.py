"""WSI-VQA."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, samples_of, write_json
from tests.train.language.made import write_store
from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample


def row(answer, choice=None, case="TCGA-AR-A1AI"):
    value = {"Id": case, "Question": "what is her2?", "Answer": answer}
    return value if choice is None else {**value, "Choice": choice}


def test_open_and_closed_questions(tmp_path):
    rows = [row("2+"), row("High", ["low", "high", "low"])]
    first, second = samples_of("wsi_vqa", write_json(tmp_path / "WsiVQA_test.json", rows))
    assert first == Sample(
        "WsiVQA_test/1",
        ("TCGA-AR-A1AI",),
        case_id="TCGA-AR-A1AI",
        patient_id="TCGA-AR-A1AI",
        question="what is her2?",
        answer="2+",
        task="open",
        split="test",
    )
    assert (second.id, second.choices, second.answer) == ("WsiVQA_test/2", ("low", "high"), "high")
    assert second.task == "closed"


def test_a_case_stands_for_its_slides(tmp_path):
    stores = tmp_path / "out"
    for name in ("TCGA-AR-A1AI-01Z-00-DX1.U", "TCGA-AR-A1AI-01Z-00-DX2.V", "TCGA-AR-A1AJ-01Z.W"):
        write_store(stores, name)
    rows = [row("2+"), row("1+", case="TCGA-ZZ-0000")]
    path = write_json(tmp_path / "WsiVQA_val.json", rows)
    done = converted("wsi_vqa", tmp_path / "m.jsonl", path, stores=stores)
    assert [s.slides for s in done.samples] == [
        ("TCGA-AR-A1AI-01Z-00-DX1.U", "TCGA-AR-A1AI-01Z-00-DX2.V")
    ]
    assert done.report["left_out"] == {"bad": 0, "no_store": 1, "no_features": 0}
    assert done.samples[0].split == "val"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("x", ["low", "high"]), "names none of 2"),
        (row("low", ["low", "low"]), "all the same"),
        (row("low", "low"), "all the same"),
        (row("low", ["low", 7]), "'Choice'"),
        (row(""), "'Answer'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, bad, message):
    path = write_json(tmp_path / "WsiVQA_train.json", [row("a"), bad])
    with pytest.raises(ManifestError, match=f"item 2: .*{message}"):
        converted("wsi_vqa", tmp_path / "m.jsonl", path)
