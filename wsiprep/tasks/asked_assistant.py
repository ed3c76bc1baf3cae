"""An assistant that slides are shown to: loaded, named by its content, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsiprep import __version__
from wsiprep.models.bags import Bag, pack
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.language.templates import Turn
from wsiprep.models.sampling import SHOWN_SEED, Sampling, sample
from wsiprep.tasks.ask_config import AnsweringConfig, AssistantChoice
from wsiprep.tasks.asked_model import model_sha256
from wsiprep.tasks.embedded import EmbeddedSlide, matching_features, no_patches
from wsiprep.train.language.assistant_checkpoint import AssistantCheckpoint, load_assistant
from wsiprep.train.language.bags import CasePatches
from wsiprep.train.language.stores import case_name

__all__ = ["AskedAssistant", "CaseView", "Likely", "load_asked"]


@dataclass(frozen=True, slots=True, eq=False)
class CaseView:
    """Slides as the language model sees them.

    Attributes:
        shown: float (m, width), embeddings.
        patches: Patches that they are made of.
        keys: Identity of the features of each slide.
    """

    shown: Tensor
    patches: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Likely:
    """An option, and how likely the model finds it.

    Attributes:
        choice: Its text.
        nats: Log-likelihood of its tokens, the one that ends the answer included.
        tokens: How many these are.
        probability: Among the options: softmax of `nats`.
    """

    choice: str
    nats: float
    tokens: int
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class AskedAssistant:
    """A checkpoint, how it answers, and what of a slide it is shown.

    Attributes:
        checkpoint: The model, in evaluation mode.
        sha256: Of the files of the checkpoint.
        decoding: How answers are drawn.
        seed: Of sampling.
        max_patches: Most patches of a slide; as in training without it.
    """

    checkpoint: AssistantCheckpoint
    sha256: str
    decoding: Decoding
    seed: int = 0
    max_patches: int | None = None

    @property
    def sampling(self) -> Sampling:
        """Which patches are shown: as in training, but all regions where it drew regions."""
        trained = self.checkpoint.sampling
        if trained.method == "regions":
            trained = Sampling(max_patches=trained.max_patches)
        caps = [cap for cap in (trained.max_patches, self.max_patches) if cap is not None]
        return trained.model_copy(update={"max_patches": min(caps, default=None)})

    def view(self, slides: Sequence[EmbeddedSlide]) -> CaseView:
        """Read slides of one case, and look at them.

        Args:
            slides: One at least; their names decide which patches are drawn where some are left
                out, as in an evaluation.

        Raises:
            StoreMismatchError: features were not made as the model's.
            SlideError: not one of them has a patch with features.
            StoreCorruptError: they are damaged.
        """
        expect = self.checkpoint.features
        opened = [matching_features(slide.store, expect)[0] for slide in slides]
        keys = tuple(str(one.features.attributes["key"]) for one in opened)
        name = case_name(one.store for one in slides)
        if not any(map(len, opened)):
            raise no_patches(name)
        bag = sample(CasePatches(opened), self.sampling, seed=SHOWN_SEED, epoch=0, slide_id=name)
        return CaseView(self.look(bag), len(bag), keys)

    def look(self, bag: Bag) -> Tensor:
        """Embeddings float (m, width) of a bag."""
        model = self.checkpoint.model
        return model.look(pack([bag]).to(model.device, torch.float32))[0]

    def answer(self, shown: Tensor, turns: Sequence[Turn], name: str) -> str:
        """Answer the last question of a conversation; the same each time, also when sampling."""
        model = self.checkpoint.model
        generator = torch.Generator(model.device).manual_seed(self.seed)
        return model.answer(
            [shown], [turns], self.decoding, generator=generator, names=[name]
        )[0]  # fmt: skip

    def choose(
        self, shown: Tensor, turns: Sequence[Turn], choices: Sequence[str], said: Sequence[str],
        name: str,
    ) -> list[Likely]:  # fmt: skip
        """How likely each option is, the likeliest first.

        Args:
            shown: Embeddings.
            turns: A conversation that ends with the question.
            choices: The options.
            said: The options as they are answered.
            name: Of the case, for messages.
        """
        found = self.checkpoint.model.score(shown, turns, said, name=name)
        shares = found.total.double().softmax(dim=0).tolist()
        rows = zip(choices, found.total.tolist(), found.tokens.tolist(), shares, strict=True)
        return sorted((Likely(*row) for row in rows), key=lambda one: -one.nats)

    def provenance(self) -> dict[str, Any]:
        """What decided the results, as plain JSON types."""
        model = self.checkpoint.model
        return {
            "wsiprep": __version__,
            "model": {
                "folder": str(self.checkpoint.folder),
                "sha256": self.sha256,
                "recipe": self.checkpoint.recipe.get("name", ""),
                "command": self.checkpoint.recipe.get("command", ""),
                "language": model.language.fingerprint(),
                "template": model.template,
            },
            "features": self.checkpoint.features.canonical(),
            "sampling": self.sampling.canonical(),
            "decoding": {**self.decoding.canonical(), "seed": self.seed},
        }


def load_asked(choice: AssistantChoice, answers: AnsweringConfig) -> AskedAssistant:
    """The assistant of a command.

    Raises:
        WeightsError, StoreMismatchError, DeviceError: as `load_assistant`.
    """
    path: Path = choice.model
    checkpoint = load_assistant(path, choice.device, llm=choice.llm)
    decoding = Decoding(**answers.model_dump(exclude={"seed"}))
    return AskedAssistant(
        checkpoint, model_sha256(checkpoint.folder), decoding, answers.seed, choice.max_patches
    )
