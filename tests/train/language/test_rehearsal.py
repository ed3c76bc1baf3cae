"""`--dry-run`: lines of memory that add up, told before memory can run out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.train.language.assistants import training, write_set
from wsiprep.cli.main import app
from wsiprep.core.errors import DeviceError
from wsiprep.train.language import instruct, rehearsal
from wsiprep.train.language.assistant_config import AssistantTraining
from wsiprep.train.language.instruct import InstructLearner, assemble_assistant
from wsiprep.train.language.memory import Footprint, footprint
from wsiprep.train.language.optimiser import Rate
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import Optimisation
from wsiprep.train.language.rehearsal import rehearse_assistant, rehearsed

MIB = 2**20
LINES = ("weights", "gradients", "optimiser", "activations")
NO_BATCH: Any = SimpleNamespace(step=1)


def number(said: str) -> float:
    found = re.search(r"([\d,]+\.\d) MiB", said)
    assert found, said
    return float(found[1].replace(",", ""))


class Stand:
    """A learner of one weight, whose step takes what is asked for."""

    def __init__(self, weight_mib: int, for_a_while_mib: int) -> None:
        self.module = nn.Linear(weight_mib * MIB // 4, 1, bias=False)
        self.for_a_while = for_a_while_mib

    def rates(self) -> list[Rate]:
        return [Rate(dict(self.module.named_parameters()))]

    def backward(self, batch: object) -> dict[str, Tensor]:
        held = torch.ones(self.for_a_while * MIB // 4)
        self.module.weight.grad = torch.full_like(self.module.weight, float(held[0]))
        return {"loss": held[0] / 2}


def told_of(learner: Any, held: Footprint) -> dict[str, str]:
    facts: dict[str, str] = {}
    rehearsed(
        learner, NO_BATCH, Optimisation(), Processes(0, 1, torch.device("cpu")), held,
        facts.__setitem__,
    )  # fmt: skip
    return facts


@pytest.mark.usefixtures("one_thread")
def test_activations_are_what_a_step_holds_beside_what_is_computed() -> None:
    learner = Stand(weight_mib=8, for_a_while_mib=160)
    held = footprint(learner.module)
    facts = told_of(learner, held)
    if "at least" in facts["activations"]:
        pytest.skip("this system does not count the peak anew")
    assert facts["loss before training"] == "0.5000"
    assert 150 < number(facts["activations"]) < 180
    computed = [number(held.facts()[name]) for name in LINES[:3]]
    assert computed == [8.0, 8.0, 16.0]
    whole = sum(computed) + number(facts["activations"])
    assert number(facts["total"]) == pytest.approx(whole, abs=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_what_the_optimiser_needs_for_itself_is_seen() -> None:
    """Where activations are few, the most is taken when AdamW moves the weights."""
    learner = Stand(weight_mib=96, for_a_while_mib=1)
    facts = told_of(learner, footprint(learner.module))
    if "at least" in facts["activations"]:
        pytest.skip("this system does not count the peak anew")
    assert 64 < number(facts["activations"]) < 224


def rehearse(cfg: AssistantTraining, facts: dict[str, str]) -> None:
    rehearse_assistant(cfg, "instruct", facts.__setitem__)


@pytest.fixture
def cfg(tmp_path: Path) -> AssistantTraining:
    stores, data = write_set(tmp_path)
    return training(tmp_path, stores, data)


def test_lines_add_up_and_are_those_of_the_model(cfg: AssistantTraining) -> None:
    facts: dict[str, str] = {}
    rehearse(cfg, facts)
    assert number(facts["total"]) == pytest.approx(sum(number(facts[n]) for n in LINES), abs=1e-6)
    held = footprint(assemble_assistant(cfg, "instruct").learner.model)
    assert {name: facts[name] for name in held.facts()} == held.facts()
    assert list(facts)[-4:] == ["loss before training", "time of a step", "activations", "total"]
    assert "peak memory of a step" not in facts


def test_tokens_of_a_step_do_not_depend_on_micro_batches(cfg: AssistantTraining) -> None:
    seen = []
    for micro in (1, 3, 4):
        facts: dict[str, str] = {}
        change = (*cfg.set, f"optimisation.micro_batch={micro}", "optimisation.batch_size=4")
        rehearse(cfg.model_copy(update={"set": change}), facts)
        seen.append(facts["tokens of a step"])
    assert len(set(seen)) == 1
    assert re.fullmatch(r"[\d,]+, of which [1-9][\d,]* are learned", seen[0])


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "breaks",
    [
        lambda patch: patch.setattr(InstructLearner, "backward", no_memory),
        lambda patch: patch.setattr(instruct.Prepared, "place", no_memory),
        lambda patch: patch.setattr(rehearsal, "make_optimiser", no_memory),
    ],
    ids=["step", "device", "optimiser"],
)
def test_what_can_be_computed_is_told_where_memory_runs_out(
    cfg: AssistantTraining,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[pytest.MonkeyPatch], None],
) -> None:
    breaks(monkeypatch)
    facts: dict[str, str] = {}
    with pytest.raises(DeviceError, match="does not fit into the memory"):
        rehearse(cfg, facts)
    assert facts.keys() >= {"parameters", *LINES[:3]}
    assert "total" not in facts
    flags = ["--data", str(cfg.data), "--stores", str(cfg.stores), "--recipe", cfg.recipe,
             "--device", "cpu", "-o", str(cfg.output), "--dry-run"]  # fmt: skip
    done = CliRunner().invoke(app, ["train", "instruct", *flags])
    assert done.exit_code == 3
    assert re.search(r"^optimiser +[\d.]+ MiB", done.stdout, re.M)
    assert "does not fit into the memory of the device (--device cpu)" in done.output


def test_a_training_that_does_not_fit_is_a_typed_error(
    cfg: AssistantTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InstructLearner, "backward", no_memory)
    with pytest.raises(DeviceError, match="does not fit into the memory"):
        instruct.train_assistant(cfg, "instruct")
