"""What a training would take: one step of it is taken, measured, and thrown away."""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import nn

from wsiprep.core.malloc import return_large_blocks
from wsiprep.train.language.align import prepare_align
from wsiprep.train.language.cases import Batch, batches, steps_of
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.loop import Learner, RunPlan
from wsiprep.train.language.sharding import any_spread, own_part

__all__ = ["left_out_facts", "peak_mib", "rehearse_align", "rehearsed", "sizes"]


def rehearse_align(cfg: LanguageTraining) -> dict[str, str]:
    """Facts of `train align --dry-run`, in words, by name; nothing is written.

    Raises:
        WsiprepError: as the training itself.
    """
    made = prepare_align(cfg)
    how = made.recipe.optimisation
    batch = next(iter(batches(made.cases, how.batch_size, 1, 1)))
    size = min(how.batch_size, len(made.cases))
    facts = {
        "recipe": f"{made.learner.name} (align)",
        "samples": f"{len(made.cases)} to learn from, "
        f"{len(made.learner.val) if made.learner.val else 0} to validate on",
        "features": f"{made.cases.fingerprint.encoder}, {made.cases.fingerprint.dim} wide, "
        f"{made.cases.fingerprint.mpp:.4g} µm/px",
        "steps": f"{how.steps or steps_of(len(made.cases), size, how.epochs):,} of {size} slides",
        "tokens of a step": f"{sum(len(bag) for bag in batch.bags):,}, the patches of its slides",
    }
    return {
        **facts, **left_out_facts(made.plan), **sizes(made.learner.model),
        **rehearsed(made.learner, batch),
    }  # fmt: skip


def left_out_facts(plan: RunPlan) -> dict[str, str]:
    """Samples that are left out, if there are any."""
    lines = plan.notes()
    return (
        {"left out": "; ".join(line.removeprefix("left out: ") for line in lines)} if lines else {}
    )


def sizes(model: nn.Module) -> dict[str, str]:
    """Parameters, and the memory of weights, gradients and AdamW's two moments.

    Parameters are those of all processes, and memory that of this one.
    """
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    held = [(own_part(p), p.requires_grad) for p in model.parameters()]
    weights = sum(p.numel() * p.element_size() for p, _ in held)
    state = sum(3 * p.numel() * p.element_size() for p, learns in held if learns)
    share = " on each process" if any_spread(model.parameters()) else ""
    return {
        "parameters": f"{every:,}, of which {learned:,} learn",
        "weights": f"{weights / 2**20:,.0f} MiB{share}",
        "gradients and optimiser": f"{state / 2**20:,.0f} MiB{share}",
    }


def rehearsed(learner: Learner, batch: Batch) -> dict[str, str]:
    """Time and peak memory of one step's gradient, measured here and now."""
    return_large_blocks()
    device = next(learner.module.parameters()).device
    learner.module.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    losses = learner.backward(batch)
    loss = float(losses["loss"])
    seconds = time.perf_counter() - began
    return {
        "loss before training": f"{loss:.4f}",
        "time of a step": f"{seconds:.2f} s",
        "peak memory of a step": f"{peak_mib(device):,.0f} MiB ({device.type}, weights included)",
    }


def peak_mib(device: torch.device) -> float:
    """Most memory used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
