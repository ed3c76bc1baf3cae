from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.train.language.assistants import (
    DIM,
    TOKENIZER,
    bag_of,
    cases_of,
    recipe,
    samples,
    training,
    write_set,
)
from tests.train.language.made import write_blank, write_store
from wsiprep.cli.main import app
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.core.report import TrainStep
from wsiprep.models import pack
from wsiprep.models.assistant_parts import make_assistant
from wsiprep.models.language import Decoding, Turn
from wsiprep.train.language.assistant_checkpoint import (
    load_assistant,
)
from wsiprep.train.language.assistant_config import AssistantTraining
from wsiprep.train.language.cases import Batch
from wsiprep.train.language.conversations import answer_of, conversations_of, question_of
from wsiprep.train.language.instruct import (
    InstructLearner,
    prepare_assistant,
    train_assistant,
)
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.manifest import Sample, read_manifest, write_manifest
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import load_recipe, recipe_names, section
from wsiprep.train.language.rehearsal import rehearse_assistant

CPU = torch.device("cpu")


class Shares(Processes):
    """This process as one of two: the other had so many tokens, and its gradient."""

    def __init__(self, other_tokens: float) -> None:
        super().__init__(0, 1, CPU)
        object.__setattr__(self, "other", other_tokens)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return (value + self.other) / 2  # type: ignore[attr-defined]


def learner_of(how: AssistantRecipe, processes: Processes | None = None) -> InstructLearner:
    torch.manual_seed(0)
    model = make_assistant(how.model, DIM, TOKENIZER, seed=3)
    return InstructLearner(
        model, how.model, how, cases_of(samples()), cases_of(samples(6)[4:]),
        processes or Processes(0, 1, CPU), command="instruct", name="small",
    )  # fmt: skip


def batch_of(rows: list[int], what: list[Sample] | None = None) -> Batch:
    found = what or samples()
    return Batch(1, 0, tuple(found[k] for k in rows), tuple(bag_of(k) for k in rows))


def gradients(learner: InstructLearner, batch: Batch) -> tuple[float, torch.Tensor]:
    learner.model.zero_grad()
    loss = learner.backward(batch)["loss"]
    grown = [p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]
    return float(loss), torch.cat(grown).clone()


def test_what_is_learned_of_a_sample() -> None:
    one, cfg = samples()[1], recipe().model.assistant
    talks = conversations_of(one, "instruct", cfg)
    assert [talk[-1].text for talk in talks] == ["The lung.", "B. lung", "Tissue of lung."]
    asked = talks[1][0].text.splitlines()
    assert asked == [
        "Choose the organ.", "Answer with one of these options.",
        "A. colon", "B. lung", "C. kidney", "D. skin",
    ]  # fmt: skip
    assert question_of(one, cfg) == talks[1][:1]
    only = conversations_of(one, "caption", cfg)
    assert only == talks[2:]
    assert only[0][0] == Turn("user", cfg.caption_prompt)
    assert conversations_of(one, "instruct", cfg, captions=False) == talks[:2]
    findings = Sample(id="a", slides=("s",), sub_captions=("Necrosis.", "No tumour"))
    assert conversations_of(findings, "caption", cfg)[0][1].text == "Necrosis. No tumour."
    assert conversations_of(Sample(id="b", slides=("s",), label="x"), "instruct", cfg) == []


@pytest.mark.parametrize(("style", "said"), [("letter", "C"), ("text", "kidney")])
def test_styles_of_choices(style: str, said: str) -> None:
    cfg = recipe().model.assistant.model_copy(update={"choices": style})
    assert answer_of(samples()[2], cfg) == said
    marked = question_of(samples()[2], cfg)[0].text.splitlines()[-2]
    assert marked == ("- kidney" if style == "text" else "C. kidney")


@pytest.mark.parametrize("micro", [1, 3])
def test_the_gradient_does_not_depend_on_the_micro_batch(micro: int) -> None:
    whole = gradients(learner_of(recipe()), batch_of([0, 1, 2, 3]))
    parts = gradients(learner_of(recipe(micro_batch=micro)), batch_of([0, 1, 2, 3]))
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-4, atol=1e-6)


def test_the_gradient_does_not_depend_on_the_number_of_processes() -> None:
    # Of unequal length, so that the mean of means would be another number.
    what = samples()
    what[0] = replace(what[0], caption="A long caption, " * 4)
    whole = gradients(learner_of(recipe()), batch_of([0, 1, 2, 3], what))
    tokens = []
    for rows in ([0, 2], [1, 3]):
        learner = learner_of(recipe())
        batch = batch_of(rows, what)
        tokens.append(int(learner._out(batch.samples, batch.bags).tokens))
    assert tokens[0] > tokens[1]
    parts = [
        gradients(learner_of(recipe(), Shares(other)), batch_of(rows, what))
        for rows, other in (([0, 2], tokens[1]), ([1, 3], tokens[0]))
    ]
    assert sum(part[0] for part in parts) / 2 == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, whole[1], rtol=1e-4, atol=1e-6)


TWO = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.train.language.assistants import cases_of, recipe, samples
from tests.train.language.test_instruct import learner_of
from wsiprep.train.language.cases import batches
from wsiprep.train.language.loop import RunPlan, train
from wsiprep.train.language.processes import join_processes, leave_processes
processes = join_processes(torch.device("cpu"))
out = Path(sys.argv[1])
how = recipe(steps=2, micro_batch=2)
learner = learner_of(how, processes)
what = [replace(one, caption="Long. " * 5 * k + "Short.") for k, one in enumerate(samples())]
learner.cases, learner.val = cases_of(what), None
batch = next(iter(batches(learner.cases, 4, 1, 1, rank=processes.rank, world=processes.world)))
learner.backward(batch)
found = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
learner.model.zero_grad()
train(learner, learner.cases, how.optimisation, RunPlan(out, 1, 2), processes)
if processes.main:
    torch.save(found, out / "gradients.pt")
del learner
leave_processes()
"""


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two.py").write_text(TWO)
    root = str(Path(__file__).parents[3])

    def run(world: int) -> tuple[dict[str, torch.Tensor], str]:
        out = tmp_path / f"{world}"
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}  # fmt: skip
        command = [sys.executable, str(tmp_path / "two.py"), str(out)]
        ranks = [{**env, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]
        started = [subprocess.Popen(command, env=rank, cwd=root) for rank in ranks]
        assert [process.wait(300) for process in started] == [0] * world
        return torch.load(out / "gradients.pt", weights_only=True), (out / "log.csv").read_text()

    (one, log), (two, other) = run(1), run(2)
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], rtol=1e-3, atol=1e-6)
    rows = [list(csv.DictReader(io.StringIO(text))) for text in (log, other)]
    for name in ("loss", "tokens"):
        values = [[float(row[name]) for row in found] for found in rows]
        assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_validation_knows_right_from_wrong() -> None:
    learner = learner_of(recipe(learning_rate=5e-3))
    before = learner.validate()
    weights = [p for p in learner.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=5e-3)
    for _ in range(60):
        gradients(learner, batch_of([0, 1, 2, 3]))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    learner.model.eval()
    after = learner.validate()
    assert 0 < before["token_probability"] < 0.02
    assert after["token_probability"] > 0.5
    assert after["accuracy"] == 1.0
    # The slides of validation are others, of the same organs.
    learner.val = cases_of([replace(s, answer="colon") for s in samples(4)[1:]])
    assert learner.validate()["accuracy"] == 0.0


def test_rates_are_of_parts() -> None:
    learner = learner_of(recipe(text_rate=0.5))
    assert [rate.factor for rate in learner.rates()] == [1.0, 0.5, 1.0]
    every = {name for rate in learner.rates() for name in rate.parameters}
    learned = {n for n, p in learner.model.named_parameters() if p.requires_grad}
    assert every == learned
    assert any(name.startswith("language.") for name in every)
    still = learner_of(recipe(slide_rate=0))
    assert not still.model.cfg.slides_learn
    frozen = learner_of(recipe(text_rate=0))
    assert not any(p.requires_grad for p in frozen.model.language.parameters())


def test_from_stores_to_answers(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    cfg = training(tmp_path, stores, data, set=("optimisation.steps=3",))
    first = train_assistant(cfg, "caption")
    captioner = load_assistant(first.checkpoint, "cpu")
    assert captioner.features.dim == DIM
    assert captioner.recipe["command"] == "caption"
    again = training(
        tmp_path, stores, data, start=tmp_path / "out", output=tmp_path / "two",
        set=("optimisation.steps=70",),
    )  # fmt: skip
    begun = prepare_assistant(again, "instruct").learner.model
    for name, value in captioner.model.trainable_state().items():
        assert torch.equal(begun.trainable_state()[name], value)
    steps: list[TrainStep] = []
    done = train_assistant(again, "instruct", steps.append)
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert all(step.tokens_per_s and step.tokens_per_s > step.per_s for step in steps)
    assert set(done.scores) == {"token_probability", "accuracy"}
    model = load_assistant(tmp_path / "two", "cpu").model
    shown = model.look(pack([bag_of(k) for k in range(4)]).to("cpu", torch.float32))
    cfg_ = model.cfg
    said = model.answer(
        shown, [question_of(one, cfg_) for one in samples()], Decoding(max_new_tokens=16)
    )
    assert said == [answer_of(one, cfg_) for one in samples()]


def test_a_run_that_was_stopped_ends_the_same(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)

    def run(name: str, **given: Any) -> AssistantTraining:
        return training(
            tmp_path, stores, data, output=tmp_path / name, validate_every=2,
            set=("optimisation.steps=4",), **given,
        )  # fmt: skip

    whole = train_assistant(run("whole"), "instruct")

    def stop(step: TrainStep) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_assistant(run("stopped"), "instruct", stop)
    rest = train_assistant(run("stopped", resume=True), "instruct")
    one, two = (done.checkpoint / "weights.safetensors" for done in (whole, rest))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(ConfigError, match="other settings"):
        train_assistant(run("stopped", resume=True, seed=2), "instruct")
    with pytest.raises(ConfigError, match=r"holds a training already: state\.pt"):
        train_assistant(run("whole"), "instruct")
    assert one.read_bytes() == two.read_bytes()
    anew = train_assistant(run("whole", overwrite=True, seed=2), "instruct")
    assert (anew.checkpoint / "weights.safetensors").read_bytes() != two.read_bytes()


def test_dry_run_tells_what_it_takes(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    facts: dict[str, str] = {}
    rehearse_assistant(training(tmp_path, stores, data), "instruct", facts.__setitem__)
    assert facts["language model"] == "tiny"
    assert facts["samples"] == "4 to learn from, 2 to validate on"
    assert facts["patches of a step"] == "24"
    assert "of which" in facts["tokens of a step"]
    assert not (tmp_path / "out").exists()


def test_by_the_command_line(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    cfg = training(tmp_path, stores, data)
    flags = ["--data", str(data), "--stores", str(stores), "--recipe", cfg.recipe, "--device",
             "cpu", "-o", str(tmp_path / "out"), "--set", "optimisation.steps=2"]  # fmt: skip
    runner = CliRunner()
    told = runner.invoke(app, ["train", "caption", *flags, "--dry-run"])
    assert told.exit_code == 0
    assert "language model" in told.stdout
    assert "tiny" in told.stdout
    done = runner.invoke(app, ["train", "caption", *flags])
    assert done.exit_code == 0
    assert f"wsiprep ask | caption --model {tmp_path / 'out'}" in done.stdout
    assert " slides/s, " in done.output
    assert " tokens/s" in done.output
    assert load_assistant(tmp_path / "out", "cpu").recipe["command"] == "caption"
    rows = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert "tokens" in rows[0].split(",")
    wrong = runner.invoke(app, ["train", "instruct", *flags, "--recipe", "nobody"])
    assert wrong.exit_code == 2


def test_samples_that_say_nothing_are_an_error(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    (tmp_path / "labels.jsonl").write_text('{"id": "a", "slides": ["s0"], "label": "x"}\n')
    cfg = training(tmp_path, stores, tmp_path / "labels.jsonl")
    with pytest.raises(ManifestError, match="none of split train has a caption"):
        prepare_assistant(cfg, "caption")
    few = training(tmp_path, stores, data, set=("validate_most=1",))
    held = prepare_assistant(few, "caption").learner.val
    assert held is not None
    assert len(held) == 1


def test_a_patient_in_both_files_is_refused(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    held = replace(samples()[0], id="again")
    write_manifest(tmp_path / "val.jsonl", [held])
    cfg = training(tmp_path, stores, data, val=tmp_path / "val.jsonl")
    with pytest.raises(ManifestError, match=r"in train \(sample .* in val \(sample 'again'\)"):
        prepare_assistant(cfg, "instruct")
    write_manifest(tmp_path / "val.jsonl", [replace(held, patient_id="p9", slides=("s5",))])
    learner = prepare_assistant(cfg, "instruct").learner
    assert learner.val is not None
    assert [one.id for one in learner.val.samples] == ["again"]


def test_recipes_of_the_package_can_be_read() -> None:
    for name in recipe_names():
        there = load_recipe(name)
        for command in ("caption", "instruct"):
            if getattr(there, command) is not None:
                section(there, command, AssistantRecipe)


def test_what_is_left_out_is_told_and_kept(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    write_blank(stores, "blank", 8)
    more = [Sample(id=s, slides=(s,), caption="-", split="train") for s in ("blank", "gone")]
    write_manifest(data, [*more, *read_manifest(data)])
    flags = ["--data", str(data), "--stores", str(stores), "--recipe",
             training(tmp_path, stores, data).recipe, "--device", "cpu", "-o",
             str(tmp_path / "out"), "--set", "optimisation.steps=2"]  # fmt: skip
    runner = CliRunner()
    refused = runner.invoke(app, ["train", "caption", *flags])
    assert refused.exit_code == 1
    assert "1 of 8 samples" in refused.stderr
    assert "--skip-missing" in refused.stderr
    assert not (tmp_path / "out").exists()
    told = runner.invoke(app, ["train", "caption", *flags, "--skip-missing", "--dry-run"])
    assert told.exit_code == 0
    assert "no patch with features: blank" in told.stdout
    done = runner.invoke(app, ["train", "caption", *flags, "--skip-missing"])
    assert done.exit_code == 0, done.stderr
    assert "left out: 1 samples of slides without a store or without features: gone" in done.stderr
    kept = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert {split: account["n"] for split, account in kept.items()} == {"learn": 4, "val": 2}
    assert kept["learn"]["left_out"]["missing"]["samples"] == {"gone": ["gone"]}
    # Samples that came since are another training.
    write_store(stores, "gone", number=7)
    again = runner.invoke(app, ["train", "caption", *flags, "--resume"])
    assert again.exit_code == 2
    assert "other settings or samples" in again.stderr
    assert json.loads((tmp_path / "out" / "samples.json").read_text()) == kept
