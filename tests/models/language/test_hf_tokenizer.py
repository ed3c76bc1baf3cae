"""Tokenizers of the transformers library."""

from __future__ import annotations

import pytest
import torch

from tests.models.language.made_hf import TALK, make_tokenizer
from wsiprep.core.errors import ConfigError
from wsiprep.models.language import IGNORE, Turn, encode_conversation, encode_prompt
from wsiprep.models.language.hf_tokenizer import HfTokenizer


@pytest.mark.parametrize("spaced", [False, True])
def test_pieces_of_a_text_are_encoded_as_within_it(spaced: bool) -> None:
    tokenizer = HfTokenizer(make_tokenizer(spaced))
    assert tokenizer._adds_space == spaced
    for parts in (["Which organ", " is seen?"], ["No tumour.", "\n", "No"], ["grade", " 2 ü"]):
        ids = [id_ for part in parts for id_ in tokenizer.encode(part)]
        assert tokenizer.decode(ids) == "".join(parts)
    # Special tokens are only read in markup.
    assert len(tokenizer.encode_markup("<|im_end|>")) == 1
    plain = tokenizer.encode("a<|im_end|>")
    assert not set(plain) & tokenizer.special_ids
    assert tokenizer.decode(plain) == "a<|im_end|>"
    assert tokenizer.encode("") == []
    assert tokenizer.pad_id == tokenizer.eos_id
    assert tokenizer.bos_id is None


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("template", ["llava_v1", "chatml", "chat"])
def test_labels_are_the_answers(template: str, spaced: bool) -> None:
    tokenizer = HfTokenizer(make_tokenizer(spaced))
    turns = [*TALK, Turn("user", "Sure?"), Turn("assistant", "Yes, grade 2.")]
    encoded = encode_conversation(turns, tokenizer, template)
    learned = encoded.ids[encoded.labels != IGNORE].tolist()
    end = encoded.stop_ids[0]
    first = learned.index(end)
    assert tokenizer.decode(learned[:first]).strip() == TALK[1].text
    assert tokenizer.decode(learned[first + 1 : -1]).strip() == "Yes, grade 2."
    assert learned[-1] == end
    assert learned.count(end) == 2
    for answered in (1, 2):
        prompt = encode_prompt(turns[: 2 * answered - 1], tokenizer, template)
        assert torch.equal(encoded.ids[: len(prompt.ids)], prompt.ids)
        assert encoded.labels[len(prompt.ids)] != IGNORE


def test_a_template_that_refuses_says_so() -> None:
    raw = make_tokenizer()
    raw.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(ConfigError, match="no system turn"):
        encode_conversation(TALK, HfTokenizer(raw), "chat")
