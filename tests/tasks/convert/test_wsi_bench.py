"""WSI-Bench: made rows, and the training files themselves."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, samples_of, talk, write_json
from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample, Turn, read_manifest
from wsiprep.train.language.splits import check_apart

SLIDE = "TCGA-NC-A5HP-01Z-00-DX1.655093A9-AAA7-4637-A33E-90FE3AE2FC43"


def row(slide=SLIDE, question="<image>\nWhich grade?", answer="High.", number=1):
    return {"id": f"{slide}-{number}", "image": f"P/{slide}.pt",
            "conversations": talk(question, answer)}  # fmt: skip


def test_an_open_question(tmp_path):
    path = write_json(tmp_path / "wsibench_Grading_train.json.gz", [row()])
    assert samples_of("wsi_bench", path) == [
        Sample(
            f"grading/train/{SLIDE}-1",
            (SLIDE,),
            case_id="TCGA-NC-A5HP",
            patient_id="TCGA-NC-A5HP",
            conversations=(Turn("user", "Which grade?"), Turn("assistant", "High.")),
            question="Which grade?",
            answer="High.",
            task="grading",
            split="train",
        )
    ]


def test_closed_questions_and_reports(tmp_path):
    closed = row(question="<image>\nWhich? A) T1 N0 B) T2 N0", answer="B ```")
    (one,) = samples_of("wsi_bench", write_json(tmp_path / "Staging_choice_test.json", [closed]))
    assert (one.question, one.choices, one.answer) == ("Which?", ("T1 N0", "T2 N0"), "T2 N0")
    assert one.conversations[0].text == "Which? A) T1 N0 B) T2 N0"
    assert (one.task, one.split) == ("staging_choice", "test")
    yes = row(question="<image>\nIs the prognosis good?", answer="no")
    (one,) = samples_of(
        "wsi_bench", write_json(tmp_path / "Prognosis_TF_question_train.json", [yes])
    )
    assert (one.choices, one.answer, one.task) == (("Yes", "No"), "No", "prognosis_tf")
    (one,) = samples_of(
        "wsi_bench", write_json(tmp_path / "Report_all_type_all_train_single.json", [row()])
    )
    assert (one.caption, one.task, one.split) == ("High.", "report", "train")
    (one,) = samples_of("wsi_bench", write_json(tmp_path / "1_Report_test.json", [row()]))
    assert (one.id, one.caption) == (f"report/test/{SLIDE}-1", "High.")
    (one,) = samples_of("wsi_bench", write_json(tmp_path / "Treatment_Planing_train.json", [row()]))
    assert one.task == "treatment_planning"


def test_test_records_without_a_conversation(tmp_path):
    path = tmp_path / "open_test.jsonl"
    path.write_text(
        f'{{"question_id": 7, "image": "P/{SLIDE}.pt", "text": "<image>\\nWhich?", '
        '"metadata": "Grading"}\n'
    )
    (one,) = samples_of("wsi_bench", path)
    assert (one.id, one.task, one.split) == ("grading/test/7", "grading", "test")
    assert (one.question, one.answer, one.conversations) == ("Which?", "", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "'image'"),
        ({"id": ""}, "'id'"),
        ({"conversations": talk("<image>\nWhich?", "A")}, "no choices are found"),
        ({"conversations": talk("<image>\nWhich? A) x B) y", "D")}, "names none of 2"),
        ({"conversations": talk("<image>\nWhich? A) x B) x", "A")}, "'x' twice"),
        ({"conversations": talk("<image>\nWhich? A) x B) y", "A")[::-1]}, "turn 1 is by 'gpt'"),
        ({"conversations": talk("Which? A) x B) y", "A") * 2}, "4 turns"),
    ],
)
def test_a_broken_row_is_named_or_counted(tmp_path, change, message):
    good = row(question="<image>\nWhich? A) x B) y", answer="A")
    path = write_json(tmp_path / "Staging_choice_train.json", [good, {**good, "id": "2", **change}])
    out = tmp_path / "m.jsonl"
    with pytest.raises(ManifestError, match=rf"train\.json, item 2: .*{message}") as caught:
        converted("wsi_bench", out, path)
    assert "--skip-bad" in str(caught.value)
    assert not out.exists()
    done = converted("wsi_bench", out, path, skip_bad=True)
    assert [s.id for s in read_manifest(out)] == [f"staging_choice/train/{good['id']}"]
    assert done.report["left_out"]["bad"] == done.report["files"][0]["bad"] == 1
    assert message.replace("\\", "") in done.report["bad_records"][0]


def test_test_slides_that_are_trained_on_are_counted_and_kept_out(tmp_path):
    def slide(patient, number=1):
        return f"TCGA-AA-{patient:04}-01Z-00-DX{number}.U{patient}"

    train = write_json(tmp_path / "Grading_train.json", [row(slide(n)) for n in range(200)])
    shared = [slide(n) for n in range(8)]  # of which one patient by another slide
    shared[7] = slide(7, 2)
    new = [slide(n) for n in range(900, 903)]
    test = write_json(tmp_path / "Grading_test.json", [row(s) for s in shared + new])
    out = tmp_path / "m.jsonl"
    done = converted("wsi_bench", out, train, test)
    assert done.report["published_test"] == {
        "slides": 11, "shared_slides": 7, "patients": 11, "shared_patients": 8,
    }  # fmt: skip
    assert done.report["left_out"] == {"bad": 0, "patient_is_held_out": 8}
    counts = done.report["splits"]
    assert counts["test"] == {"samples": 11, "slides": 11, "patients": 11}
    assert counts["train"]["patients"] + counts["val"]["patients"] == 192
    assert 5 < counts["val"]["patients"] < 40
    check_apart(read_manifest(out))
    done = converted("wsi_bench", out, train, test, split="given")
    assert done.report["left_out"] == {"bad": 0}
    assert done.report["published_test"]["shared_slides"] == 7
    with pytest.raises(ManifestError, match="is in train"):
        check_apart(read_manifest(out))


def test_the_published_training_files(shared_data, tmp_path):
    files = sorted((shared_data / "text").glob("wsibench_*_train.json.gz"))
    if not files:
        pytest.skip("files of WSI-Bench are not here")
    out = tmp_path / "m.jsonl.gz"
    closed = [path for path in files if "Staging_choice" in path.name]
    with pytest.raises(ManifestError, match=r"Staging_choice_train\.json\.gz, item 1613: choices"):
        converted("wsi_bench", out, *closed)
    done = converted("wsi_bench", out, *files, skip_bad=True)
    # One row with a choice twice, one with the roles swapped.
    assert [text.split(", ")[1].split(":")[0] for text in done.report["bad_records"]] == [
        "item 1613", "item 1815",
    ]  # fmt: skip
    assert done.report["tasks"] == {
        "grading": 5552, "molecular_subtyping": 926, "molecular_subtyping_choice": 926,
        "prognosis": 928, "prognosis_tf": 928, "staging": 3617, "staging_choice": 2748,
        "treatment_planning": 928,
    }  # fmt: skip
    assert done.report["published_test"] is None
    samples = read_manifest(out)
    assert tuple(samples) == done.samples
    check_apart(samples)
    counts = done.report["splits"]
    assert sum(n["patients"] for n in counts.values()) == 6602
    assert sum(n["slides"] for n in counts.values()) == 7590
    assert 0.08 < counts["test"]["patients"] / 6602 < 0.12
    closed = [s for s in samples if s.task.endswith("_choice")]
    assert all(len(s.choices) == 4 and s.answer in s.choices for s in closed)
    assert all(s.patient_id.startswith("TCGA-") and len(s.patient_id) == 12 for s in samples)
    # A patient is where it would be if files were converted one by one.
    alone = converted("wsi_bench", tmp_path / "one.jsonl", files[1])
    where = {s.id: s.split for s in samples}
    assert all(where[s.id] == s.split for s in alone.samples)
