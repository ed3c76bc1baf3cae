"""One of several processes that train an assistant: `python -m tests.train.language.spread JOB`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.train.language.assistants import DIM, cases_of, recipe, samples
from wsiprep.core.errors import ConfigError
from wsiprep.core.report import TrainStep
from wsiprep.models.assistant_parts import AssistantParts, make_assistant
from wsiprep.models.text.tokenizer import train_bpe
from wsiprep.train.language.instruct import InstructLearner
from wsiprep.train.language.loop import RunPlan, Trained, train
from wsiprep.train.language.memory import footprint
from wsiprep.train.language.processes import Processes, join_processes, leave_processes
from wsiprep.train.language.sharding import own_part, shard

TOKENIZER = train_bpe(["Tissue of colon, lung, kidney, skin."] * 3, vocab_size=300)
STEPS = 4


def learner_of(
    parts: AssistantParts | None, processes: Processes, *, spread: bool, batch_size: int, micro: int
) -> InstructLearner:
    """An assistant, always with the same first weights; the tiny one without `parts`."""
    how = recipe(steps=STEPS, micro_batch=micro, batch_size=batch_size)
    torch.manual_seed(0)
    wanted = parts or how.model
    model = make_assistant(wanted, DIM, TOKENIZER if parts is None else None, seed=3)
    # Of unequal length, so that a mean of means would be another number.
    what = [replace(one, caption="Long. " * k + "Short.") for k, one in enumerate(samples(7))]
    learner = InstructLearner(
        model, wanted, how, cases_of(what), cases_of(samples(9)[7:]), processes,
        command="instruct", name="small",
    )  # fmt: skip
    if spread:
        shard(model.get_submodule("language"), processes)
    processes.share([model])
    return learner


def run(
    learner: InstructLearner, out: Path, *, key: str = "", stop: int = 0, resume: bool = False
) -> Trained:
    """Train, and leave it after the step `stop`."""

    def watch(step: TrainStep) -> None:
        if step.step == stop:
            raise KeyboardInterrupt

    plan = RunPlan(out, 1, 2, resume, {"key": key})
    return train(
        learner, learner.cases, learner.recipe.optimisation, plan, learner.processes, watch
    )


def main(job: dict[str, Any]) -> None:
    """Do what a test asks for; facts go to `facts-RANK.json`."""
    processes, out = join_processes(torch.device("cpu")), Path(job["out"])
    parts = AssistantParts.model_validate(job["parts"]) if job.get("parts") else None
    how: dict[str, Any] = {"batch_size": job["batch_size"], "micro": job["micro"]}
    if job.get("plain"):
        run(learner_of(parts, processes, spread=False, **how), out / "plain")
    learner = learner_of(parts, processes, spread=True, **how)
    language = learner.model.get_submodule("language")
    facts: dict[str, Any] = {
        "all": sum(p.numel() for p in language.parameters()),
        "own": sum(own_part(p).numel() for p in language.parameters()),
        "sizes": footprint(learner.model).facts(),
    }
    run(learner, out / "spread")
    facts["moments"] = sum(
        own_part(found["exp_avg"]).numel() for found in _moments(out / "spread", processes.rank)
    )
    if job.get("resume"):
        try:
            run(learner_of(parts, processes, spread=True, **how), out / "stopped", stop=3)
        except KeyboardInterrupt:
            facts["stopped"] = True
        again = learner_of(parts, processes, spread=True, **how)
        run(again, out / "stopped", resume=True)
        try:
            run(again, out / "stopped", resume=True, key="another")
        except ConfigError as err:
            facts["refused"] = str(err)
    (out / f"facts-{processes.rank}.json").write_text(json.dumps(facts))


def _moments(out: Path, rank: int) -> list[dict[str, torch.Tensor]]:
    name = "state.pt" if rank == 0 else f"state-{rank}-{STEPS:06d}.pt"
    return list(torch.load(out / name, weights_only=True)["optimiser"]["state"].values())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave_processes()
