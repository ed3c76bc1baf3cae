"""What a training would take: computed, then one step of it is taken, measured, and thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from wsiprep.core.malloc import return_large_blocks
from wsiprep.train.language import align, instruct
from wsiprep.train.language.align import assemble_align
from wsiprep.train.language.assistant_config import AssistantTraining, Command
from wsiprep.train.language.cases import Batch, Cases, batches, steps_of
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.instruct import assemble_assistant
from wsiprep.train.language.loop import Learner, RunPlan
from wsiprep.train.language.memory import Footprint, Meter, footprint, mib, room
from wsiprep.train.language.optimiser import make_optimiser
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import Optimisation
from wsiprep.train.language.sharding import own_part

__all__ = ["Tell", "rehearse_align", "rehearse_assistant", "rehearsed"]

Tell = Callable[[str, str], None]
"""Is given each fact as soon as it is known: its name, and what it is in words."""


def rehearse_align(cfg: LanguageTraining, tell: Tell) -> None:
    """Tell the facts of `train align --dry-run`; nothing is written.

    What can be computed is told before the model is brought to the device, so that it is seen too
    where the model does not fit.

    Raises:
        DeviceError: memory ran out.
        WsiprepError: as the training itself.
    """
    with room(cfg.device, align.REMEDY):
        made = assemble_align(cfg)
        how, learner = made.recipe.optimisation, made.learner
        batch = _first_batch(made.cases, how.batch_size, made.processes)
        size = min(how.batch_size, len(made.cases))
        features, read = made.cases.fingerprint, sum(len(bag) for bag in batch.bags)
        held = footprint(learner.model)
        facts = {
            "recipe": f"{learner.name} (align)",
            "samples": f"{len(made.cases)} to learn from, "
            f"{len(learner.val) if learner.val else 0} to validate on",
            "features": f"{features.encoder}, {features.dim} wide, {features.mpp:.4g} µm/px",
            "steps": f"{how.steps or steps_of(len(made.cases), size, how.epochs):,} of {size} "
            "slides",
            "tokens of a step": f"{read:,}, the patches of its slides",
            **_left_out(made.plan),
            **held.facts(),
        }
        for name, value in facts.items():
            tell(name, value)
        made.place()
        rehearsed(learner, batch, how, made.processes, held, tell)


def rehearse_assistant(cfg: AssistantTraining, command: Command, tell: Tell) -> None:
    """Tell the facts of `--dry-run`; nothing is written.

    What can be computed is told before the model is brought to the device, so that it is seen too
    where the model does not fit; with `--shard` after, as only then each process has its part.

    Raises:
        DeviceError: memory ran out.
        WsiprepError: as the training itself.
    """
    with room(cfg.device, instruct.REMEDY):
        made = assemble_assistant(cfg, command)
        learner, how = made.learner, made.recipe.optimisation
        batch = _first_batch(made.cases, how.batch_size, made.processes)
        size = min(how.batch_size, len(made.cases))
        language = learner.model.language.fingerprint()
        features = made.cases.fingerprint
        facts = {
            "recipe": f"{learner.name} ({command})",
            "language model": str(language.get("model", language["kind"])),
            "what learns": ", ".join(
                f"{part} {sum(p.numel() for p in weights):,}"
                for part, weights in learner.model.learning().items()
            ),
            "samples": f"{len(made.cases):,} to learn from, "
            f"{len(learner.val) if learner.val else 0:,} to validate on",
            "features": f"{features.encoder}, {features.dim} wide, {features.mpp:.4g} µm/px",
            "steps": f"{how.steps or steps_of(len(made.cases), size, how.epochs):,} of {size} "
            "slides",
            "patches of a step": f"{sum(len(bag) for bag in batch.bags):,}",
            **_left_out(made.plan),
        }
        if made.shard:
            made.place()
        held = footprint(learner.model)
        for name, value in {**facts, **held.facts()}.items():
            tell(name, value)
        if not made.shard:
            made.place()
        tell("tokens of a step", learner.tokens_of(batch))
        rehearsed(learner, batch, how, made.processes, held, tell)


def rehearsed(
    learner: Learner,
    batch: Batch,
    how: Optimisation,
    processes: Processes,
    held: Footprint,
    tell: Tell,
) -> None:
    """Take a step, and tell its time and what memory it takes beside what is held.

    In training, moments are there while gradients are made, and activations are gone when AdamW
    moves the weights. So what comes on top of weights, gradients and moments is the greater of what
    the two need for themselves.

    Args:
        learner: On its device; its weights are changed.
        batch: Of the step.
        how: The optimiser's settings.
        processes: All of them.
        held: Of the learner's model.
        tell: Is given the facts.
    """
    return_large_blocks()
    learner.module.train()
    optimiser = make_optimiser(learner.rates(), how)
    learned = [p for group in optimiser.param_groups for p in group["params"]]
    began = time.perf_counter()
    backward = Meter(processes.device)
    losses = learner.backward(batch)
    made = sum(_bytes(p.grad) for p in learned if p.grad is not None)
    beside = backward.peak() - made
    moving = Meter(processes.device)
    processes.clip_gradients(learned, how.clip)
    optimiser.step()
    loss = float(losses["loss"])
    seconds = time.perf_counter() - began
    moments = sum(
        _bytes(value) for found in optimiser.state.values()
        for name, value in found.items() if name != "step"
    )  # fmt: skip
    beside = max(beside, moving.peak() - moments, 0)
    total = sum(mib(count) for count in (held.weights, held.gradients, held.moments, beside))
    least = "" if backward.whole else "at least "
    tell("loss before training", f"{loss:.4f}")
    tell("time of a step", f"{seconds:.2f} s")
    tell("activations", f"{least}{mib(beside):,.1f} MiB, measured: all else that a step holds")
    tell("total", f"{least}{total:,.1f} MiB ({processes.device.type}), beside the program itself")


def _bytes(tensor: Tensor) -> int:
    return own_part(tensor).nbytes if isinstance(tensor, torch.Tensor) else 0


def _first_batch(cases: Cases, size: int, processes: Processes) -> Batch:
    """What this process is shown at the first step."""
    return next(iter(batches(cases, size, 1, 1, rank=processes.rank, world=processes.world)))


def _left_out(plan: RunPlan) -> dict[str, str]:
    """Samples that are left out, if there are any."""
    lines = plan.notes()
    return (
        {"left out": "; ".join(line.removeprefix("left out: ") for line in lines)} if lines else {}
    )
