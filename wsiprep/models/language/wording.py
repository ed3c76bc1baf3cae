"""Conversations about one slide, or the slides of one case, as an assistant is trained on them.

The system's words and the place of the slide are put in where they are missing, and what is too
long is made to fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from wsiprep.core.errors import ManifestError
from wsiprep.models.language.conversation import Encoded, encode_conversation, with_slides
from wsiprep.models.language.interface import IGNORE, SLIDE_MARK, ChatTokenizer, Tokenizer
from wsiprep.models.language.templates import TemplateName, Turn

__all__ = ["Overlong", "Wording", "template_for"]

Overlong = Literal["error", "drop_oldest", "cut"]
"""What is done with a conversation that is too long: refuse it; leave out its oldest exchanges; or
these, and then the end of the last answer."""


@dataclass(frozen=True, slots=True)
class Wording:
    """How conversations become tokens.

    Attributes:
        tokenizer: Of the language model.
        template: How turns are written.
        system: What the system says first, where it says nothing; empty for nothing.
        max_tokens: Most tokens of a conversation, those of the slide included.
        overflow: What is done with a longer one.
    """

    tokenizer: Tokenizer
    template: TemplateName
    system: str
    max_tokens: int | None
    overflow: Overlong

    def placed(self, turns: Iterable[Turn]) -> list[Turn]:
        """With the system's words and the place of the slide."""
        said = list(turns)
        silent = self.template == "plain" or any(turn.role == "system" for turn in said)
        if self.system and not silent:
            said = [Turn("system", self.system), *said]
        return with_slides(said, 1)

    def encode(self, turns: Iterable[Turn], tokens: int, name: str | None) -> tuple[Encoded, int]:
        """A conversation as ids, and how many tokens its last answer lost.

        Args:
            turns: Ending with an answer.
            tokens: Embeddings of the slide.
            name: Sample, for messages.

        Raises:
            ManifestError: it is no conversation, is too long, or has more than one place for the
                slide.
            ConfigError: the tokenizer lacks what the template needs.
        """
        placed = self.placed(turns)
        places = sum(turn.text.count(SLIDE_MARK) for turn in placed if turn.role == "user")
        if places != 1:
            raise ManifestError(
                f"a conversation has {places} places '{SLIDE_MARK}' for the slide.",
                slide=name,
                stage="models",
                hint="Write it once, or not at all; all slides of a case stand in one place.",
            )
        most = self.max_tokens
        try:
            one = encode_conversation(
                placed, self.tokenizer, self.template, slide_tokens=[tokens], max_tokens=most,
                overflow="error" if self.overflow == "error" else "drop_oldest", name=name,
            )  # fmt: skip
        except ManifestError:
            if self.overflow != "cut" or most is None:
                raise
            return self._cut(placed, most - tokens, name)
        return one, 0

    def _cut(self, turns: Sequence[Turn], room: int, name: str | None) -> tuple[Encoded, int]:
        """The last exchange, its answer without what is too much for so many tokens of text."""
        system = [turn for turn in turns if turn.role == "system"]
        rest = [turn for turn in turns if turn.role != "system"]
        asked = replace(rest[-2], text=rest[-2].text.replace(SLIDE_MARK, "").strip())
        last = with_slides([*system, asked, rest[-1]], 1)
        one = encode_conversation(last, self.tokenizer, self.template, name=name)
        kept = max(room, 0) + 1  # the place of the slide is an id, and none of the text's
        labels = one.labels[:kept]
        if not bool((labels != IGNORE).any()):
            raise ManifestError(
                f"a conversation has no room for its answer: slide and question take "
                f"{self.max_tokens} tokens or more.",
                slide=name,
                stage="models",
                hint="Set model.assistant.max_tokens higher, or show fewer patches of the slide.",
            )
        cut = replace(one, ids=one.ids[:kept], labels=labels, dropped=len(rest) // 2 - 1)
        return cut, len(one.ids) - len(cut.ids)


def template_for(wanted: TemplateName | Literal["auto"], tokenizer: Tokenizer) -> TemplateName:
    """The template of a setting: `auto` is the tokenizer's own, or llava_v1 where it has none."""
    if wanted != "auto":
        return wanted
    own = isinstance(tokenizer, ChatTokenizer) and tokenizer.has_chat_template
    return "chat" if own else "llava_v1"
