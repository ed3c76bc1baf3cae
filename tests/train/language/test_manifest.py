"""The one format: what is written is read, and what is wrong is named with its line."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import (
    Sample,
    Turn,
    data_sha256,
    read_manifest,
    write_manifest,
)

TEXT = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() and "<image>" not in t)
MAYBE = st.just("") | TEXT
NAME = TEXT.filter(lambda t: all(ord(c) >= 32 for c in t))


@st.composite
def conversations(draw):
    turns = [Turn("system", draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Turn("user", draw(TEXT)), Turn("assistant", draw(TEXT))]
    return tuple(turns)


@st.composite
def samples(draw):
    question = draw(MAYBE)
    choices = draw(st.just([]) | st.lists(TEXT, min_size=2, max_size=4, unique=True))
    choices = tuple(choices) if question else ()
    answer = draw(st.sampled_from(choices) if choices else MAYBE) if question else ""
    values = {
        "caption": draw(MAYBE),
        "sub_captions": tuple(draw(st.lists(TEXT, max_size=3, unique=True))),
        "conversations": draw(st.just(()) | conversations()),
        "label": draw(MAYBE),
    }
    if not any(values.values()) and not question:
        values["label"] = "tumour"
    return Sample(
        id=draw(NAME),
        slides=tuple(draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))),
        case_id=draw(MAYBE),
        patient_id=draw(MAYBE),
        question=question,
        choices=choices,
        answer=answer,
        task=draw(MAYBE),
        split=draw(st.sampled_from(["", "train", "val", "test"])),
        **values,
    )


SETS = st.lists(samples(), min_size=1, max_size=5, unique_by=lambda s: s.id)


@given(written=SETS, name=st.sampled_from(["m.jsonl", "m.jsonl.gz"]))
@settings(deadline=None, max_examples=40)
def test_what_is_written_is_read(tmp_path_factory, written, name):
    path = tmp_path_factory.mktemp("m") / name
    write_manifest(path, written)
    assert read_manifest(path) == written
    content = path.read_bytes()
    write_manifest(path, read_manifest(path))
    assert path.read_bytes() == content
    assert (content[:2] == b"\x1f\x8b") == name.endswith(".gz")


@given(some=SETS, data=st.data())
@settings(deadline=None, max_examples=50)
def test_the_hash_is_of_what_is_said_and_of_nothing_else(some, data):
    assert data_sha256(data.draw(st.permutations(some))) == data_sha256(some)
    changed = replace(some[0], caption=some[0].caption + "x")
    assert data_sha256([changed, *some[1:]]) != data_sha256(some)
    assert data_sha256(some[1:]) != data_sha256(some)


def test_order_of_fields_nulls_blank_lines_and_byte_order_marks_do_not_matter(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        '\ufeff{"caption":"c","slides":["a"],"id":"1","label":null}\r\n\n'
        '{"id":"2","slides":["a","b.zarr"],"label":"x\u2028y"}',
        encoding="utf-8",
    )
    assert read_manifest(path) == [
        Sample("1", ("a",), caption="c"),
        Sample("2", ("a", "b.zarr"), label="x\u2028y"),
    ]


GOOD = {"id": "1", "slides": ["a"], "caption": "c"}
TALK = [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captoin": "x"}, "no field 'captoin'; did you mean 'caption'"),
        ({"slides": None}, "'slides' is missing"),
        ({"id": None}, "'id' is missing"),
        ({"slides": []}, "slides is empty"),
        ({"slides": "a"}, "slides must be a list, not text"),
        ({"slides": ["a", "a"]}, "'a' twice"),
        ({"slides": [7]}, "must be text, not a number"),
        ({"id": 7}, "id must be text, not a number"),
        ({"id": "a\tb"}, "control characters"),
        ({"caption": ""}, "caption is empty"),
        ({"caption": " \n"}, "caption is empty"),
        ({"caption": None}, "nothing is said"),
        ({"caption": "<image>\nx"}, "holds <image>"),
        ({"caption": "\ud800"}, "half a character"),
        ({"label": True}, "must be text, not true or false"),
        ({"split": "tset"}, "not 'tset'"),
        ({"answer": "a"}, "belong to a question"),
        ({"choices": ["a", "b"]}, "belong to a question"),
        ({"question": "q", "choices": ["a"]}, "one answer only"),
        ({"question": "q", "choices": ["a", "b"], "answer": "c"}, "'c' is none of choices"),
        ({"question": "q", "choices": ["a", "a"]}, "'a' twice"),
        ({"sub_captions": ["a", ""]}, "an entry of sub_captions is empty"),
        ({"conversations": {}}, "must be a list, not an object"),
        ({"conversations": ["hello"]}, "a turn is"),
        ({"conversations": [{"role": "user", "text": "q", "x": 1}]}, "a turn is"),
        ({"conversations": TALK[:1]}, "last turn"),
        ({"conversations": [{"role": "system", "text": "s"}]}, "last turn"),
        ({"conversations": TALK[::-1]}, "turn 1 of the conversation is by assistant"),
        ({"conversations": [*TALK, {"role": "system", "text": "s"}, *TALK]}, "turn 3 .* system"),
        ({"conversations": [{"role": "human", "text": "q"}]}, "not 'human'"),
        ({"conversations": [{"role": "user", "text": ""}]}, "text of the user is empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    path = tmp_path / "m.jsonl"
    values = {**GOOD, **change}
    lines = [json.dumps({**GOOD, "id": "0"}), json.dumps(values)]
    path.write_text("\n".join(lines))
    with pytest.raises(ManifestError, match=rf"m\.jsonl, line 2: .*{message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an object with named fields, not a list"),
        ('"x"', "not text"),
        ('{"id": "1", "id": "2"}', "'id' is given twice"),
        ('{"id": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_text("\n" + line)
    with pytest.raises(ManifestError, match=rf"line 2: .*{message}"):
        read_manifest(path)


def test_an_id_is_used_once(tmp_path):
    path = tmp_path / "m.jsonl"
    line = json.dumps(GOOD)
    path.write_text(f"{line}\n\n{line}\n")
    with pytest.raises(ManifestError, match="line 3: the id '1' is also on line 1"):
        read_manifest(path)
    sample = Sample("1", ("a",), caption="c")
    with pytest.raises(ManifestError, match="id '1'"):
        write_manifest(tmp_path / "x.jsonl", [sample, sample])
    assert not (tmp_path / "x.jsonl").exists()


def test_a_manifest_that_is_none(tmp_path):
    for name, content in (("empty", b""), ("blank", b"\n \n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match="no sample"):
            read_manifest(tmp_path / name)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "nowhere")
    lines = "".join(json.dumps({**GOOD, "id": str(n)}) + "\n" for n in range(5000)).encode()
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(ManifestError, match=r"cut\.gz cannot be read"):
        read_manifest(tmp_path / "cut.gz")
