"""Vectors of slides and texts, and the losses of `train align` that are made of them.

What takes activations (encoders, the decoder of captions, matching) works on a micro-batch, and
speaks to no other process; what relates the samples of a step is `AlignLosses.of_vectors`, which
every process calls once. So processes may have different numbers of micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from wsiprep.core.errors import ConfigError
from wsiprep.models.aligned import Aligned
from wsiprep.models.bags import PackedBags
from wsiprep.models.caption_heads import CaptionHead
from wsiprep.models.encoders.qformer import QFormerEncoder
from wsiprep.models.objectives.alike import alike as same_text
from wsiprep.models.objectives.alike import false_negatives, text_keys
from wsiprep.models.objectives.caption import mean_of_nats
from wsiprep.models.objectives.gather import row_offset, total
from wsiprep.models.objectives.matching import matching_loss, pairs_of
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.scale import cosines
from wsiprep.models.objectives.top_k import SoftTopK
from wsiprep.models.sampling import generator_for
from wsiprep.models.text.captions import sub_captions
from wsiprep.train.language.cases import Batch
from wsiprep.train.language.processes import Processes

__all__ = ["AlignLosses", "Asked", "Micro"]

MATCH: Final = "negatives of matching"
NEGATIVES: Final = "negatives of regions"


@dataclass(frozen=True, slots=True, eq=False)
class Micro:
    """Samples whose activations are in memory at once.

    Attributes:
        first: Row of the first among those of this process's step.
        bags: Their patches.
        captions: What is said of each.
    """

    first: int
    bags: PackedBags
    captions: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Sub-captions of a step.

    Attributes:
        texts: Slide after slide.
        bag: int64 (T,), the slide of each.
    """

    texts: list[str]
    bag: Tensor

    @classmethod
    def of(cls, losses: AlignLosses, batch: Batch) -> Asked:
        """Those that are drawn for a batch; none where no loss asks for them."""
        wanted = losses.wanted
        if not wanted.region_weight:
            return cls([], torch.zeros(0, dtype=torch.int64))
        texts: list[str] = []
        owner: list[int] = []
        for number, one in enumerate(batch.samples):
            drawn, _ = sub_captions(
                one.caption, one.sub_captions, count=wanted.sub_captions, most=wanted.sentences,
                generator=generator_for(losses.seed, batch.epoch, one.id),
            )  # fmt: skip
            texts += drawn
            owner += [number] * len(drawn)
        return cls(texts, torch.tensor(owner, dtype=torch.int64))


class AlignLosses:
    """What a model is trained on.

    Args:
        model: What learns; its `cfg.objectives` say which losses.
        processes: All of them.
        seed: Of sub-captions and negatives.
    """

    def __init__(self, model: Aligned, processes: Processes, seed: int) -> None:
        self.model, self.processes, self.seed = model, processes, seed
        self.wanted = model.cfg.objectives

    def slide_vectors(self, micro: Micro) -> tuple[Tensor, ...]:
        """What losses ask of slides, see `_Vectors`; of a micro-batch, or rows of several."""
        with self.processes.autocast():
            out = self.model.slides(micro.bags)
        vectors = [out.slide.float()]
        if self.wanted.region_weight:
            local = out.region if self.wanted.region == "sigmoid" else out.patch
            counts = (
                torch.bincount(micro.bags.region_bag, minlength=len(micro.bags))
                if self.wanted.region == "sigmoid" else micro.bags.lengths
            )  # fmt: skip
            if local is None:
                what = "regions" if self.wanted.region == "sigmoid" else "patches"
                raise ConfigError(
                    f"the slide encoder '{self.model.cfg.slides.encoder}' gives no vectors of "
                    f"{what}, which the loss '{self.wanted.region}' asks for.",
                    hint="Set model.objectives.region_weight=0, or choose another encoder.",
                )
            vectors += [local.float(), counts]
        if self.wanted.caption_weight:
            head = self.model.heads["caption"]
            assert isinstance(head, CaptionHead)  # noqa: S101 - `Aligned` made it
            held = out.token_starts[1:] - out.token_starts[:-1]
            with self.processes.autocast():
                nats, said = head.nats(
                    out.tokens.float(), held, micro.captions, self.wanted.caption_tokens
                )
            vectors += [nats[None], said[None]]
        return tuple(vectors)

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """float32 (P, dim), not normalised."""
        if not texts:
            # Where other processes have texts, and gradients of these, so has this one.
            learns = any(p.requires_grad for p in self.model.texts.parameters())
            return torch.zeros(
                0, self.model.dim, device=self.processes.device,
                requires_grad=learns and torch.is_grad_enabled(),
            )  # fmt: skip
        with self.processes.autocast():
            out: Tensor = self.model.texts(texts)
        return out.float()

    def of_vectors(
        self, slides: tuple[Tensor, ...], text: Tensor, subs: Tensor, captions: list[str],
        asked: Asked, step: int,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses but that of matching, by name; shares (see `objectives`).

        Args:
            slides: Of `slide_vectors`, rows of all micro-batches.
            text: float32 (B, dim), of `text_vectors` of the captions.
            subs: float32 (T, dim), likewise of the sub-captions.
            captions: B texts.
            asked: The sub-captions.
            step: Its number.
        """
        heads, wanted, found = self.model.heads, self.wanted, dict[str, Tensor]()
        vectors, device = _Vectors(self, slides), text.device
        if wanted.slide_weight:
            keys = text_keys(captions).to(device)
            ignore = false_negatives(keys) if wanted.same_text else None
            found["slide"] = heads["slide"](vectors.slide, text, ignore=ignore)
        if vectors.local is not None and vectors.local_count is not None:
            bag, keys = asked.bag.to(device), text_keys(asked.texts).to(device)
            if not wanted.same_text:
                # Of no two processes the same, for they are compared over all of them.
                keys = torch.arange(len(keys), device=device) + row_offset(keys)
            head = heads["region"]
            if isinstance(head, RegionSigmoid):
                owner = torch.repeat_interleave(
                    torch.arange(len(captions), device=device), vectors.local_count
                )
                found["region"] = head(
                    vectors.local, owner, subs, bag, keys, bags=len(captions),
                    generator=generator_for(self.seed, step, NEGATIVES),
                ).loss  # fmt: skip
            elif isinstance(head, SoftTopK):
                starts = torch.cat([
                    vectors.local_count.new_zeros(1), vectors.local_count.cumsum(0)
                ])  # fmt: skip
                found["region"] = head(
                    subs, bag, vectors.local, starts, ignore=false_negatives(keys)
                )[0]
        if vectors.nats is not None and vectors.said is not None:
            found["caption"] = mean_of_nats(vectors.nats.sum(), vectors.said.sum())
        return found

    def matching_backward(self, parts: Sequence[Micro], step: int) -> Tensor:
        """Add the gradient of matching, weighted; each part by itself, with negatives of its own.

        It sees slide and text at once, so there are no vectors of it to cache. The mean is that
        over the pairs of all processes, which are counted before.

        Returns:
            The loss, not weighted: float32 scalar, a share, without gradient.
        """
        encoder = self.model.slides.encoder
        assert isinstance(encoder, QFormerEncoder)  # noqa: S101 - `Aligned` sees to it
        shared, head = self.model.shared_text, self.model.heads["matching"]
        device = self.processes.device
        keys = [text_keys(micro.captions) for micro in parts]
        alike = [same_text(some, some) for some in keys]
        pairs = total(torch.tensor(float(sum(map(pairs_of, alike))), device=device))
        begin = row_offset(torch.zeros(sum(map(len, keys)), device=device))
        whole = torch.zeros((), device=device)
        for micro, same in zip(parts, alike, strict=True):
            ids, mask = shared.ids(micro.captions)
            with torch.no_grad():
                near = cosines(
                    self.model.slides(micro.bags).slide, self.model.texts(micro.captions)
                )

            def fuse(
                slide: Tensor, text: Tensor, bags: PackedBags = micro.bags,
                ids: Tensor = ids, mask: Tensor = mask,
            ) -> Tensor:  # fmt: skip
                with self.processes.autocast():
                    return encoder.together(bags, slide, ids[text], mask[text])

            # Named by its place in the step, the draw is that of one process.
            value, _ = matching_loss(
                fuse, head, self.model.scale() * near, ignore=same, pairs=pairs,
                generator=generator_for(self.seed, step, f"{MATCH} {begin + micro.first}"),
            )  # fmt: skip
            torch.autograd.backward(self.wanted.matching_weight * value)
            whole += value.detach()
        return whole


class _Vectors:
    """What `slide_vectors` gave, by name.

    `slide` is float32 (B, dim); `local` float32 (R, dim), regions or patches, and `local_count`
    int64 (B,), how many each slide has; `nats` float32 and `said` int64, both one a micro-batch,
    the cross-entropy of its captions and their tokens. What no loss asks for is None.
    """

    def __init__(self, losses: AlignLosses, parts: tuple[Tensor, ...]) -> None:
        rest, wanted = list(parts), losses.wanted
        self.slide = rest.pop(0)
        self.local = rest.pop(0) if wanted.region_weight else None
        self.local_count = rest.pop(0) if wanted.region_weight else None
        self.nats = rest.pop(0) if wanted.caption_weight else None
        self.said = rest.pop(0) if wanted.caption_weight else None
