"""Chat templates that write a conversation otherwise as it goes on."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.language.made_hf import make_tokenizer
from wsiprep.core.errors import ConfigError
from wsiprep.models.language import (
    IGNORE,
    SLIDE_ID,
    Encoded,
    Turn,
    encode_conversation,
    encode_prompt,
)
from wsiprep.models.language.hf_tokenizer import HfTokenizer

EMPTY = "<think>\n\n</think>\n\n"
LAST = (
    "{% set ns = namespace(asked=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
)
TURNS = (
    LAST + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked %}" + EMPTY + "{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
)
TEMPLATES = {
    # As of Qwen3: an empty thought stands before an answer, and before earlier ones nothing.
    "thinking": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}"
    + EMPTY
    + "{% endif %}{% endif %}",
    # A thought is begun whatever is asked for.
    "always": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    # What stands before an answer is no part of the prompt, and the last answer ends otherwise.
    "channels": (
        "{% for m in messages %}<|im_start|>{{ m.role }}"
        "{{ '<final>' if m.role == 'assistant' else ':' }}{{ m.content }}"
        "{{ '</s>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    ),
    # The system's words go to the last question, and are nowhere once that is answered.
    "system last": (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] "
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
        "{{ m.content }} [/INST]{% elif m.role == 'assistant' %} {{ m.content }} </s>{% endif %}"
        "{% endfor %}"
    ),
}
BEFORE = {
    "thinking": f"<|im_start|>assistant\n{EMPTY}",
    "always": f"<|im_start|>assistant\n{EMPTY}",
    "channels": "<|im_start|>assistant<final>",
    "system last": " [/INST]",
}
"""What stands before every answer."""

WORDS = st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=12)
ANSWERS = WORDS.map(lambda text: text.replace("<image>", "").strip() or "Grade 2.")
EXCHANGES = st.lists(st.tuples(WORDS, ANSWERS), min_size=1, max_size=4)


@cache
def tokenizer_of(template: str, spaced: bool = False) -> HfTokenizer:
    raw = make_tokenizer(spaced)
    raw.add_tokens(["<think>", "</think>"])
    raw.chat_template = TEMPLATES[template]
    return HfTokenizer(raw)


def told(tokenizer: HfTokenizer, ids: list[int]) -> str:
    """Ids as text, with special tokens by name."""
    text: str = tokenizer.raw.decode(ids, clean_up_tokenization_spaces=False)
    return text


def runs(encoded: Encoded) -> list[tuple[int, int]]:
    """Where learned tokens begin and end."""
    learned = [False, *(encoded.labels != IGNORE).tolist(), False]
    edges = [at for at in range(len(learned) - 1) if learned[at] != learned[at + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def talk(exchanges: list[tuple[str, str]], system: str) -> list[Turn]:
    said = [turn for q, a in exchanges for turn in (Turn("user", q), Turn("assistant", a))]
    said[0] = Turn("user", f"<image>\n{said[0].text}")
    return [Turn("system", system), *said] if system else said


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None, max_examples=30)
@given(exchanges=EXCHANGES, system=st.sampled_from(["", "Be brief."]))
def test_every_answer_is_learned_behind_what_asks_for_it(
    template: str, spaced: bool, exchanges: list[tuple[str, str]], system: str
) -> None:
    tokenizer = tokenizer_of(template, spaced)
    turns = talk([(q.replace("<image>", ""), a) for q, a in exchanges], system)
    whole = encode_conversation(turns, tokenizer, "chat")
    places = runs(whole)
    assert len(places) == len(exchanges)
    first = 2 if system else 1
    for number, ((begin, end), (_, answer)) in enumerate(zip(places, exchanges, strict=True)):
        asked = encode_prompt(turns[: first + 2 * number], tokenizer, "chat")
        assert whole.ids[:begin].tolist() == asked.ids.tolist()
        assert (asked.labels == IGNORE).all()
        *said, stop = whole.ids[begin:end].tolist()
        assert tokenizer.decode(said).strip() == answer
        assert stop in asked.stop_ids
        # The same answer, alone or with others behind it.
        alone = encode_conversation(turns[: first + 2 * number + 1], tokenizer, "chat")
        assert alone.ids[: end - 1].tolist() == whole.ids[: end - 1].tolist()


@pytest.mark.parametrize("exchanges", [1, 2, 3])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_is_asked_as_the_template_asks_it(template: str, exchanges: int) -> None:
    tokenizer = tokenizer_of(template)
    turns = talk([(f"Q{n}?", f"A{n}.") for n in range(exchanges)], "Be brief.")
    turns[1] = Turn("user", "Q0?")
    asked = encode_prompt(turns[:-1], tokenizer, "chat").ids.tolist()
    assert SLIDE_ID not in asked
    text = told(tokenizer, asked)
    assert text.endswith(BEFORE[template])
    assert text.count(BEFORE[template]) == exchanges
    if exchanges == 1:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns[:-1]]
        own: Any = tokenizer.raw.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert text.startswith(own)


def test_a_template_of_one_exchange_asks_too() -> None:
    raw = make_tokenizer(False)
    raw.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
        "{% if loop.last and m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = HfTokenizer(raw)
    asked = encode_prompt([Turn("user", "Q?")], tokenizer, "chat")
    assert told(tokenizer, asked.ids.tolist()).endswith("assistant: ")
    assert tokenizer.encode_markup("</s>")[0] in asked.stop_ids
    turns = [Turn("user", "Q?"), Turn("assistant", "A."), Turn("user", "Q?")]
    with pytest.raises(ConfigError, match="no special token"):
        encode_prompt(turns, tokenizer, "chat")


def test_the_templates_here_do_write_earlier_answers_otherwise() -> None:
    messages = [
        {"role": "user", "content": "Q0?"}, {"role": "assistant", "content": "A0."},
        {"role": "user", "content": "Q1?"}, {"role": "assistant", "content": "A1."},
    ]  # fmt: skip
    for template in ("thinking", "always"):
        render = tokenizer_of(template).render
        assert not render(messages, False).startswith(render(messages[:1], True))
    render = tokenizer_of("channels").render
    assert not render(messages, False).startswith(render(messages[:2], False))
    render = tokenizer_of("system last").render
    assert "Brief" not in render([{"role": "system", "content": "Brief"}, *messages], False)


@pytest.mark.parametrize("exchanges", [1, 2])
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages | reverse %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{{ messages[0].content }}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}",
    ],
)
def test_a_template_that_puts_turns_elsewhere_says_so(template: str, exchanges: int) -> None:
    raw = make_tokenizer()
    raw.chat_template = template
    turns = talk([("Q0?", "A0."), ("Q1?", "A1.")][:exchanges], "")
    with pytest.raises(ConfigError, match="does not write each turn once"):
        encode_conversation(turns, HfTokenizer(raw), "chat")
