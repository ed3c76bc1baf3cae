"""Slides and texts are aligned: gradients, resume, checkpoints, processes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.language.aligned import (
    DIM,
    HERE,
    MADE_WITH,
    PERCEIVER,
    QFORMER,
    SHARED,
    WORLD,
    cases_of,
    learner_of,
    recipe_of,
)
from tests.train.language.made import write_store
from wsiprep.core.errors import (
    ConfigError,
    ManifestError,
    MissingStageError,
    StoreMismatchError,
    WeightsError,
)
from wsiprep.core.types import EncoderSpec
from wsiprep.models.bags import pack
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.bert import read_bert
from wsiprep.train.language.align import train_align
from wsiprep.train.language.cases import batches
from wsiprep.train.language.checkpoint import Checkpoints, load_aligned, locate, save_aligned
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.loop import RunPlan, learning_rate, train
from wsiprep.train.language.manifest import Sample, read_manifest, write_manifest
from wsiprep.train.language.recipe import Optimisation
from wsiprep.train.language.rehearsal import rehearse_align

torch.set_num_threads(1)
OBJECTIVES = {
    "infonce and regions": {},
    "siglip": {"slide": "siglip", "region_weight": 0.0},
    "captions": {"region_weight": 0.0, "caption_weight": 2.0,
                 "caption_options": {"width": 32, "layers": 1, "heads": 4, "hidden": 64}},
    "captions by attention": {
        "region_weight": 0.0, "caption_weight": 2.0, "caption_decoder": "cross",
        "caption_options": {"width": 32, "layers": 1, "heads": 4, "hidden": 64},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> Any:
    return cases_of(WORLD.train(12))


def first_batch(cases: Any, size: int = 6) -> Any:
    return next(iter(batches(cases, size, 1, 1)))


def gradients(learner: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_do_not_change_the_gradient(name: str, micro: int, cases: Any) -> None:
    found = []
    for size in (None, micro):
        recipe = recipe_of(objectives=OBJECTIVES[name], optimisation={"micro_batch": size})
        learner = learner_of(recipe, cases)
        losses = learner.backward(first_batch(cases))
        found.append((gradients(learner), {k: float(v) for k, v in losses.items()}))
    (whole, loss), (parts, other) = found
    assert loss == pytest.approx(other, rel=1e-5)
    assert whole.keys() == parts.keys()
    largest = max(float(g.abs().max()) for g in whole.values())
    for key, gradient in whole.items():
        assert torch.allclose(gradient, parts[key], rtol=1e-3, atol=1e-5 * largest), key


def test_soft_top_k_looks_at_patches(cases: Any) -> None:
    recipe = recipe_of(slides=PERCEIVER, objectives={
        "region": "soft_top_k", "region_options": {"k": 16}
    })  # fmt: skip
    learner = learner_of(recipe, cases)
    losses = learner.backward(first_batch(cases))
    assert set(losses) == {"slide", "region", "loss", "tokens"}
    learner.model.eval()
    scores = learner.model.ground(pack([cases.bag(0, 0)]), ["keratin pearls seen."], "attention")
    assert torch.allclose(scores.sum(dim=1), torch.ones(1), atol=1e-5)


def test_matching_learns_with_the_shared_network(cases: Any) -> None:
    recipe = recipe_of(texts=SHARED, objectives={"matching_weight": 1.0, "region_weight": 0.0})
    learner = learner_of(recipe, cases)
    losses = learner.backward(first_batch(cases))
    assert losses["loss"] == pytest.approx(losses["slide"] + losses["matching"])
    assert learner.model.heads["matching"].linear.weight.grad.abs().max() > 0
    assert "texts.encoder" not in " ".join(n for n, _ in learner.model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objectives": {"matching_weight": 1.0}}, "matching needs"),
        ({"slides": PERCEIVER, "texts": SHARED}, "needs the slide encoder 'qformer'"),
        ({"dim": 48, "slides": {**QFORMER, "head": "none"}}, "need a head"),
        ({"objectives": {"slide_options": {"heat": 1}}}, "options of the objectives"),
        ({"slides": {"encoder": "qformer", "options": {"size": 1}}}, "slide encoder 'qformer'"),
    ],
)
def test_parts_that_do_not_go_together(changes: Any, said: str, cases: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        learner_of(recipe_of(**changes), cases)


def test_a_loss_without_its_vectors_is_told(cases: Any) -> None:
    learner = learner_of(recipe_of(objectives={"region": "soft_top_k"}), cases)
    with pytest.raises(ConfigError, match="gives no vectors of patches"):
        learner.backward(first_batch(cases))


def test_frozen_sides_stay(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"text_rate": 0.0, "steps": 2})
    learner = learner_of(recipe, cases)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 1, 10), HERE)
    moved = {n for n, p in learner.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any(name.startswith("texts.encoder") for name in moved)


class Stop(Exception):
    pass


def steps_in(folder: Path) -> list[int]:
    lines = (folder / "log.csv").read_text().splitlines()
    return [int(line.split(",")[0]) for line in lines[1:]]


def test_the_log_has_every_step_at_once(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 4})
    told: list[list[int]] = []
    train(
        learner_of(recipe, cases, cases_of(WORLD.test())), cases, recipe.optimisation,
        RunPlan(tmp_path, 1, 3), HERE, lambda _: told.append(steps_in(tmp_path)),
    )  # fmt: skip
    assert told == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    names, *rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert [bool(row[names.index("val/mrr")]) for row in rows] == [False, False, True, True]
    # Another run in the folder begins a log of its own.
    train(learner_of(recipe, cases), cases, recipe.optimisation, RunPlan(tmp_path, 1, 4), HERE)
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    assert "val/mrr" not in (tmp_path / "log.csv").read_text()


@pytest.mark.parametrize("decoder", ["prefix", "cross"])
def test_captions_are_said_of_a_micro_batch_at_once(decoder: str, cases: Any) -> None:
    name = "captions" if decoder == "prefix" else "captions by attention"
    recipe = recipe_of(objectives=OBJECTIVES[name], optimisation={"micro_batch": 2})
    learner = learner_of(recipe, cases)
    head, seen = learner.model.heads["caption"], []
    honest = head.decoder.embed

    def watched(ids: torch.Tensor) -> torch.Tensor:
        seen.append(len(ids))
        return honest(ids)

    head.decoder.embed = watched
    learner.backward(first_batch(cases))
    assert seen == [2] * 6  # three micro-batches, forward twice


@pytest.mark.parametrize("dropout", [0.1])
def test_resume_is_to_the_bit(dropout: float, cases: Any, tmp_path: Path) -> None:
    slides = {**QFORMER, "options": {**QFORMER["options"], "dropout": dropout}}
    recipe = recipe_of(slides=slides, optimisation={"steps": 6, "micro_batch": 4})
    val = cases_of(WORLD.test())

    def run(folder: Path, *, resume: bool = False, stop: int = 99) -> dict[str, torch.Tensor]:
        learner = learner_of(recipe, cases, val)

        def heard(step: Any) -> None:
            if step.step == stop:
                raise Stop

        plan = RunPlan(folder, 1, 2, resume, {"a": 1})
        try:
            train(learner, cases, recipe.optimisation, plan, HERE, heard)
        except Stop:
            return {}
        return dict(learner.model.state_dict())

    whole = run(tmp_path / "whole")
    assert not run(tmp_path / "parts", stop=5)
    # Validated and kept at step 4; what was taken since is in the log, and is taken again.
    assert steps_in(tmp_path / "parts") == [1, 2, 3, 4, 5]
    parts = run(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()
    with pytest.raises(ConfigError, match="other settings"):
        train(
            learner_of(recipe, cases), cases, recipe.optimisation,
            RunPlan(tmp_path / "parts", 1, 2, resume=True, decides={"a": 2}), HERE,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="to go on from"):
        run(tmp_path / "nothing", resume=True)


def test_what_is_replaced_is_forgotten(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 2})
    first = learner_of(recipe, cases, cases_of(WORLD.test()))
    train(first, cases, recipe.optimisation, RunPlan(tmp_path, 1, 1), HERE)
    assert "best" in Checkpoints(tmp_path).names()

    def stop(step: Any) -> None:
        raise Stop

    learner = learner_of(recipe, cases)
    with pytest.raises(Stop):
        train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 2, 9), HERE, stop)
    assert not (tmp_path / "state.pt").exists()
    assert Checkpoints(tmp_path).names() == {}
    done = train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 2, 9), HERE)
    assert done.checkpoint == tmp_path / Checkpoints(tmp_path).names()["last"]
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [done.checkpoint.name]


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)

    def write(folder: Path) -> None:
        (folder / "model.json").write_text("{}")

    def broken(folder: Path) -> None:
        (folder / "model.json").write_text("{")
        raise Stop

    kept.add(10, write, best=True)
    kept.add(20, write, best=False)
    assert kept.names() == {"last": "step-000020", "best": "step-000010"}
    with pytest.raises(Stop):
        kept.add(30, broken, best=True)
    assert kept.names()["best"] == "step-000010"
    assert locate(tmp_path).name == "step-000010"
    kept.add(30, write, best=True)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000030"]


def test_checkpoint_gives_the_same_vectors(cases: Any, tmp_path: Path) -> None:
    recipe = recipe_of(optimisation={"steps": 2})
    learner = learner_of(recipe, cases)
    done = train(learner, cases, recipe.optimisation, RunPlan(tmp_path, 1, 2), HERE)
    state = torch.get_rng_state()
    read = load_aligned(done.checkpoint.parent, "cpu")
    assert torch.equal(state, torch.get_rng_state())
    learner.model.eval()
    bags, texts = pack([cases.bag(i, 0) for i in range(3)]), ["mucin pools seen.", "tumour nests"]
    assert torch.equal(read.model.embed_slides(bags), learner.model.embed_slides(bags))
    assert torch.equal(read.model.embed_texts(texts), learner.model.embed_texts(texts))
    assert read.features == MADE_WITH
    assert read.recipe["name"] == "test"
    for method in ("attention", "cosine", "occlusion"):
        scores = read.model.ground(pack([cases.bag(0, 0)]), texts, method)
        assert scores.shape == (2, len(cases.bag(0, 0)))
        assert torch.isfinite(scores).all()


def test_checkpoints_that_do_not_fit_are_refused(cases: Any, tmp_path: Path) -> None:
    learner = learner_of(recipe_of(), cases)
    save_aligned(
        tmp_path, learner.model, features=MADE_WITH, sampling=Sampling(), recipe={"name": "x"}
    )
    words = json.loads((tmp_path / "model.json").read_text())
    for change, error, said in (
        ({"kind": "assistant"}, WeightsError, "what is needed is aligned"),
        ({"format": 99}, WeightsError, "format 99"),
        ({"text": {"kind": "transformer"}}, StoreMismatchError, "text encoder is not the one"),
        ({"input_dim": DIM + 1}, WeightsError, "do not fit"),
    ):
        (tmp_path / "model.json").write_text(json.dumps({**words, **change}))
        with pytest.raises(error, match=said):
            load_aligned(tmp_path, "cpu")
    with pytest.raises(WeightsError, match="holds no model"):
        load_aligned(tmp_path / "nowhere", "cpu")


def test_learning_rate_rises_and_falls() -> None:
    cfg = Optimisation(learning_rate=1.0, final_rate=0.1, warmup=10)
    rates = [learning_rate(cfg, step, 110) for step in range(1, 111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(Optimisation(warmup=0.5, steps=1), 1, 1) > 0


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
    none = cfg.model_copy(update={"set": (*changes, "model.texts.bert=/no/such/bert")})
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
