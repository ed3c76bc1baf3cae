"""A CSV file of one's own."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, write_csv
from tests.train.language.made import write_grid, write_store
from wsiprep.core.errors import ManifestError
from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert._records import Source
from wsiprep.train.language.manifest import Sample

UUID = "25c0b433-5557-4165-922e-2c1eac9c26f0"
SLIDE = f"TCGA-BP-5195-01Z-00-DX1.{UUID}"


def samples_of(path, **settings):
    plugin = formats.load("csv")
    cfg = plugin.Config.of(files=(path,), out="m.jsonl", **settings)
    rows = list(plugin.records(Source.of(path), cfg))
    assert not [row.problem for row in rows if row.problem]
    return [plugin.sample(row) for row in rows]


def table(tmp_path, *rows, name="reports.csv"):
    return write_csv(tmp_path / name, [line.split(",") for line in rows])


def test_slides_of_tcga_by_file_name(tmp_path):
    path = table(tmp_path, "Filename,Report", f"data/{SLIDE}.svs,Clear cell carcinoma.")
    assert samples_of(path) == [
        Sample(
            "reports/1",
            (SLIDE,),
            case_id="TCGA-BP-5195",
            patient_id="TCGA-BP-5195",
            caption="Clear cell carcinoma.",
            task="report",
        )
    ]


def test_reports_of_tcga_by_case(tmp_path):
    """The file of published TCGA reports names a case and the UUID of its report."""
    path = table(tmp_path, "patient_filename,text", f"TCGA-BP-5195.{UUID},Grade 2.")
    (one,) = samples_of(path)
    assert (one.slides, one.patient_id) == (("TCGA-BP-5195",), "TCGA-BP-5195")
    stores = tmp_path / "stores"
    for name in (SLIDE, "TCGA-BP-5195-01Z-00-DX2.x", "TCGA-BP-51950-01Z-00-DX1.x"):
        write_store(stores, name)
    done = converted_csv(tmp_path, path, stores=stores)
    assert done.samples[0].slides == (SLIDE, "TCGA-BP-5195-01Z-00-DX2.x")


def converted_csv(tmp_path, *files, **settings):
    return converted("csv", tmp_path / "m.jsonl", *files, **settings)


def test_slides_of_a_case_are_one_sample(tmp_path):
    path = table(
        tmp_path, "slide,case,patient,report,task", "a.svs,C1,P1,Same.,", "b.svs,C2,P1,Same.,",
        "c.svs,C1,P1,Same.,", "d.tiff; e.SVS,C1,P1,Other.,grading", "f.svs,C1,P1,Same.,",
    )  # fmt: skip
    found = samples_of(path)
    assert [(one.id, one.slides, one.case_id, one.task) for one in found] == [
        ("reports/1", ("a", "c", "f"), "C1", "report"),
        ("reports/2", ("b",), "C2", "report"),
        ("reports/4", ("d", "e"), "C1", "grading"),
    ]
    assert {one.patient_id for one in found} == {"P1"}


def test_questions_and_choices(tmp_path):
    lettered = table(
        tmp_path, "slide,question,a,b,c,answer,split", "a,Which?,low,high,,B,Train",
        "a,Why?,,,,So.,train",
    )  # fmt: skip
    one, open_ = samples_of(lettered)
    assert (one.choices, one.answer, one.split, one.task) == (("low", "high"), "high", "train",
                                                              "vqa")  # fmt: skip
    assert (open_.choices, open_.answer) == ((), "So.")
    parted = table(tmp_path, "slide,q,o,r", "a,Which?,low | high,low", name="p.csv")
    named = {"question_column": "q", "choices_column": ("o",), "answer_column": "R"}
    (one,) = samples_of(parted, **named)
    assert (one.choices, one.answer) == (("low", "high"), "low")


def test_a_question_column_without_answers_is_no_question(tmp_path):
    """As in the captions of SlideBench."""
    path = table(tmp_path, "Slide,Question,Caption", "a,Describe it.,Glands.")
    (one,) = samples_of(path)
    assert (one.question, one.caption) == ("", "Glands.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.svs,,", "line 3: it says nothing: the text is empty"),
        (",Glands.,", r"line 3: 'slide' must be text"),
        ("a.tiff,Nests.,", "line 3: it says of 'a' what line 2 says"),
        ("a;a,Nests.", "line 3: 2 cells under 3 columns"),
        ("TCGA-BP-5195-01;TCGA-BP-5196-01,Nests.,", "line 3: its slides are of several patients"),
        ("b,Nests.,nowhere", "line 3: there is no split 'nowhere'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, reason):
    path = table(tmp_path, "slide,report,split", "a.svs,Nests.,", row)
    with pytest.raises(ManifestError, match=reason):
        converted_csv(tmp_path, path)
    done = converted_csv(tmp_path, path, skip_bad=True)
    assert done.report["left_out"]["bad"] == 1
    assert [one.slides for one in done.samples] == [("a",)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [("a,Why?,", "a question alone"), ("a,,So.", "an answer alone")],
)
def test_half_a_question(tmp_path, row, reason):
    with pytest.raises(ManifestError, match=reason):
        converted_csv(tmp_path, table(tmp_path, "slide,question,answer", row))


@pytest.mark.parametrize(
    ("header", "settings", "reason"),
    [
        ("tile,report", {}, "no column of slides"),
        ("slide,score", {}, "no column of texts"),
        ("slide,report", {"patient_column": "pat"}, "no column pat"),
        ("slide;report", {}, "no column of slides"),
    ],
)
def test_columns_that_are_not_there(tmp_path, header, settings, reason):
    with pytest.raises(ManifestError, match=reason) as failed:
        converted_csv(tmp_path, table(tmp_path, header, "a,b"), **settings)
    assert "Its first line names" in str(failed.value.hint)


def test_patients_are_divided_and_said(tmp_path):
    rows = [f"TCGA-AA-{n // 2:04}-01Z-00-DX{n % 2}.U.svs,Text {n}." for n in range(200)]
    path = table(tmp_path, "slide_id,caption", *rows)
    done = converted_csv(tmp_path, path, val_share=0.2, test_share=0.3)
    splits = {name: part["patients"] for name, part in done.report["splits"].items()}
    assert sum(splits.values()) == 100
    assert 10 <= splits["val"] <= 30 <= splits["train"]
    assert 20 <= splits["test"] <= 40
    of = {}
    for one in done.samples:
        assert of.setdefault(one.patient_id, one.split) == one.split
    (file,) = done.report["files"]
    assert file["columns"] == {"slide": ["slide_id"], "text": ["caption"]}
    assert file["patients"] == {"barcode": 200}
    again = converted_csv(tmp_path, path, val_share=0.2, test_share=0.3, seed=1)
    assert [s.split for s in again.samples] != [s.split for s in done.samples]


def test_a_column_of_splits_wins(tmp_path):
    rows = ["a,x,test,P1", "b,y,train,P2", "c,z,valid,P3"]
    done = converted_csv(tmp_path, table(tmp_path, "slide,report,split,patient", *rows))
    assert [one.split for one in done.samples] == ["test", "train", "val"]
    assert (done.report["split"], done.report["published_test"]) == ("given", None)
    leaky = table(tmp_path, "slide,report,split,patient", *rows, "d,v,train,P1", name="l.csv")
    with pytest.raises(ManifestError, match="'P1' is in test"):
        converted_csv(tmp_path, leaky)
    done = converted_csv(tmp_path, leaky, split="patient")
    assert done.report["left_out"]["patient_is_held_out"] == 1
    some = table(tmp_path, "slide,report,split", "a,x,test", "b,y,", name="s.csv")
    with pytest.raises(ManifestError, match="1 of 2 samples have no split, 's/2'"):
        converted_csv(tmp_path, some)


@pytest.mark.parametrize(
    "rows",
    [
        # Samples of one participant are not patients of their own.
        ["a,C1,TCGA-AA-0001-01A,x,train", "b,C2,TCGA-AA-0001-11A,y,test"],
        ["a,C1,TCGA-AA-0001,x,train", "b,C2,tcga-aa-0001,y,test"],
        # A name of the laboratory's on one slide, the barcode alone on another.
        ["TCGA-AA-0001-01Z.svs,C1,P1,x,train", "TCGA-AA-0001-02Z.svs,C2,,y,test"],
    ],
)
def test_a_patient_by_several_names_does_not_leak(tmp_path, rows):
    path = table(tmp_path, "slide,case,patient,report,split", *rows)
    with pytest.raises(ManifestError, match="'TCGA-AA-0001' is in"):
        converted_csv(tmp_path, path)


def test_cases_numbered_anew_for_each_patient(tmp_path):
    rows = [f"s{n}_{c},{c},P{n},Text {n} {c}." for n in range(60) for c in (1, 2)]
    done = converted_csv(tmp_path, table(tmp_path, "slide,case,patient,report", *rows))
    assert sum(part["patients"] for part in done.report["splits"].values()) == 60
    assert {one.split for one in done.samples} == {"train", "val", "test"}
    assert done.samples[0].case_id == "P0 1"


def test_a_split_into_which_nobody_fell_is_told(tmp_path):
    done = converted_csv(tmp_path, table(tmp_path, "slide,report", "a,x"))
    held = {"train", "val", "test"} - {one.split for one in done.samples}
    assert set(done.report["empty_splits"]) == held
    assert len(held) == 2
    done = converted_csv(tmp_path, tmp_path / "reports.csv", val_share=0, test_share=0)
    assert done.report["empty_splits"] == []


def test_stores_without_features_are_as_if_they_were_not_there(tmp_path):
    stores = tmp_path / "stores"
    case = "TCGA-BP-5195"
    for number, name in enumerate((f"{case}-01Z-00-DX1.a", "whole")):
        write_store(stores, name, number=number)
    for number, name in enumerate((f"{case}-01Z-00-DX2.b", "bare"), 5):
        write_grid(stores, name, number)
    path = table(
        tmp_path, "slide,report", f"{case},One.", "whole,Two.", "bare,Three.", "bare;whole,Four.",
        "gone,Five.",
    )  # fmt: skip
    done = converted_csv(tmp_path, path, stores=stores)
    assert [one.slides for one in done.samples] == [(f"{case}-01Z-00-DX1.a",), ("whole",)]
    assert done.report["left_out"] == {"bad": 0, "no_store": 1, "no_features": 2,
                                       "patient_is_held_out": 0}  # fmt: skip
    assert done.report["stores_without_features"] == [f"{case}-01Z-00-DX2.b.zarr", "bare.zarr"]
    only = table(tmp_path, "slide,report", "bare,Three.", name="only.csv")
    with pytest.raises(ManifestError, match="no sample is left") as caught:
        converted_csv(tmp_path, only, stores=stores)
    assert "with features" in caught.value.hint
