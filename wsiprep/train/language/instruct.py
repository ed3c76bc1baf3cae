"""`wsiprep train caption` and `train instruct`: a language model learns to speak of slides.

`caption` learns captions, and mostly the projector alone; `instruct` learns conversations. They
are one training on different samples with different parts learning, as the recipe says. The loss is
the mean over all labelled tokens of a step, whatever the micro-batch and the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from wsiprep.core.errors import ManifestError
from wsiprep.core.report import OnNote, OnStep
from wsiprep.encoders.load import resolve_device
from wsiprep.metrics.vqa import choose_by_likelihood
from wsiprep.models.assistant import Assistant, AssistantOut
from wsiprep.models.assistant_parts import AssistantParts, make_assistant, with_llm
from wsiprep.models.bags import Bag, pack
from wsiprep.models.language.choices import option_texts
from wsiprep.models.language.templates import Turn
from wsiprep.models.sampling import generator_for
from wsiprep.models.text.tokenizer import Tokenizer, train_bpe
from wsiprep.train.folder import check_folder
from wsiprep.train.language.assistant_checkpoint import Start, read_start, save_assistant
from wsiprep.train.language.assistant_config import AssistantTraining, Command
from wsiprep.train.language.cases import Batch, Cases, accounts, training_cases
from wsiprep.train.language.conversations import conversations_of, question_of, texts_of
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.launcher import check_launcher
from wsiprep.train.language.libraries import check_assistant_libraries
from wsiprep.train.language.loop import STATE, RunPlan, Trained, train
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.master import hold_in_float32
from wsiprep.train.language.memory import room
from wsiprep.train.language.optimiser import Rate
from wsiprep.train.language.processes import Processes, join_processes
from wsiprep.train.language.recipe import load_recipe, section
from wsiprep.train.language.sharding import (
    any_spread,
    check_several,
    gathered,
    own_part,
    shard,
)
from wsiprep.train.language.splits import check_apart

__all__ = [
    "InstructLearner",
    "assemble_assistant",
    "prepare_assistant",
    "train_assistant",
]

VALIDATE_AT_ONCE: Final = 8
DRAWN: Final = "samples of validation"

REMEDY = ", train fewer weights (tuning: lora), or spread the language model with --shard"
"""Where memory runs out."""


class InstructLearner:
    """See `loop.Learner`.

    Weights of 16 bits that learn become float32 (`master`).

    Args:
        model: What learns.
        parts: What it is made of.
        recipe: How.
        cases: Samples to learn from.
        val: Samples to validate on.
        processes: All of them.
        command: Which of the two.
        name: Of the recipe.
    """

    unit = "slides"
    main_score = "token_probability"

    def __init__(
        self,
        model: Assistant,
        parts: AssistantParts,
        recipe: AssistantRecipe,
        cases: Cases,
        val: Cases | None,
        processes: Processes,
        *,
        command: Command,
        name: str,
    ) -> None:
        self.model, self.parts, self.recipe = model, parts, recipe
        self.cases, self.val, self.processes = cases, val, processes
        self.command, self.name = command, name
        how = recipe.optimisation
        if not how.slide_rate:
            model.cfg = model.cfg.model_copy(update={"slides_learn": False})
            model.slides.requires_grad_(False)
        if not how.text_rate:
            for weight in model.language.parameters():
                weight.requires_grad_(False)
        hold_in_float32(model.language)

    @property
    def module(self) -> nn.Module:
        """The assistant."""
        return self.model

    def rates(self) -> list[Rate]:
        """Slide encoder and language model with rates of their own, and the projector."""
        how = self.recipe.optimisation
        factors = {"slides": how.slide_rate, "language": how.text_rate, "projector": 1.0}
        parts: dict[str, dict[str, nn.Parameter]] = {name: {} for name in factors}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parts[name.split(".", 1)[0]][name] = parameter
        return [Rate(parts[name], factor) for name, factor in factors.items()]

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of a step; its loss, the tokens read for it, and those cut off answers."""
        device = self.processes.device
        micro = self.recipe.optimisation.micro_batch or len(batch.bags)
        total, tokens, read, cut = (torch.zeros((), device=device) for _ in range(4))
        for first in range(0, self._rounds(len(batch.bags), micro) * micro, micro):
            idle = first >= len(batch.bags)
            rows = slice(0, micro) if idle else slice(first, first + micro)
            out = self._out(batch.samples[rows], batch.bags[rows])
            torch.autograd.backward(out.loss * (0 if idle else out.tokens))
            if idle:
                continue
            total += out.loss.detach() * out.tokens
            tokens += out.tokens
            read += out.read
            cut += out.cut
        # Gradients so far are of sums. The mean of processes, which comes next, must be that over
        # the tokens of all of them.
        share = 1 / self.processes.mean(tokens).clamp(min=1)
        learned = [p for rate in self.rates() for p in rate.parameters.values()]
        for parameter in learned:
            if parameter.grad is not None:
                own_part(parameter.grad).mul_(share.to(parameter.grad.dtype))
        self.processes.average_gradients(learned)
        return {"loss": total * share, "tokens": read, "cut": cut}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """How likely the held-out tokens are, and which options are right by likelihood.

        `token_probability` is the geometric mean of the tokens' probabilities.
        """
        if self.val is None:
            return {}
        nats, tokens = 0.0, 0
        right: list[bool] = []
        for first in range(0, len(self.val), VALIDATE_AT_ONCE):
            rows = range(first, min(first + VALIDATE_AT_ONCE, len(self.val)))
            samples = [self.val.samples[row] for row in rows]
            bags = [self.val.bag(row, 0) for row in rows]
            out = self._out(samples, bags)
            nats += float(out.loss) * int(out.tokens)
            tokens += int(out.tokens)
            right += self._right(samples, bags) if self.command == "instruct" else []
        scores = {"token_probability": math.exp(-nats / max(tokens, 1))}
        return {**scores, "accuracy": sum(right) / len(right)} if right else scores

    def saving(self) -> Callable[[Path], None]:
        """What writes the assistant, and what it was trained on and with."""
        recipe = self.recipe.model_copy(update={"model": self.parts})
        return partial(
            save_assistant, model=self.model, parts=self.parts,
            features=self.cases.fingerprint, sampling=self.recipe.sampling,
            recipe={"name": self.name, "command": self.command, **recipe.canonical()},
            state=gathered(self.model.trainable_state(), self.processes),
        )  # fmt: skip

    def conversations(self, sample: Sample) -> list[list[Turn]]:
        """What is learned from a sample."""
        return conversations_of(sample, self.command, self.model.cfg, captions=self.recipe.captions)

    @torch.no_grad()
    def tokens_of(self, batch: Batch) -> str:
        """What the language model reads at a step, in words; by micro-batches, as it is trained."""
        micro = self.recipe.optimisation.micro_batch or len(batch.bags)
        read = tokens = cut = 0
        for first in range(0, self._rounds(len(batch.bags), micro) * micro, micro):
            idle = first >= len(batch.bags)
            rows = slice(0, micro) if idle else slice(first, first + micro)
            out = self._out(batch.samples[rows], batch.bags[rows])
            if not idle:
                read, tokens, cut = read + out.read, tokens + int(out.tokens), cut + out.cut
        said = f"{read:,}, of which {tokens:,} are learned"
        return said + (f"; {cut:,} were cut off" if cut else "")

    def _rounds(self, count: int, micro: int) -> int:
        """Micro-batches of a step: as many as the process with most of them has.

        A language model that is spread is put together by all processes at once, so that one with
        fewer samples must go along, though it has nothing to add.
        """
        rounds = math.ceil(count / micro)
        return self.processes.most(rounds) if any_spread(self.model.parameters()) else rounds

    def _out(self, samples: Sequence[Sample], bags: Sequence[Bag]) -> AssistantOut:
        talks: list[list[Turn]] = []
        of: list[int] = []
        for number, one in enumerate(samples):
            found = self.conversations(one)
            talks += found
            of += [number] * len(found)
        packed = pack(bags).to(self.processes.device, torch.float32)
        names = [samples[number].id for number in of]
        with self.processes.autocast():
            out: AssistantOut = self.model(packed, talks, of=of, names=names)
        return out

    def _right(self, samples: Sequence[Sample], bags: Sequence[Bag]) -> list[bool]:
        cfg, found = self.model.cfg, []
        for one, bag in zip(samples, bags, strict=True):
            if not (one.choices and one.answer):
                continue
            packed = pack([bag]).to(self.processes.device, torch.float32)
            with self.processes.autocast():
                shown = self.model.look(packed)[0]
                scores = self.model.score(
                    shown, question_of(one, cfg), option_texts(one.choices, cfg.choices),
                    name=one.id,
                )  # fmt: skip
            best = choose_by_likelihood(scores.total.tolist(), scores.tokens.tolist()).normalised
            found.append(one.choices[best] == one.answer)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A training that could begin."""

    learner: InstructLearner
    cases: Cases
    recipe: AssistantRecipe
    plan: RunPlan
    processes: Processes
    shard: bool

    def place(self) -> None:
        """Bring the model to the device, with the weights of the first process."""
        model = self.learner.model
        if self.shard:
            shard(model.get_submodule("language"), self.processes)
        model.to(self.processes.device)
        self.processes.share([model])


def prepare_assistant(cfg: AssistantTraining, command: Command) -> Prepared:
    """Everything but the training.

    Raises:
        WsiprepError: see `assemble_assistant`.
    """
    made = assemble_assistant(cfg, command)
    made.place()
    return made


def assemble_assistant(cfg: AssistantTraining, command: Command) -> Prepared:
    """Samples are read, stores checked, the model is made, on the CPU.

    Raises:
        PluginUnavailableError: a library of the language model is missing; no store was opened yet.
        WsiprepError: a sample, store, recipe, language model or folder that cannot be used.
    """
    named = load_recipe(cfg.recipe)
    recipe = section(named, command, AssistantRecipe, cfg.set)
    parts = with_llm(recipe.model, cfg.llm)
    device = resolve_device(cfg.device)
    check_launcher(cfg.precision, device.type, sharded=cfg.shard)
    learn, val = _samples(cfg, command, recipe)
    check_assistant_libraries(parts)
    start = read_start(cfg.start) if cfg.start is not None else None
    parts = start.parts(parts) if start is not None else parts
    processes = join_processes(device, cfg.precision)
    if cfg.shard:
        check_several(processes)
    expect = start.features if start is not None else None
    cases, held = training_cases(cfg, recipe.sampling, learn, val, expect)
    tokenizer = _tokenizer(parts, start, cases.samples, command, recipe)
    torch.manual_seed(cfg.seed)
    model = make_assistant(parts, cases.fingerprint.dim, tokenizer, seed=cfg.seed)
    learner = InstructLearner(
        model, parts, recipe, cases, held, processes, command=command, name=named.name
    )
    if start is not None:  # now, so that what learns goes on from float32 weights unrounded
        start.fill(model)
    decides = {
        "command": command, "recipe": recipe.canonical(), "parts": parts.canonical(),
        "language": model.language.fingerprint(), "seed": cfg.seed,
        "data": cases.identity(),
        "start": start.identity if start is not None else None,
        "precision": cfg.precision, "features": cases.fingerprint.canonical(),
        "world": processes.world, "shard": cfg.shard,
    }  # fmt: skip
    plan = RunPlan(cfg.output, cfg.seed, cfg.validate_every, cfg.resume, decides, cfg.tensorboard,
                   samples=accounts(cases, held))  # fmt: skip
    return Prepared(learner, cases, recipe, plan, processes, cfg.shard)


def train_assistant(
    cfg: AssistantTraining,
    command: Command,
    on_step: OnStep = lambda _: None,
    on_note: OnNote = lambda _: None,
) -> Trained:
    """Train an assistant; `on_note` is told before which samples are left out.

    Raises:
        ConfigError: the folder holds a training, and it is neither to go on nor to be replaced.
        DeviceError: memory ran out.
        WsiprepError: see `prepare_assistant` and `loop.train`.
    """
    check_folder(cfg.output / STATE, resume=cfg.resume, overwrite=cfg.overwrite)
    with room(cfg.device, REMEDY):
        made = prepare_assistant(cfg, command)
        return train(made.learner, made.cases, made.recipe.optimisation, made.plan, made.processes,
                     on_step, on_note)  # fmt: skip


def _samples(
    cfg: AssistantTraining, command: Command, recipe: AssistantRecipe
) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from and to validate on: those that say something of the kind."""

    def says(sample: Sample) -> bool:
        how = recipe.model.assistant
        return bool(conversations_of(sample, command, how, captions=recipe.captions))

    samples = read_manifest(cfg.data)
    learn = [one for one in samples if one.split in ("", "train") and says(one)]
    if not learn:
        what = "a caption" if command == "caption" else "a conversation, an answer or a caption"
        raise ManifestError(
            f"{cfg.data} has no sample to learn from: none of split train has {what}.",
            hint="`wsiprep convert --split patient` divides samples.",
        )
    given = [] if cfg.val is None else read_manifest(cfg.val)
    check_apart(samples, given)
    if cfg.val is not None:
        val = [one for one in given if one.split in ("", "val") and says(one)]
    else:
        val = [one for one in samples if one.split == "val" and says(one)]
    if len(val) > recipe.validate_most:
        drawn = torch.randperm(len(val), generator=generator_for(cfg.seed, 0, DRAWN))
        val = [val[row] for row in sorted(drawn[: recipe.validate_most].tolist())]
    return learn, val


def _tokenizer(
    parts: AssistantParts,
    start: Start | None,
    learn: Sequence[Sample],
    command: Command,
    recipe: AssistantRecipe,
) -> Tokenizer | None:
    """Of the tiny language model: the one it has, or one made of what is learned."""
    if parts.language.kind != "tiny":
        return None
    if start is not None and start.tokenizer is not None:
        return start.tokenizer
    cfg = parts.assistant
    talks = [
        talk for one in learn for talk in conversations_of(one, command, cfg, captions=True)
    ]  # fmt: skip
    return train_bpe(texts_of(talks, cfg), vocab_size=parts.language.vocabulary)
