"""The loop that trains every part of the slide-language system.

A step: the samples of a batch, gradients, their mean over processes, one step of AdamW. What is
learnt, from which loss, is a `Learner`'s business; order, schedule, log, checkpoints and resume are
the loop's. A run that was stopped goes on from its last state, and on a CPU ends with the weights
that it would have had undisturbed, to the bit.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wsiprep.core.config import digest
from wsiprep.core.errors import ConfigError, OutputError
from wsiprep.core.malloc import return_large_blocks
from wsiprep.core.report import OnNote, OnStep, TrainStep
from wsiprep.store.disk import check_writable, output_errors, write_whole
from wsiprep.train.language.cases import Batch, Cases, batches, steps_of
from wsiprep.train.language.checkpoint import Checkpoints
from wsiprep.train.language.left_out import left_out_lines
from wsiprep.train.language.optimiser import Rate, make_optimiser
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import Optimisation
from wsiprep.train.language.sharding import any_spread, own_part, own_parts, whole_again
from wsiprep.train.language.step_log import StepLog

__all__ = ["Learner", "RunPlan", "Trained", "learning_rate", "train"]

LOG, SAMPLES, STATE = "log.csv", "samples.json", "state.pt"
COUNTS = {"tokens", "cut"}
"""What of a step's numbers is a count: the log has its sum over processes, of others the mean."""
SMOOTHING = 0.9
"""Share of the loss that was shown before, in the one shown."""


class Learner(Protocol):
    """What is learnt, and from what."""

    unit: str
    """What a sample is, for progress."""
    main_score: str
    """Name of the score by which the best checkpoint is known; higher is better."""

    @property
    def module(self) -> nn.Module:
        """All that may learn; its state is what is resumed."""
        ...

    def rates(self) -> list[Rate]:
        """Parameters that learn, each in one of them."""
        ...

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of a step, mean over processes, to `.grad`.

        Returns:
            `loss`, and what it is made of, for the log: of this process, detached. `tokens`, where
            it is there, is how many a language model read, or patches a slide encoder.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Scores on samples not trained on, by name; empty without such samples."""
        ...

    def saving(self) -> Callable[[Path], None]:
        """What fills the folder of a checkpoint.

        Every process asks for it, so that what is spread over them can be gathered; only the main
        one calls it.
        """
        ...


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Where a run goes and how it is watched.

    Attributes:
        output: Folder.
        seed: Of everything.
        validate_every: Steps between validations; a checkpoint is written with each.
        resume: Go on from the state in the folder.
        decides: Plain JSON of all that the weights depend on, for `resume`.
        tensorboard: Write events for TensorBoard besides the CSV.
        samples: What `cases.accounts` says, for `samples.json`.
    """

    output: Path
    seed: int
    validate_every: int
    resume: bool = False
    decides: Mapping[str, Any] = field(default_factory=dict)
    tensorboard: bool = False
    samples: Mapping[str, Any] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What a user is told of samples that are left out."""
        return [
            line if split == "learn" else f"{line} (of those to validate on)"
            for split, account in self.samples.items()
            for line in left_out_lines(account["left_out"])
        ]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left.

    Attributes:
        checkpoint: Folder of the best, or of the last where none was validated.
        steps: Steps taken.
        scores: Of the last validation.
    """

    checkpoint: Path
    steps: int
    scores: dict[str, float]


def train(
    learner: Learner,
    cases: Cases,
    optimisation: Optimisation,
    plan: RunPlan,
    processes: Processes,
    on_step: OnStep = lambda _: None,
    on_note: OnNote = lambda _: None,
) -> Trained:
    """Run it to its end; `on_step` is told on every process, so that it may stop all of them.

    `on_note` is told on the main process which samples are left out, before the first step.

    Raises:
        ConfigError: `resume` without a state or with other settings; processes differ in settings
            or in the stores that they see; the loss is not finite; nothing learns.
        OutputError: the output folder cannot be written, or the state not be read.
    """
    steps = optimisation.steps or steps_of(
        len(cases), min(optimisation.batch_size, len(cases)), optimisation.epochs
    )
    optimiser = make_optimiser(learner.rates(), optimisation)
    learned = [p for group in optimiser.param_groups for p in group["params"]]
    settings = digest({**plan.decides, "steps": steps})
    if not processes.agree(digest({"settings": settings, "samples": dict(plan.samples)})):
        raise ConfigError(
            "the processes of this training differ in their settings, or in the stores they see.",
            hint="Give all the same command, and --stores that every node sees alike.",
        )
    run = _Run(learner, optimiser, plan, processes, settings)
    first = run.begin()
    for note in plan.notes() if processes.main else ():
        on_note(note)
    told, began, read = first, time.perf_counter(), 0.0
    smooth: float | None = None
    scores: dict[str, float] = {}
    for batch in batches(
        cases, optimisation.batch_size, first + 1, steps,
        rank=processes.rank, world=processes.world,
    ):  # fmt: skip
        rate = learning_rate(optimisation, batch.step, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        learner.module.train()
        optimiser.zero_grad(set_to_none=True)
        losses = {k: float(processes.mean(v)) for k, v in learner.backward(batch).items()}
        if not math.isfinite(losses["loss"]):
            raise ConfigError(
                f"the loss is {losses['loss']} at step {batch.step}.",
                hint="Lower optimisation.learning_rate, or set precision to fp32.",
            )
        losses |= {name: losses[name] * processes.world for name in COUNTS & losses.keys()}
        norm = processes.clip_gradients(learned, optimisation.clip)
        optimiser.step()
        smooth = (
            losses["loss"] if smooth is None
            else SMOOTHING * smooth + (1 - SMOOTHING) * losses["loss"]
        )  # fmt: skip
        validate = batch.step % plan.validate_every == 0 or batch.step == steps
        if validate:
            learner.module.eval()
            with torch.no_grad():
                scores = learner.validate()
        seconds = max(time.perf_counter() - began, 1e-9)
        speed = (batch.step - told) * len(batch.samples) * processes.world / seconds
        read += losses.get("tokens", 0.0)
        run.note(batch, losses, rate, float(norm), scores if validate else {})
        if validate:
            run.keep(batch.step, scores)
        on_step(TrainStep(
            batch.step, steps, smooth, rate, speed, learner.unit, scores if validate else None,
            read / seconds if "tokens" in losses else None,
        ))  # fmt: skip
        if validate:
            told, began, read = batch.step, time.perf_counter(), 0.0
    return run.end(steps, scores)


def learning_rate(cfg: Optimisation, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine towards `final_rate`, so that the last step learns too."""
    warm = round(cfg.warmup * steps if cfg.warmup < 1 else cfg.warmup)
    warm = min(warm, steps - 1)
    if step <= warm:
        return cfg.learning_rate * step / max(1, warm)
    done = (step - 1 - warm) / max(1, steps - warm)
    low = min(cfg.final_rate, cfg.learning_rate)
    return low + (cfg.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * done))


class _Run:
    """Log, state and checkpoints; only the main process writes, but for its random numbers."""

    def __init__(
        self, learner: Learner, optimiser: torch.optim.Optimizer, plan: RunPlan,
        processes: Processes, key: str,
    ) -> None:  # fmt: skip
        self.learner, self.optimiser, self.plan = learner, optimiser, plan
        self.processes, self.key = processes, key
        self.checkpoints = Checkpoints(plan.output)
        self.log = StepLog(plan.output / LOG, writes=processes.main)
        self.best = -math.inf
        self._events = _events(plan) if processes.main else None

    def begin(self) -> int:
        """Steps that were taken before."""
        return_large_blocks()
        torch.manual_seed(self.plan.seed * 1_000_003 + self.processes.rank)
        if self.processes.main:
            check_writable(self.plan.output)
            with output_errors(self.plan.output):
                self.plan.output.mkdir(parents=True, exist_ok=True)
            if not self.plan.resume:  # what is replaced is not to be gone on with, nor to be best
                self.checkpoints.forget()
                for state in (self.plan.output / STATE, *self.plan.output.glob("state-*.pt")):
                    state.unlink(missing_ok=True)
        self.processes.wait()
        done = self._resume() if self.plan.resume else 0
        if self.processes.main:
            text = json.dumps(self.plan.samples, indent=2, ensure_ascii=False) + "\n"
            write_whole(self.plan.output / SAMPLES, text.encode("utf-8", "backslashreplace"))
        return done

    def note(
        self, batch: Batch, losses: dict[str, float], rate: float, norm: float,
        scores: dict[str, float],
    ) -> None:  # fmt: skip
        """Put a step into the log."""
        row = {"step": batch.step, "epoch": batch.epoch, **losses, "learning_rate": rate,
               "gradient_norm": norm, **{f"val/{k}": v for k, v in scores.items()}}  # fmt: skip
        self.log.add(row)
        if self._events is not None:
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    self._events.add_scalar(name, value, batch.step)

    def keep(self, step: int, scores: dict[str, float]) -> None:
        """Write checkpoint and state."""
        score = scores.get(self.learner.main_score, -math.inf)
        better = score > self.best
        self.best = max(self.best, score)
        write = self.learner.saving()
        if self.processes.main:
            self.checkpoints.add(step, write, best=better)
        self._save_state(step)

    def end(self, steps: int, scores: dict[str, float]) -> Trained:
        """What is left."""
        if self._events is not None:
            self._events.close()
        names = self.checkpoints.names()
        name = names.get("best") or names["last"]
        return Trained(self.plan.output / name, steps, scores)

    def _save_state(self, step: int) -> None:
        """Write what this process needs to go on.

        The state of the main process is written when the others have theirs, and names the step: a
        run that is killed in between goes on from the one before.
        """
        state: dict[str, Any] = {"step": step, "random": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        moving = dict(_moving(self.learner.module))
        moments = self.optimiser.state_dict()
        if self.processes.main:
            state |= {"key": self.key, "best": self.best, "rows": self.log.rows}
        else:  # what is not spread is in the state of the main process
            moving = {name: tensor for name, tensor in moving.items() if any_spread([tensor])}
            moments["state"] = {
                number: found for number, found in moments["state"].items()
                if any_spread(v for v in found.values() if isinstance(v, Tensor))
            }  # fmt: skip
        state["module"] = own_parts(moving)
        state["optimiser"] = {
            **moments, "state": {k: own_parts(v) for k, v in moments["state"].items()}
        }  # fmt: skip
        data = io.BytesIO()
        torch.save(state, data)
        if not self.processes.main:
            write_whole(self._beside(step), data.getvalue())
        self.processes.wait()
        if self.processes.main:
            write_whole(self.plan.output / STATE, data.getvalue())
        self.processes.wait()
        if not self.processes.main:
            for old in self.plan.output.glob(f"state-{self.processes.rank}-*.pt"):
                if old != self._beside(step):
                    old.unlink()

    def _beside(self, step: int) -> Path:
        """The state of this process, which is not the main one."""
        return self.plan.output / f"state-{self.processes.rank}-{step:06d}.pt"

    def _resume(self) -> int:
        main = _read_state(self.plan.output / STATE)
        if main["key"] != self.key:
            raise ConfigError(
                f"{self.plan.output / STATE} was made with other settings or samples, or another "
                "number of processes.",
                hint="Pass the same, or another --output.",
            )
        step = int(main["step"])
        own = main if self.processes.main else _read_state(self._beside(step))
        weights = {**main["module"], **own["module"]}
        with torch.no_grad():
            for name, tensor in _moving(self.learner.module):
                own_part(tensor).copy_(weights[name])
        learned = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments = {**main["optimiser"]["state"], **own["optimiser"]["state"]}
        state = {k: _as_of(learned[k], found) for k, found in moments.items()}
        self.optimiser.load_state_dict({**main["optimiser"], "state": state})
        torch.set_rng_state(own["random"])
        if "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.processes.device)
        self.log.restore(main["rows"])
        self.best = float(main["best"])
        return step


def _moving(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: parameters that learn, and buffers."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    yield from module.named_buffers()


def _as_of(parameter: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an optimiser knows of a parameter, spread as the parameter is."""
    if not any_spread([parameter]):
        return dict(found)
    shape = own_part(parameter).shape
    return {
        name: whole_again(value, parameter) if value.shape == shape else value
        for name, value in found.items()
    }


def _read_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no {path} to go on from.", hint="Drop --resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as err:
        raise OutputError(f"{path} cannot be read: {err}.") from err
    return state


def _events(plan: RunPlan) -> Any:
    if not plan.tensorboard:
        return None
    from wsiprep.core.errors import PluginUnavailableError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise PluginUnavailableError(
            "TensorBoard is not installed.", hint="pip install tensorboard, or drop --tensorboard."
        ) from err
    return SummaryWriter(str(plan.output / "events"))
