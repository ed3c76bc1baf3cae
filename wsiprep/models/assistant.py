"""A language model that is shown slides: slide encoder, projector and language model as one.

The tokens that a slide encoder makes of a bag go through a projector and stand in the conversation
where the slide is. A bag of several slides of a case stands in one place. Without a bag the model
is *blind*: it is asked the same questions and shown nothing, which says how much of its score needs
no slide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.language.answers import OptionScores, answer, score_options
from wsiprep.models.language.choices import ChoiceStyle
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.language.interface import LanguageModel, LanguageOut
from wsiprep.models.language.projector import Projector, Visual
from wsiprep.models.language.splice import splice_slides
from wsiprep.models.language.state import load_exactly
from wsiprep.models.language.templates import TemplateName, Turn
from wsiprep.models.language.wording import Overlong, Wording, template_for

__all__ = ["Assistant", "AssistantConfig", "AssistantOut"]

PARTS = ("slides", "projector", "language")


class AssistantConfig(Settings):
    """How slides and questions are put to the language model, and which parts learn."""

    template: TemplateName | Literal["auto"] = "auto"
    """How turns are written; auto is the tokenizer's own chat template, or llava_v1 where it has
    none."""
    system: str = ""
    """What the system says first, in conversations in which it says nothing; empty leaves that to
    the template."""
    caption_prompt: str = Field(
        default="Describe this slide as a pathology report would.", min_length=1
    )
    """The request that captions are learned and asked for with."""
    choices: ChoiceStyle = "both"
    """How an option is answered: `B. high`, `B` or `high`."""
    slides_learn: bool = False
    """Whether the slide encoder learns."""
    projector_learns: bool = True
    """Whether the projector learns."""
    max_tokens: int | None = Field(default=2048, ge=16)
    """Most tokens of a conversation, those of the slide included."""
    overflow: Overlong = "cut"
    """What is done with a longer one in training: refuse it; leave out its oldest exchanges; or
    these, and then the end of the last answer (counted in the log)."""


@dataclass(frozen=True, slots=True, eq=False)
class AssistantOut:
    """What a training step is made of.

    Attributes:
        loss: Scalar float, mean cross-entropy in nats over the labelled tokens of the batch.
        tokens: int64 scalar, how many these are; batches are averaged by this weight.
        read: Tokens of the batch as the language model read it, those of slides included.
        dropped: Exchanges left out because there was no room for them.
        cut: Tokens cut off the ends of answers, likewise.
    """

    loss: Tensor
    tokens: Tensor
    read: int
    dropped: int
    cut: int


class Assistant(nn.Module):
    """Answers questions about slides.

    Args:
        slides: Packed bags to `SlideOut`: a slide encoder, or what was trained around one.
        projector: From the width of its tokens to that of the language model.
        language: The language model; what of it learns is its own setting.
        cfg: See `AssistantConfig`.

    Raises:
        ConfigError: projector and language model are of different widths, or the tokenizer lacks
            what the template needs.
    """

    language: LanguageModel

    def __init__(
        self, slides: nn.Module, projector: Projector, language: LanguageModel, cfg: AssistantConfig
    ) -> None:
        super().__init__()
        if projector.width != language.width:
            raise ConfigError(
                f"the projector makes embeddings of width {projector.width}, and the language "
                f"model takes {language.width}.",
                stage="models",
                hint="Make the projector for this language model.",
            )
        self.cfg = cfg
        self.slides, self.projector = slides, projector
        self.language = language
        self.template = template_for(cfg.template, language.tokenizer)
        self._wording = Wording(
            language.tokenizer, self.template, cfg.system, cfg.max_tokens, cfg.overflow
        )
        if not cfg.slides_learn:
            slides.requires_grad_(False)
        if not cfg.projector_learns:
            projector.requires_grad_(False)
        # A template that does not fit the vocabulary is found out now, not hours later.
        self._wording.encode([Turn("user", "q"), Turn("assistant", "a")], 0, None)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return next(iter(self.language.parameters())).device

    def train(self, mode: bool = True) -> Assistant:
        """As of `nn.Module`, but parts that do not learn stay as they are when used."""
        super().train(mode)
        if not self.cfg.slides_learn:
            self.slides.eval()
        if not self.cfg.projector_learns:
            self.projector.eval()
        return self

    def show(self, bags: PackedBags) -> Visual:
        """Embeddings of the bags of a batch; with gradients where a part learns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.cfg.slides_learn):
            out: SlideOut = self.slides(bags)
        visual: Visual = self.projector(out.tokens, out.token_starts)
        return visual

    def forward(
        self,
        bags: PackedBags | None,
        conversations: Sequence[Sequence[Turn]],
        *,
        of: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> AssistantOut:
        """The loss of conversations about slides.

        Args:
            bags: B bags; None trains a blind model.
            conversations: C conversations, each ending with an answer. One without a place for
                the slide has it before its first question.
            of: The bag of each conversation; conversation i is of bag i if None.
            names: Samples, C of them, for messages.

        Raises:
            ManifestError: a conversation is none, is too long, or has more than one place for the
                slide.
            ValueError: there are no conversations, or `of` does not fit.
        """
        shown = self._shown(bags, len(conversations), of)
        called = [None] * len(shown) if names is None else names
        encoded, cut = [], 0
        for turns, part, name in zip(conversations, shown, called, strict=True):
            one, less = self._wording.encode(turns, len(part), name)
            encoded.append(one)
            cut += less
        batch = splice_slides(self.language, encoded, [[part] for part in shown], names=names)
        out: LanguageOut = self.language(
            batch.inputs_embeds,
            batch.attention_mask,
            position_ids=batch.position_ids,
            labels=batch.labels,
        )
        if out.loss is None:
            raise ValueError("the language model gave no loss for labels")
        return AssistantOut(
            loss=out.loss,
            tokens=out.tokens,
            read=sum(len(one.ids) - one.slides for one in encoded) + sum(map(len, shown)),
            dropped=sum(one.dropped for one in encoded),
            cut=cut,
        )

    @torch.no_grad()
    def look(self, bags: PackedBags) -> list[Tensor]:
        """Embeddings float (m, width) of each bag, for any number of questions."""
        was_training = self.training
        self.eval()
        try:
            return self.show(bags).split()
        finally:
            self.train(was_training)

    def nothing(self) -> Tensor:
        """What a blind model is shown: float (0, width).

        Where a prompt is the slide alone, and not even a token that begins a text, it is one
        embedding of zeros: something must be gone on from.
        """
        bare = self.template == "plain" and self.language.tokenizer.bos_id is None
        return torch.zeros(int(bare), self.projector.width, device=self.device)

    def answer(
        self,
        shown: Sequence[Tensor],
        conversations: Sequence[Sequence[Turn]],
        decoding: Decoding,
        *,
        generator: torch.Generator | None = None,
        names: Sequence[str] | None = None,
    ) -> list[str]:
        """Answer the last question of each conversation, as one batch.

        Args:
            shown: Of each conversation its bag, from `look`, or `nothing`.
            conversations: Each ending with a question.
            decoding: How answers are drawn.
            generator: Of the device of the model; needed for sampling.
            names: Samples, for messages.

        Raises:
            ManifestError: a conversation is none, or too long.
        """
        return answer(
            self.language,
            [self._wording.placed(turns) for turns in conversations],
            [[part] for part in shown],
            template=self.template,
            decoding=decoding,
            generator=generator,
            max_tokens=self.cfg.max_tokens,
            names=names,
        )

    def caption(
        self,
        shown: Sequence[Tensor],
        decoding: Decoding,
        *,
        generator: torch.Generator | None = None,
        names: Sequence[str] | None = None,
    ) -> list[str]:
        """Describe each bag; arguments and errors as of `answer`."""
        asked = [[Turn("user", self.cfg.caption_prompt)]] * len(shown)
        return self.answer(shown, asked, decoding, generator=generator, names=names)

    def score(
        self,
        shown: Tensor,
        turns: Sequence[Turn],
        options: Sequence[str],
        *,
        with_end: bool = True,
        batch: int = 4,
        name: str | None = None,
    ) -> OptionScores:
        """How likely each option is as the answer to the last question.

        Args:
            shown: The bag, from `look`, or `nothing`.
            turns: A conversation that ends with a question.
            options: Answers to compare.
            with_end: Count the token that ends the answer too, without which an option that begins
                as another does is never less likely.
            batch: Options scored at once.
            name: Sample, for messages.

        Raises:
            ManifestError: no option, or an empty one.
        """
        return score_options(
            self.language,
            self._wording.placed(turns),
            options,
            [shown],
            template=self.template,
            with_end=with_end,
            batch=batch,
            name=name,
        )

    def learning(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that learn, by part: `slides`, `projector`, `language`; parts with none not.

        A recipe may give each part a rate of its own.
        """
        found = {
            name: [p for p in getattr(self, name).parameters() if p.requires_grad] for name in PARTS
        }
        return {name: weights for name, weights in found.items() if weights}

    def trainable_state(self) -> dict[str, Tensor]:
        """All that a checkpoint has to hold; names begin with their part's.

        Encoder and projector whole, and of the language model what cannot be had from elsewhere.
        """
        state = {f"language.{k}": v for k, v in self.language.trainable_state().items()}
        return state | {name: value.detach().clone() for name, value in self._own()}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Take a `trainable_state`.

        Raises:
            WeightsError: a tensor is missing, unknown, or of another shape.
        """
        spoken = {k: v for k, v in state.items() if k.startswith("language.")}
        rest = {k: v for k, v in state.items() if k not in spoken}
        load_exactly(dict(self._own()), rest, "slide encoder and projector")
        self.language.load_trainable({k.removeprefix("language."): v for k, v in spoken.items()})

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        """Weights and buffers of slide encoder and projector."""
        for part in PARTS[:2]:
            for name, value in getattr(self, part).state_dict().items():
                yield f"{part}.{name}", value

    def _shown(
        self, bags: PackedBags | None, conversations: int, of: Sequence[int] | None
    ) -> list[Tensor]:
        """The embeddings of each conversation."""
        if bags is None:
            return [self.nothing()] * conversations
        owner = range(conversations) if of is None else of
        if len(owner) != conversations or not all(0 <= bag < len(bags) for bag in owner):
            raise ValueError(f"{conversations} conversations cannot be of {len(bags)} bags so")
        made = self.show(bags).split()
        return [made[bag] for bag in owner]
