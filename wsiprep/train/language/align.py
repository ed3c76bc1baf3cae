"""`wsiprep train align`: slides and texts into one space.

The gradient is that of the whole batch whatever the micro-batch (`models.gradient_cache`), and
whatever the number of processes: they exchange vectors for the losses, and gradients once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from wsiprep.core.errors import ManifestError
from wsiprep.core.report import OnNote, OnStep
from wsiprep.encoders.load import resolve_device
from wsiprep.metrics.retrieval import retrieve
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.bags import Bag, PackedBags, pack
from wsiprep.models.gradient_cache import Encoding, cached_backward
from wsiprep.models.objectives.combination import combine
from wsiprep.models.text.bert import read_bert
from wsiprep.models.text.tokenizer import Tokenizer, train_bpe, train_words
from wsiprep.models.towers import parameters_of
from wsiprep.train.folder import check_folder
from wsiprep.train.language.align_losses import AlignLosses, Asked, Micro
from wsiprep.train.language.cases import Batch, Cases, accounts, training_cases
from wsiprep.train.language.checkpoint import save_aligned
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.launcher import check_launcher
from wsiprep.train.language.libraries import check_align_libraries
from wsiprep.train.language.loop import STATE, RunPlan, Trained, train
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.memory import room
from wsiprep.train.language.optimiser import Rate
from wsiprep.train.language.processes import Processes, join_processes
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, section
from wsiprep.train.language.splits import check_apart

__all__ = ["AlignLearner", "assemble_align", "caption_of", "prepare_align", "train_align"]

VALIDATE_AT_ONCE: Final = 16

REMEDY = ", or train fewer weights (options of model.texts: tuning lora)"
"""Where memory runs out."""


def caption_of(sample: Sample) -> str:
    """What is said of the slides as a whole: the caption, or all single findings."""
    return sample.caption or " ".join(f"{text.rstrip('.')}." for text in sample.sub_captions)


class AlignLearner:
    """See `loop.Learner`.

    Args:
        model: What learns.
        recipe: How.
        cases: Samples to learn from, for what checkpoints say of them.
        val: Samples to validate on.
        processes: All of them.
        seed: Of sub-captions and negatives.
        name: Of the recipe.
    """

    unit = "slides"
    main_score = "mrr"

    def __init__(
        self, model: Aligned, recipe: AlignRecipe, cases: Cases, val: Cases | None,
        processes: Processes, *, seed: int, name: str,
    ) -> None:  # fmt: skip
        self.model, self.recipe, self.cases, self.val = model, recipe, cases, val
        self.processes, self.seed, self.name = processes, seed, name
        self.wanted, self.losses = recipe.model.objectives, AlignLosses(model, processes, seed)
        for rate, part in (
            (recipe.optimisation.slide_rate, model.slides.encoder),
            (recipe.optimisation.text_rate, model.texts.encoder),
        ):
            if not rate:
                part.requires_grad_(requires_grad=False)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    def rates(self) -> list[Rate]:
        """Encoders with rates of their own, and the rest."""
        parts: dict[str, dict[str, nn.Parameter]] = {"slide": {}, "text": {}, "rest": {}}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                kind = {"slides.encoder": "slide", "texts.encoder": "text"}.get(
                    ".".join(name.split(".")[:2]), "rest"
                )
                parts[kind][name] = parameter
        how = self.recipe.optimisation
        return [
            Rate(parts["slide"], how.slide_rate),
            Rate(parts["text"], how.text_rate),
            Rate(parts["rest"]),
        ]

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of a step; losses by name, and as tokens the patches that were read."""
        captions = [caption_of(sample) for sample in batch.samples]
        asked, losses = Asked.of(self.losses, batch), self.losses
        micro = self.recipe.optimisation.micro_batch or len(batch.bags)
        parts = [
            Micro(i, self._packed(batch.bags[i : i + micro]), captions[i : i + micro])
            for i in range(0, len(captions), micro)
        ]
        found: dict[str, Tensor] = {}

        def loss(slides: tuple[Tensor, ...], text: Tensor, subs: Tensor) -> Tensor:
            some = losses.of_vectors(slides, text, subs, captions, asked, batch.step)
            sums = combine(some, {name: self._weight(name) for name in some})
            found.update(sums.parts, loss=sums.total.detach())
            return sums.total

        # All processes go the same way, for they exchange different things on the two.
        if self.processes.most(len(parts)) == 1:
            torch.autograd.backward(
                loss(
                    losses.slide_vectors(parts[0]),
                    losses.text_vectors(captions),
                    losses.text_vectors(asked.texts),
                )
            )
            averaged: list[nn.Module] = [self.model]
        else:
            texts = [part.captions for part in parts]
            spoken = _chunks(asked.texts, micro * self.wanted.sub_captions)
            of_micro = self._heads("caption")
            cached_backward(
                [
                    Encoding(losses.slide_vectors, parts, (self.model.slides, *of_micro)),
                    Encoding(losses.text_vectors, texts, (self.model.texts,)),
                    Encoding(losses.text_vectors, spoken, (self.model.texts,)),
                ],
                loss,
                loss_parameters=parameters_of(*self._heads("slide", "region")),
            )
            averaged = [self.model.slides, self.model.texts, *of_micro, *self._heads("matching")]
        if self.wanted.matching_weight:
            found["matching"] = losses.matching_backward(parts, batch.step)
            found["loss"] = found["loss"] + self.wanted.matching_weight * found["matching"]
        self.processes.average_gradients(parameters_of(*averaged))
        read = float(sum(len(bag) for bag in batch.bags))
        return {**found, "tokens": torch.tensor(read, device=self.processes.device)}

    def validate(self) -> dict[str, float]:
        """Retrieval among validation samples, both ways; captions that say the same are one."""
        if self.val is None:
            return {}
        slides, texts = [], []
        cases, captions = self.val, [caption_of(sample) for sample in self.val.samples]
        for start in range(0, len(cases), VALIDATE_AT_ONCE):
            rows = range(start, min(start + VALIDATE_AT_ONCE, len(cases)))
            slides.append(self.model.embed_slides(self._packed([cases.bag(i, 0) for i in rows])))
            texts.append(self.model.embed_texts([captions[i] for i in rows]))
        similarity = (torch.cat(slides) @ torch.cat(texts).T).cpu().numpy()
        found = retrieve(similarity.astype(np.float64), captions)
        ways = (found.to_text, found.to_slide)
        return {
            "r_at_1": sum(way.recall_at(1) for way in ways) / 2,
            "r_at_5": sum(way.recall_at(5) for way in ways) / 2,
            "mrr": sum(way.mean_reciprocal_rank for way in ways) / 2,
        }

    def saving(self) -> Callable[[Path], None]:
        """What writes the model, and what it was trained on and with."""
        return partial(
            save_aligned, model=self.model,
            features=self.cases.fingerprint, sampling=self.recipe.sampling,
            recipe={"name": self.name, **self.recipe.canonical()},
        )  # fmt: skip

    def _weight(self, name: str) -> float:
        weight: float = getattr(self.wanted, f"{name}_weight")
        return weight

    def _packed(self, bags: Sequence[Bag]) -> PackedBags:
        return pack(bags).to(self.processes.device, torch.float32)

    def _heads(self, *names: str) -> list[nn.Module]:
        """Heads of these names, of those that are there."""
        return [head for name, head in self.model.heads.items() if name in names]


def _chunks(texts: list[str], size: int) -> list[list[str]]:
    return [texts[i : i + size] for i in range(0, len(texts), size)] or [[]]


def make_tokenizer(cfg: AlignedConfig, samples: Sequence[Sample]) -> Tokenizer | None:
    """A tokenizer made of the captions, where the model needs one."""
    if not Aligned.needs_tokenizer(cfg):
        return None
    texts = [text for one in samples for text in (caption_of(one), *one.sub_captions)]
    if cfg.texts.tokens == "words":
        return train_words(texts, max_words=cfg.texts.vocabulary)
    return train_bpe(texts, vocab_size=cfg.texts.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A training that could begin."""

    learner: AlignLearner
    cases: Cases
    recipe: AlignRecipe
    plan: RunPlan
    processes: Processes

    def place(self) -> None:
        """Bring the model to the device, with the weights of the first process."""
        self.learner.model.to(self.processes.device)
        self.processes.share([self.learner.model])


def prepare_align(cfg: LanguageTraining) -> Prepared:
    """Everything but the training.

    Raises:
        WsiprepError: see `assemble_align`.
    """
    made = assemble_align(cfg)
    made.place()
    return made


def assemble_align(cfg: LanguageTraining) -> Prepared:
    """Samples are read, stores checked, the model is made, on the CPU.

    Raises:
        PluginUnavailableError: a library that the recipe needs is missing; no store was opened yet.
        ManifestError, ConfigError, MissingStageError, StoreMismatchError, OutputError: see the
            parts.
    """
    named = load_recipe(cfg.recipe)
    recipe = section(named, "align", AlignRecipe, cfg.set)
    samples = read_manifest(cfg.data)
    given = samples if cfg.val is None else read_manifest(cfg.val)
    learn = [one for one in samples if one.split in ("", "train") and caption_of(one)]
    val = [one for one in given if one.split in ("", "val") and caption_of(one)]
    val = val if cfg.val is not None else [one for one in val if one.split == "val"]
    if not learn:
        raise ManifestError(
            f"{cfg.data} has no sample to learn from: none of split train has a caption.",
            hint="`wsiprep convert --split patient` divides samples.",
        )
    check_apart(samples, () if cfg.val is None else given)
    check_align_libraries(recipe.model)
    device = resolve_device(cfg.device)
    check_launcher(cfg.precision, device.type, sharded=None)
    processes = join_processes(device, cfg.precision)
    cases, held = training_cases(cfg, recipe.sampling, learn, val)
    torch.manual_seed(cfg.seed)
    bert = read_bert(recipe.model.texts.bert) if recipe.model.texts.bert else None
    tokenizer = bert.tokenizer if bert is not None else make_tokenizer(recipe.model, cases.samples)
    model = Aligned(recipe.model, cases.fingerprint.dim, tokenizer, cfg.seed)
    if bert is not None:
        model.start_from_bert(bert.state)
    learner = AlignLearner(model, recipe, cases, held, processes, seed=cfg.seed, name=named.name)
    decides = {
        "recipe": recipe.canonical(), "seed": cfg.seed, "data": cases.identity(),
        "precision": cfg.precision, "features": cases.fingerprint.canonical(),
        "world": processes.world,
    }  # fmt: skip
    plan = RunPlan(cfg.output, cfg.seed, cfg.validate_every, cfg.resume, decides, cfg.tensorboard,
                   samples=accounts(cases, held))  # fmt: skip
    return Prepared(learner, cases, recipe, plan, processes)


def train_align(
    cfg: LanguageTraining, on_step: OnStep = lambda _: None, on_note: OnNote = lambda _: None
) -> Trained:
    """Train an aligned model; `on_note` is told before which samples are left out.

    Raises:
        ConfigError: the folder holds a training, and it is neither to go on nor to be replaced.
        DeviceError: memory ran out.
        WsiprepError: see `prepare_align` and `loop.train`.
    """
    check_folder(cfg.output / STATE, resume=cfg.resume, overwrite=cfg.overwrite)
    with room(cfg.device, REMEDY):
        made = prepare_align(cfg)
        return train(made.learner, made.cases, made.recipe.optimisation, made.plan, made.processes,
                     on_step, on_note)  # fmt: skip
