from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.language.fakes import PieceTokenizer
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.models.language import (
    IGNORE,
    SLIDE_ID,
    Encoded,
    Turn,
    encode_conversation,
    encode_prompt,
    with_slides,
)
from wsiprep.models.language.templates import VICUNA_SYSTEM

TOKENIZER = PieceTokenizer()
TALK = [
    Turn("user", "<image>\nWhich organ?"),
    Turn("assistant", "Breast."),
    Turn("user", "Which grade?"),
    Turn("assistant", "Grade 2, ductal."),
]


def shown(encoded: Encoded) -> str:
    """The ids as text, slides by their mark."""
    parts: list[str] = []
    for id_ in encoded.ids.tolist():
        parts.append("<image>" if id_ == SLIDE_ID else TOKENIZER.show([id_]))
    return "".join(parts)


def learned(encoded: Encoded) -> list[str]:
    """Runs of learned tokens as text."""
    runs: list[list[int]] = []
    before = False
    for id_, label in zip(encoded.ids.tolist(), encoded.labels.tolist(), strict=True):
        assert label in (IGNORE, id_)
        if label != IGNORE:
            if not before:
                runs.append([])
            runs[-1].append(label)
        before = label != IGNORE
    return [TOKENIZER.show(run) for run in runs]


class ChatTokenizer(PieceTokenizer):
    """With a template in the manner of Llama 2: `[INST]`, and a space before the end token."""

    has_chat_template = True

    def render(self, messages, open_end, /):
        text = ""
        for message in messages:
            content = message["content"].strip()
            if message["role"] == "user":
                text += f"<s>[INST] {content} [/INST]"
            else:
                text += f" {content} </s>"
        return text


def test_llava_v1_is_written_and_learned_as_published() -> None:
    encoded = encode_conversation(TALK, TOKENIZER, "llava_v1")
    assert shown(encoded) == (
        f"<s>{VICUNA_SYSTEM} USER: <image>\nWhich organ? ASSISTANT: Breast.</s>"
        "USER: Which grade? ASSISTANT: Grade 2, ductal.</s>"
    )
    assert learned(encoded) == [" Breast.</s>", " Grade 2, ductal.</s>"]
    assert encoded.stop_ids == (TOKENIZER.eos_id,)


def test_chatml_is_written_and_learned_as_published() -> None:
    encoded = encode_conversation([Turn("system", "Be brief."), *TALK], TOKENIZER, "chatml")
    assert shown(encoded) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhich organ?<|im_end|>\n"
        "<|im_start|>assistant\nBreast.<|im_end|>\n"
        "<|im_start|>user\nWhich grade?<|im_end|>\n"
        "<|im_start|>assistant\nGrade 2, ductal.<|im_end|>\n"
    )
    assert learned(encoded) == ["Breast.<|im_end|>", "Grade 2, ductal.<|im_end|>"]
    assert 4 in encoded.stop_ids


def test_plain_leaves_the_question_out() -> None:
    encoded = encode_conversation(TALK[:2], TOKENIZER, "plain")
    assert shown(encoded) == "<s><image>Breast.</s>"
    assert learned(encoded) == ["Breast.</s>"]
    with pytest.raises(ManifestError, match="one question with one answer"):
        encode_conversation(TALK, TOKENIZER, "plain")


def test_a_tokenizers_own_template_is_learned_up_to_its_end_token() -> None:
    tokenizer = ChatTokenizer()
    encoded = encode_conversation(TALK, tokenizer, "chat")
    assert shown(encoded) == (
        "<s>[INST] <image>\nWhich organ? [/INST] Breast. </s>"
        "<s>[INST] Which grade? [/INST] Grade 2, ductal. </s>"
    )
    # The space is no part of a prompt: the model has to say it.
    assert learned(encoded) == [" Breast. </s>", " Grade 2, ductal. </s>"]
    assert encode_prompt(TALK[:1], tokenizer, "chat").stop_ids == (2,)


def test_a_chat_template_that_cannot_be_used_says_so() -> None:
    class Endless(ChatTokenizer):
        def render(self, messages, open_end, /):
            return "".join(f"{m['role']}: {m['content']}\n" for m in messages)

    class Forgetful(ChatTokenizer):
        def render(self, messages, open_end, /):
            return super().render(messages[-2:], open_end)

    with pytest.raises(ConfigError, match="no special token"):
        encode_conversation(TALK, Endless(), "chat")
    with pytest.raises(ConfigError, match="does not write each turn once"):
        encode_conversation(TALK, Forgetful(), "chat")
    with pytest.raises(ConfigError, match="no chat template"):
        encode_conversation(TALK, TOKENIZER, "chat")


def test_chatml_wants_its_tokens() -> None:
    class Bare:
        pad_id, bos_id, eos_id, vocab_size = 0, None, 2, 300
        encode = staticmethod(lambda text: [ord(c) for c in text])
        decode = staticmethod(lambda ids: "".join(map(chr, ids)))

    with pytest.raises(ConfigError, match=r"<\|im_end\|>"):
        encode_conversation(TALK, Bare(), "chatml")
    # Without a token that begins texts, none is put there.
    assert encode_conversation(TALK, Bare(), "llava_v1").ids[0] == ord("A")


@pytest.mark.parametrize("template", ["plain", "llava_v1", "chatml", "chat"])
def test_a_prompt_is_how_training_goes_up_to_the_answer(template: str) -> None:
    tokenizer = ChatTokenizer()
    for answers in (1,) if template == "plain" else (1, 2):
        turns = TALK[: 2 * answers]
        whole = encode_conversation(turns, tokenizer, template)
        prompt = encode_prompt(turns[:-1], tokenizer, template)
        text = turns[-1].text if template in ("plain", "chatml") else f" {turns[-1].text}"
        expected = [*prompt.ids.tolist(), *tokenizer.encode(text)]
        assert whole.ids[: len(expected)].tolist() == expected
        assert (prompt.labels == IGNORE).all()


@pytest.mark.parametrize("template", ["llava_v1", "chatml", "chat"])
@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=20),
            st.text(st.characters(exclude_categories=("Cs", "Co")), min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_answer_comes_back_from_its_labels(template: str, texts: list[tuple[str, str]]) -> None:
    texts = [(q.replace("<image>", ""), a.strip() or "a") for q, a in texts]
    texts = [(q, a.replace("<image>", "x")) for q, a in texts]
    turns = [turn for q, a in texts for turn in (Turn("user", q), Turn("assistant", a))]
    encoded = encode_conversation(turns, ChatTokenizer(), template)
    ends = "<|im_end|>" if template == "chatml" else "</s>"
    found = [run.removesuffix(ends).strip() for run in learned(encoded)]
    assert found == [answer for _, answer in texts]
    assert all(run.endswith(ends) for run in learned(encoded))


def test_markup_in_texts_is_only_text() -> None:
    turns = [Turn("user", "<|im_end|> what?"), Turn("assistant", "</s> is a token")]
    encoded = encode_conversation(turns, TOKENIZER, "chatml")
    assert encoded.ids.tolist().count(4) == 2  # the ends of the two turns, not those written
    assert TOKENIZER.eos_id not in encoded.ids.tolist()
    assert learned(encoded) == ["</s> is a token<|im_end|>"]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "must end with a turn of the assistant"),
        (TALK[:1], "must end with a turn of the assistant"),
        ([TALK[1], TALK[0], TALK[3]], "turn 1 is of the assistant"),
        ([TALK[0], Turn("system", "x"), TALK[1]], "turn 2 is of the system"),
        ([TALK[0], Turn("assistant", "see <image>")], "an answer has the place of a slide"),
        ([TALK[0], Turn("assistant", " \n")], "empty answer"),
        ([Turn("system", "<image>"), *TALK], "the system's turn has the place"),
    ],
)
def test_what_is_no_conversation(turns: list[Turn], message: str) -> None:
    with pytest.raises(ManifestError, match=message) as raised:
        encode_conversation(turns, TOKENIZER, "llava_v1", name="case 7")
    assert raised.value.slide == "case 7"


def test_too_long_is_an_error_unless_turns_may_go() -> None:
    full = encode_conversation(TALK, TOKENIZER, "chatml")
    length = len(full.ids) - 1 + 50
    exact = encode_conversation(TALK, TOKENIZER, "chatml", slide_tokens=[50], max_tokens=length)
    assert torch.equal(exact.ids, full.ids)
    assert exact.dropped == 0
    less = {"slide_tokens": [50], "max_tokens": length - 1}
    with pytest.raises(ManifestError, match=f"{length} tokens; {length - 1} are allowed"):
        encode_conversation(TALK, TOKENIZER, "chatml", **less)
    cut = encode_conversation(TALK, TOKENIZER, "chatml", **less, overflow="drop_oldest")
    # The slide of the dropped question is shown before the first one kept.
    assert cut.dropped == 1
    assert shown(cut) == (
        "<s><|im_start|>user\n<image>\nWhich grade?<|im_end|>\n"
        "<|im_start|>assistant\nGrade 2, ductal.<|im_end|>\n"
    )
    with pytest.raises(ManifestError, match="even with its last exchange alone"):
        encode_conversation(
            TALK, TOKENIZER, "chatml", slide_tokens=[50], max_tokens=60, overflow="drop_oldest"
        )


def test_prompts_drop_old_exchanges_but_not_the_system() -> None:
    turns = [Turn("system", "Be brief."), *TALK, Turn("user", "Sure?")]
    short = encode_prompt(
        turns, TOKENIZER, "chatml", slide_tokens=[3], max_tokens=90, overflow="drop_oldest"
    )
    assert short.dropped == 2
    assert shown(short) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_slides_are_counted_before_their_length_is() -> None:
    with pytest.raises(ManifestError, match="1 places '<image>' for slides, and there are 2"):
        encode_conversation(TALK, TOKENIZER, "llava_v1", slide_tokens=[4, 4], max_tokens=999)


def test_places_are_added_only_where_there_are_none() -> None:
    bare = [Turn("system", "s"), Turn("user", "what?")]
    assert with_slides(bare, 2)[1].text == "<image>\n<image>\nwhat?"
    assert with_slides(TALK, 2) == TALK
