"""From stores and texts to an aligned model, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.language.aligned import (
    DIM,
    WORLD,
    recipe_of,
)
from tests.train.language.made import write_store
from wsiprep.core.errors import (
    ConfigError,
    ManifestError,
    MissingStageError,
    WeightsError,
)
from wsiprep.core.types import EncoderSpec
from wsiprep.models.text.bert import read_bert
from wsiprep.train.language.align import train_align
from wsiprep.train.language.checkpoint import load_aligned
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.manifest import Sample, read_manifest, write_manifest
from wsiprep.train.language.rehearsal import rehearse_align

torch.set_num_threads(1)
SPEC = EncoderSpec("planted", DIM, None, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def cohort(tmp_path: Path) -> LanguageTraining:
    samples = []
    for number, slide in enumerate(WORLD.train(6)):
        write_store(
            tmp_path / "stores", slide.id, number=number, cells=slide.cell, spec=SPEC,
            vectors=slide.features, dtype="float32",
        )  # fmt: skip
        split = "val" if number == 5 else "train"
        samples.append(Sample(
            id=slide.id, slides=(slide.id,), patient_id=slide.id, caption=slide.caption,
            sub_captions=slide.sub_captions, split=split,
        ))  # fmt: skip
    write_manifest(tmp_path / "data.jsonl", samples)
    small = tmp_path / "small.yaml"
    small.write_text(json.dumps({"align": recipe_of().canonical()}))
    return LanguageTraining(
        data=tmp_path / "data.jsonl", output=tmp_path / "run", stores=tmp_path / "stores",
        recipe=str(small), device="cpu", set=("optimisation.steps=2",), validate_every=1,
    )  # fmt: skip


def test_from_stores_to_a_checkpoint(cohort: LanguageTraining) -> None:
    heard: list[Any] = []
    done = train_align(cohort, heard.append)
    assert [step.step for step in heard] == [1, 2]
    assert all(step.tokens_per_s > 100 * step.per_s > 0 for step in heard)
    assert done.scores.keys() == {"r_at_1", "r_at_5", "mrr"}
    read = load_aligned(cohort.output, "cpu")
    assert read.features.encoder == "planted"
    assert read.recipe["optimisation"]["steps"] == 2
    with pytest.raises(ConfigError, match="other settings or samples"):
        train_align(cohort.model_copy(update={"resume": True, "seed": 2}))


def test_resume_refuses_stores_that_came_since(tmp_path: Path, cohort: LanguageTraining) -> None:
    samples = read_manifest(cohort.data)
    case = replace(samples[0], id="case", slides=("TCGA-AA-0001",))
    write_manifest(cohort.data, [case, *samples[1:]])
    for number in (1, 2):
        write_store(
            tmp_path / "stores", f"TCGA-AA-0001-01Z-00-DX{number}", number=number,
            cells=WORLD.train(1)[0].cell, spec=SPEC, vectors=WORLD.train(1)[0].features,
            dtype="float32",
        )  # fmt: skip
        if number == 1:
            train_align(cohort)
            train_align(cohort.model_copy(update={"resume": True}))
    with pytest.raises(ConfigError, match="other settings or samples"):
        train_align(cohort.model_copy(update={"resume": True}))


def test_dry_run_writes_nothing(cohort: LanguageTraining) -> None:
    facts: dict[str, str] = {}
    rehearse_align(cohort, facts.__setitem__)
    assert facts["samples"] == "5 to learn from, 1 to validate on"
    patches = sum(len(slide.cell) for slide in WORLD.train(6)[:5])
    assert facts["tokens of a step"] == f"{patches:,}, the patches of its slides"
    assert "learn" in facts["parameters"]
    assert not cohort.output.exists()


def test_a_patient_in_both_files_is_refused(cohort: LanguageTraining) -> None:
    samples = read_manifest(cohort.data)
    held = replace(samples[0], id="again", split="")
    write_manifest(cohort.data.parent / "val.jsonl", [held])
    given = cohort.model_copy(update={"val": cohort.data.parent / "val.jsonl"})
    with pytest.raises(ManifestError, match=r"in train \(sample .* in val \(sample 'again'\)"):
        train_align(given)
    write_manifest(cohort.data, samples[1:])
    facts: dict[str, str] = {}
    rehearse_align(given, facts.__setitem__)
    assert facts["samples"] == "4 to learn from, 1 to validate on"


def test_nothing_to_learn_from(cohort: LanguageTraining) -> None:
    write_manifest(cohort.data, [Sample(id="a", slides=("a",), label="x")])
    with pytest.raises(ManifestError, match="no sample to learn from"):
        train_align(cohort)


def test_text_settings_are_checked(cohort: LanguageTraining) -> None:
    changes = ("model.texts.encoder=shared", "model.texts.options={a: 1}")
    with pytest.raises(ConfigError, match="no options"):
        train_align(cohort.model_copy(update={"set": changes}))


def test_training_starts_from_a_bert(cohort: LanguageTraining) -> None:
    from tests.models.test_text_bert import write_bert

    bert = write_bert(cohort.output.parent / "bert", lower=True)
    texts = ("model.texts.encoder=shared", "model.texts.options={}", f"model.texts.bert={bert}")
    sizes = {"encoder": "qformer", "options": {
        "dim": 16, "queries": 2, "width": 24, "layers": 2, "heads": 4, "hidden": 32,
        "mixer_layers": 0, "text_length": 30,
    }}  # fmt: skip
    changes = (*cohort.set, *texts, f"model.slides={json.dumps(sizes)}", "model.dim=null",
               "optimisation.learning_rate=1.0e-9")  # fmt: skip
    cfg = cohort.model_copy(update={"set": changes})
    train_align(cfg)
    model = load_aligned(cfg.output, "cpu").model
    wanted = read_bert(str(bert))
    assert model.tokenizer is not None
    assert model.tokenizer.to_json() == wanted.tokenizer.to_json()
    key = model.state_dict()["slides.encoder.network.layers.0.attention.key.weight"]
    theirs = wanted.state["encoder.layer.0.attention.self.key.weight"]
    torch.testing.assert_close(key, theirs, atol=1e-4, rtol=0)
    gone = (*changes, "model.texts.bert=/no/such/bert")
    none = cfg.model_copy(update={"set": gone, "output": cohort.output.with_name("none")})
    with pytest.raises(WeightsError, match="cannot be loaded"):
        train_align(none)


def test_what_is_left_out_is_told_and_kept(cohort: LanguageTraining) -> None:
    """A slide without tissue comes first; another sample's slide has no store."""
    samples = read_manifest(cohort.data)
    stores = cohort.stores
    write_store(stores, "blank", number=90, cells=np.empty((0, 2), int), spec=SPEC,
                vectors=np.empty((0, DIM)))  # fmt: skip
    blank = replace(samples[0], id="blank", slides=("blank",), split="train")
    gone = replace(samples[0], id="gone", slides=("gone",), split="train")
    write_manifest(cohort.data, [blank, *samples, gone])
    with pytest.raises(MissingStageError, match=r"1 of 8 samples .*: gone\."):
        train_align(cohort)
    assert not cohort.output.exists()
    given = cohort.model_copy(update={"skip_missing": True})
    told: list[str] = []
    done = train_align(given, on_note=told.append)
    assert told == [
        "left out: 1 samples of slides without a store or without features: gone",
        "left out: 1 samples whose slides have no patch with features: blank",
    ]
    kept = json.loads((cohort.output / "samples.json").read_text())
    assert kept["val"] == {
        "n": 1,
        "left_out": {"missing": {"n": 0, "samples": {}}, "empty": {"n": 0, "samples": {}}},
    }
    assert kept["learn"]["n"] == 5
    assert kept["learn"]["left_out"]["empty"]["samples"] == {"blank": ["blank"]}
    facts: dict[str, str] = {}
    rehearse_align(given, facts.__setitem__)
    assert facts["samples"] == "5 to learn from, 1 to validate on"
    assert "gone; 1 samples" in facts["left out"]
    # It is the training that the samples which are left would have had.
    write_manifest(cohort.data, samples)
    plain = train_align(cohort.model_copy(update={"output": cohort.output.parent / "plain"}))
    assert done.scores == plain.scores
