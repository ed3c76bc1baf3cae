"""What is said of a sample, as conversations that a language model learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wsiprep.models.assistant import AssistantConfig
from wsiprep.models.language.choices import option_texts, question_text
from wsiprep.models.language.templates import VICUNA_SYSTEM, Turn
from wsiprep.train.language.align import caption_of
from wsiprep.train.language.assistant_config import Command
from wsiprep.train.language.manifest import Sample

__all__ = ["answer_of", "conversations_of", "question_of", "texts_of"]

Conversation = list[Turn]


def question_of(sample: Sample, cfg: AssistantConfig) -> Conversation:
    """A sample's question, with its options, as a conversation that ends with it."""
    return [Turn("user", question_text(sample.question, sample.choices, cfg.choices))]


def answer_of(sample: Sample, cfg: AssistantConfig) -> str:
    """A sample's answer as it is learned; empty where there is none."""
    if not (sample.choices and sample.answer):
        return sample.answer
    return option_texts(sample.choices, cfg.choices)[sample.choices.index(sample.answer)]


def conversations_of(
    sample: Sample, command: Command, cfg: AssistantConfig, *, captions: bool = True
) -> list[Conversation]:
    """What is learned from a sample; empty where it says nothing of the kind.

    Args:
        sample: The sample.
        command: `caption` takes the caption alone; `instruct` conversations, questions with
            answers, and captions.
        cfg: How captions and options are asked for.
        captions: Whether `instruct` takes captions.
    """
    found: list[Conversation] = []
    if command == "instruct" and sample.conversations:
        found.append([Turn(turn.role, turn.text) for turn in sample.conversations])
    if command == "instruct" and sample.question and sample.answer:
        found.append([*question_of(sample, cfg), Turn("assistant", answer_of(sample, cfg))])
    if (command == "caption" or captions) and caption_of(sample):
        asked = Turn("user", cfg.caption_prompt)
        found.append([asked, Turn("assistant", caption_of(sample))])
    return found


def texts_of(talks: Iterable[Sequence[Turn]], cfg: AssistantConfig) -> list[str]:
    """All that is written in conversations, for a tokenizer to be made of."""
    said = [turn.text for talk in talks for turn in talk]
    return [*said, cfg.system or VICUNA_SYSTEM, " USER:", " ASSISTANT:"]
