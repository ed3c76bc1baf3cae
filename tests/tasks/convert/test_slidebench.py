"""SlideChat's sets."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, samples_of, talk, write_csv, write_json
from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample, Turn, read_manifest

SLIDE = "TCGA-A7-A0CJ-01Z-00-DX2"


def test_closed_questions(tmp_path):
    head = ["ID", "Slide", "Tumor", "Broad Category", "Narrow Category", "Question",
            *"ABCD", "Answer"]  # fmt: skip
    rows = [
        head,
        ["TCGA-1", f"{SLIDE}.csv", "BRCA", "Diagnosis", "Disease Detection", "Which?", "x", "y",
         "z", "w", "C"],
        ["9", "17", "BRCA", "Clinical", "", "Yes?", "Yes", "No", "", "", "B"],
    ]  # fmt: skip
    path = write_csv(tmp_path / "SlideBench-VQA-TCGA.csv", rows)
    first, second = samples_of("slidebench", path)
    assert first == Sample(
        "SlideBench-VQA-TCGA/1",
        (SLIDE,),
        case_id="TCGA-A7-A0CJ",
        patient_id="TCGA-A7-A0CJ",
        question="Which?",
        choices=("x", "y", "z", "w"),
        answer="z",
        task="diagnosis/disease_detection",
        split="test",
    )
    assert (second.slides, second.patient_id) == (("17",), "17")
    assert (second.choices, second.answer, second.task) == (("Yes", "No"), "No", "clinical")
    rows[2][-1] = "D"
    write_csv(path, rows)
    with pytest.raises(ManifestError, match=r"line 3: the answer 'D' names none of 2 choices"):
        converted("slidebench", tmp_path / "m.jsonl", path)


def test_questions_of_bcnb(tmp_path):
    rows = [["Slide", "Task", "Question", *"ABCD", "Answer"],
            ["17.jpg", "ER", "Which status?", "positive", "negative", "", "", "A"]]  # fmt: skip
    (one,) = samples_of("slidebench", write_csv(tmp_path / "SlideBench-VQA-BCNB.csv", rows))
    assert (one.id, one.slides, one.task) == ("SlideBench-VQA-BCNB/1", ("17",), "er")
    assert one.answer == "positive"


def test_captions(tmp_path):
    rows = [["ID", "Slide", "Tumor", "Question", "Caption"],
            ["1", SLIDE, "BRCA", "Describe it.", "A tumour,\nwith edges."]]  # fmt: skip
    (one,) = samples_of("slidebench", write_csv(tmp_path / "SlideBench-Caption.csv", rows))
    assert (one.caption, one.task, one.split) == ("A tumour,\nwith edges.", "caption", "test")


def test_conversations_with_the_slide_named_last(tmp_path):
    value = {"id": "train::0", "image": [f"{SLIDE}.csv"],
             "conversations": talk("What?\n<image>", "This. ")}  # fmt: skip
    (one,) = samples_of("slidebench", write_json(tmp_path / "stage2_vqa.json", [value]))
    assert one == Sample(
        "stage2_vqa/train::0",
        (SLIDE,),
        case_id="TCGA-A7-A0CJ",
        patient_id="TCGA-A7-A0CJ",
        conversations=(Turn("user", "What?"), Turn("assistant", "This.")),
        question="What?",
        answer="This.",
        task="vqa",
        split="train",
    )
    concepts = [{"visual_description": "nests"}, {"visual_description": "necrosis"},
                {"visual_description": "nests"}]  # fmt: skip
    value["fine_grained_concepts"] = concepts
    (one,) = samples_of("slidebench", write_json(tmp_path / "train_stage1_caption.json", [value]))
    assert (one.caption, one.sub_captions) == ("This.", ("nests", "necrosis"))
    assert (one.question, one.task) == ("", "caption")
    value["fine_grained_concepts"] = [{"other": 1}]
    with pytest.raises(ValueError, match="visual_description"):
        samples_of("slidebench", write_json(tmp_path / "a.json", [value]))
    value |= {"fine_grained_concepts": None, "image": [SLIDE, "TCGA-A8-0000-01Z"]}
    with pytest.raises(ValueError, match="several patients"):
        samples_of("slidebench", write_json(tmp_path / "a.json", [value]))


def test_the_published_example(shared_data, tmp_path):
    path = shared_data / "text" / "slidechat_train_example.json"
    if not path.is_file():
        pytest.skip("the example of SlideChat is not here")
    done = converted("slidebench", tmp_path / "m.jsonl", path)
    assert done.report["splits"] == {"train": {"samples": 3, "slides": 3, "patients": 3}}
    first = read_manifest(tmp_path / "m.jsonl")[0]
    assert first.slides == ("TCGA-A7-A0CJ-01Z-00-DX2",)
    assert first.conversations[0].text.endswith("in this case?")
