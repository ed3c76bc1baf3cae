"""`wsiprep train align`: slides and texts into one space.

The gradient is that of the whole batch whatever the micro-batch (`models.gradient_cache`), and
whatever the number of processes: they exchange vectors for the losses, and gradients once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.core.report import OnStep
from wsiprep.encoders.load import resolve_device
from wsiprep.metrics.retrieval import retrieve
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.bags import Bag, PackedBags, pack
from wsiprep.models.encoders.qformer import QFormerEncoder
from wsiprep.models.gradient_cache import Encoding, cached_backward
from wsiprep.models.objectives.alike import alike as same_text
from wsiprep.models.objectives.alike import false_negatives, text_keys
from wsiprep.models.objectives.combination import combine
from wsiprep.models.objectives.matching import matching_loss
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.scale import cosines
from wsiprep.models.objectives.top_k import SoftTopK
from wsiprep.models.sampling import generator_for
from wsiprep.models.text.bert import read_bert
from wsiprep.models.text.captions import sub_captions
from wsiprep.models.text.tokenizer import Tokenizer, train_bpe, train_words
from wsiprep.models.towers import parameters_of
from wsiprep.train.language.cases import Batch, Cases
from wsiprep.train.language.checkpoint import save_aligned
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.loop import Rate, RunPlan, Trained, train
from wsiprep.train.language.manifest import Sample, data_sha256, read_manifest
from wsiprep.train.language.processes import Processes, join_processes
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, section
from wsiprep.train.language.splits import check_apart

__all__ = ["AlignLearner", "caption_of", "prepare_align", "train_align"]

VALIDATE_AT_ONCE: Final = 16
MATCH: Final = "negatives of matching"
NEGATIVES: Final = "negatives of regions"


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
        self.wanted = recipe.model.objectives
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
        """Gradients of a step; losses by name."""
        captions = [caption_of(sample) for sample in batch.samples]
        asked = _Asked.of(self, batch)
        micro = self.recipe.optimisation.micro_batch or len(batch.bags)
        groups = [range(i, min(i + micro, len(captions))) for i in range(0, len(captions), micro)]
        packed = [self._packed([batch.bags[i] for i in group]) for group in groups]
        parts: dict[str, Tensor] = {}

        def loss(slides: tuple[Tensor, ...], text: Tensor, subs: Tensor) -> Tensor:
            found = self._losses(_Vectors(self, slides), text, subs, captions, asked, batch.step)
            total = combine(found, {name: self._weight(name) for name in found})
            parts.update(total.parts, loss=total.total.detach())
            return total.total

        texts = [[captions[i] for i in group] for group in groups]
        spoken = _chunks(asked.texts, max(micro, 1) * self.wanted.sub_captions)
        if len(groups) == 1:
            vectors = self._slide_vectors(packed[0])
            torch.autograd.backward(
                loss(vectors, self._text_vectors(texts[0]), self._text_vectors(asked.texts))
            )
        else:
            cached_backward(
                [
                    Encoding(self._slide_vectors, packed, (self.model.slides,)),
                    Encoding(self._text_vectors, texts, (self.model.texts,)),
                    Encoding(self._text_vectors, spoken, (self.model.texts,)),
                ],
                loss,
                loss_parameters=self._loss_parameters(),
            )
        averaged = [self.model.slides, self.model.texts]
        if self.wanted.matching_weight:
            parts |= self._matching(packed, groups, captions, batch.step, parts["loss"])
            averaged.append(self.model.heads["matching"])
        if len(groups) == 1:
            averaged = [self.model]
        self.processes.average_gradients(parameters_of(*averaged))
        return parts

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

    def _slide_vectors(self, bags: PackedBags) -> tuple[Tensor, ...]:
        """Vectors of slides, and of what else losses ask for with how many each bag has."""
        with self.processes.autocast():
            out = self.model.slides(bags)
        vectors = [out.slide.float()]
        if self.wanted.region_weight:
            local = out.region if self.wanted.region == "sigmoid" else out.patch
            counts = (
                torch.bincount(bags.region_bag, minlength=len(bags))
                if self.wanted.region == "sigmoid" else bags.lengths
            )  # fmt: skip
            if local is None:
                what = "regions" if self.wanted.region == "sigmoid" else "patches"
                raise ConfigError(
                    f"the slide encoder '{self.recipe.model.slides.encoder}' gives no vectors of "
                    f"{what}, which the loss '{self.wanted.region}' asks for.",
                    hint="Set model.objectives.region_weight=0, or choose another encoder.",
                )
            vectors += [local.float(), counts]
        if self.wanted.caption_weight:
            vectors += [out.tokens.float(), out.token_starts[1:] - out.token_starts[:-1]]
        return tuple(vectors)

    def _text_vectors(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, self.model.dim, device=self.processes.device)
        with self.processes.autocast():
            out: Tensor = self.model.texts(texts)
        return out.float()

    def _losses(
        self, slides: _Vectors, text: Tensor, subs: Tensor, captions: list[str], asked: _Asked,
        step: int,
    ) -> dict[str, Tensor]:  # fmt: skip
        heads, wanted, found = self.model.heads, self.wanted, dict[str, Tensor]()
        device = text.device
        if wanted.slide_weight:
            keys = text_keys(captions).to(device)
            ignore = false_negatives(keys) if wanted.same_text else None
            found["slide"] = heads["slide"](slides.slide, text, ignore=ignore)
        if slides.local is not None and slides.local_count is not None:
            bag, keys = asked.bag.to(device), text_keys(asked.texts).to(device)
            if not wanted.same_text:
                keys = torch.arange(len(keys), device=device)
            head = heads["region"]
            if isinstance(head, RegionSigmoid):
                owner = torch.repeat_interleave(
                    torch.arange(len(captions), device=device), slides.local_count
                )
                found["region"] = head(
                    slides.local, owner, subs, bag, keys, bags=len(captions),
                    generator=generator_for(self.seed, step, NEGATIVES),
                ).loss  # fmt: skip
            elif isinstance(head, SoftTopK):
                starts = torch.cat([
                    slides.local_count.new_zeros(1), slides.local_count.cumsum(0)
                ])  # fmt: skip
                found["region"] = head(
                    subs, bag, slides.local, starts, ignore=false_negatives(keys)
                )[0]
        if slides.tokens is not None and slides.token_count is not None:
            with self.processes.autocast():
                found["caption"] = heads["caption"](
                    slides.tokens, slides.token_count, captions, wanted.caption_tokens
                )
        return found

    def _matching(
        self, packed: list[PackedBags], groups: list[range], captions: list[str], step: int,
        before: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Matching, after the other losses and within each micro-batch.

        It sees slide and text at once, so there are no vectors of it to cache.
        """
        encoder = self.model.slides.encoder
        assert isinstance(encoder, QFormerEncoder)  # noqa: S101 - `Aligned` sees to it
        shared, head = self.model.shared_text, self.model.heads["matching"]
        whole = torch.zeros((), device=self.processes.device)
        for number, (bags, group) in enumerate(zip(packed, groups, strict=True)):
            said = [captions[i] for i in group]
            ids, mask = shared.ids(said)
            with torch.no_grad():
                alike = cosines(self.model.slides(bags).slide, self.model.texts(said))
            share = len(group) / len(captions)

            def fuse(
                slide: Tensor, text: Tensor, bags: PackedBags = bags,
                ids: Tensor = ids, mask: Tensor = mask,
            ) -> Tensor:  # fmt: skip
                with self.processes.autocast():
                    return encoder.together(bags, slide, ids[text], mask[text])

            value, _ = matching_loss(
                fuse, head, self.model.scale() * alike,
                generator=generator_for(self.seed, step, f"{MATCH} {number}"),
                ignore=same_text(text_keys(said), text_keys(said)),
            )  # fmt: skip
            torch.autograd.backward(self.wanted.matching_weight * share * value)
            whole += share * value.detach()
        return {"matching": whole, "loss": before + self.wanted.matching_weight * whole}

    def _loss_parameters(self) -> list[nn.Parameter]:
        heads = [head for name, head in self.model.heads.items() if name != "matching"]
        return parameters_of(*heads)


class _Vectors:
    """What `_slide_vectors` gave, by name."""

    def __init__(self, learner: AlignLearner, parts: tuple[Tensor, ...]) -> None:
        rest = list(parts)
        self.slide = rest.pop(0)
        self.local = rest.pop(0) if learner.wanted.region_weight else None
        self.local_count = rest.pop(0) if learner.wanted.region_weight else None
        self.tokens = rest.pop(0) if learner.wanted.caption_weight else None
        self.token_count = rest.pop(0) if learner.wanted.caption_weight else None


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Sub-captions of a step.

    Attributes:
        texts: Slide after slide.
        bag: int64 (T,), the slide of each.
    """

    texts: list[str]
    bag: Tensor

    @classmethod
    def of(cls, learner: AlignLearner, batch: Batch) -> _Asked:
        if not learner.wanted.region_weight:
            return cls([], torch.zeros(0, dtype=torch.int64))
        texts: list[str] = []
        owner: list[int] = []
        for number, one in enumerate(batch.samples):
            drawn, _ = sub_captions(
                one.caption, one.sub_captions,
                count=learner.wanted.sub_captions, most=learner.wanted.sentences,
                generator=generator_for(learner.seed, batch.epoch, one.id),
            )  # fmt: skip
            texts += drawn
            owner += [number] * len(drawn)
        return cls(texts, torch.tensor(owner, dtype=torch.int64))


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


def prepare_align(cfg: LanguageTraining) -> Prepared:
    """Everything but the training: samples are read, stores checked, the model is made.

    Raises:
        ManifestError, ConfigError, MissingStageError, StoreMismatchError, OutputError: see the
            parts.
    """
    named = load_recipe(cfg.recipe)
    recipe = section(named, "align", AlignRecipe, cfg.set)
    samples = read_manifest(cfg.data)
    given = read_manifest(cfg.val) if cfg.val is not None else samples
    learn = [one for one in samples if one.split in ("", "train") and caption_of(one)]
    val = [one for one in given if one.split in ("", "val") and caption_of(one)]
    val = val if cfg.val is not None else [one for one in val if one.split == "val"]
    if not learn:
        raise ManifestError(
            f"{cfg.data} has no sample to learn from: none of split train has a caption.",
            hint="`wsiprep convert --split patient` divides samples.",
        )
    if cfg.val is None:
        check_apart(samples)
    processes = join_processes(resolve_device(cfg.device), cfg.precision)
    how: dict[str, Any] = {
        "seed": cfg.seed, "grid": cfg.features_grid, "encoder": cfg.features_encoder
    }  # fmt: skip
    cases = Cases.of_stores(learn, cfg.stores, recipe.sampling, **how)
    expect = cases.fingerprint
    held = Cases.of_stores(val, cfg.stores, recipe.sampling, expect=expect, **how) if val else None
    torch.manual_seed(cfg.seed)
    bert = read_bert(recipe.model.texts.bert) if recipe.model.texts.bert else None
    tokenizer = bert.tokenizer if bert is not None else make_tokenizer(recipe.model, learn)
    model = Aligned(recipe.model, cases.fingerprint.dim, tokenizer, cfg.seed)
    if bert is not None:
        model.start_from_bert(bert.state)
    model.to(processes.device)
    processes.share([model])
    learner = AlignLearner(model, recipe, cases, held, processes, seed=cfg.seed, name=named.name)
    decides = {
        "recipe": recipe.canonical(), "seed": cfg.seed, "data": data_sha256(learn),
        "precision": cfg.precision, "features": cases.fingerprint.canonical(),
        "world": processes.world,
    }  # fmt: skip
    plan = RunPlan(cfg.output, cfg.seed, cfg.validate_every, cfg.resume, decides, cfg.tensorboard)
    return Prepared(learner, cases, recipe, plan, processes)


def train_align(cfg: LanguageTraining, on_step: OnStep = lambda _: None) -> Trained:
    """Train an aligned model.

    Raises:
        WsiprepError: see `prepare_align` and `loop.train`.
    """
    made = prepare_align(cfg)
    return train(made.learner, made.cases, made.recipe.optimisation, made.plan, made.processes,
                 on_step)  # fmt: skip
