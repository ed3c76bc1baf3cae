"""How conversations are put to an assistant: places, length, system, templates."""

from __future__ import annotations

import pytest
import torch

from tests.models.assistants import QUESTIONS, TOKENIZER, asked, assistant, exchange, slide_of
from tests.models.language.fakes import PieceTokenizer
from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.models import Bag, pack
from wsiprep.models.assistant import AssistantConfig
from wsiprep.models.language import Decoding, Turn


def test_a_case_of_several_slides_has_one_place() -> None:
    model = assistant()
    two, three = slide_of(2), slide_of(3)
    both = Bag(
        torch.cat([two.features, three.features]),
        torch.cat([two.cell, three.cell]),
        torch.cat([two.slide, three.slide + 1]),
    )
    out = model(pack([both]), [exchange(QUESTIONS[0], "colon")])
    single = model(pack([two]), [exchange(QUESTIONS[0], "colon")])
    assert out.read == single.read + len(three)
    twice = [exchange("<image> and <image>?", "colon")]
    for max_tokens in (200, None):
        strict = assistant(AssistantConfig(max_tokens=max_tokens))
        with pytest.raises(ManifestError, match=r"case7.*2 places"):
            strict(pack([two]), twice, names=["case7"])


def test_long_conversations() -> None:
    # A hundred exchanges do not fit; those that do are learned, and the slide is still shown.
    talk = [turn for _ in range(100) for turn in exchange(QUESTIONS[0], "colon")]
    model = assistant(AssistantConfig(max_tokens=200))
    out = model(pack([slide_of(0)]), [talk])
    assert out.dropped > 50
    assert out.cut == 0
    assert out.read <= 200
    strict = assistant(AssistantConfig(max_tokens=200, overflow="error"))
    with pytest.raises(ManifestError, match=r"case7.*200 are allowed"):
        strict(pack([slide_of(0)]), [talk], names=["case7"])


def test_long_answers_lose_their_end() -> None:
    bags = pack([slide_of(0)])
    long = "Yes, it is." * 60
    talk = [*exchange(QUESTIONS[0], "colon"), *exchange(QUESTIONS[1], long)]
    whole = assistant(AssistantConfig(max_tokens=None))(bags, [talk])
    model = assistant(AssistantConfig(max_tokens=100))
    out = model(bags, [talk])
    assert (out.read, out.dropped) == (100, 1)
    assert out.cut > 0
    last = assistant(AssistantConfig(max_tokens=None))(bags, [talk[2:]])
    assert out.read + out.cut == last.read < whole.read
    assert int(out.tokens) + out.cut == int(last.tokens)
    # What is left is learned as it was: the loss is that of the first words of the answer.
    start = TOKENIZER.decode(TOKENIZER.encode(f" {long}")[: int(out.tokens)]).strip()
    shown = model.look(bags)[0]
    same = model.score(shown, asked(QUESTIONS[1]), [start], with_end=False)
    assert int(same.tokens) == int(out.tokens)
    torch.testing.assert_close(-same.total[0], (out.loss * out.tokens).detach())
    only = assistant(AssistantConfig(max_tokens=100, overflow="drop_oldest"))
    with pytest.raises(ManifestError, match="100 are allowed"):
        only(bags, [talk])
    none = assistant(AssistantConfig(max_tokens=50))
    with pytest.raises(ManifestError, match=r"case7.*no room for its answer"):
        none(pack([slide_of(0, patches=60)]), [talk], names=["case7"])


def test_the_system_speaks_where_it_is_told_to() -> None:
    silent, told = assistant(), assistant(AssistantConfig(system="Be brief.", max_tokens=300))
    bags, talk = pack([slide_of(0)]), [exchange(QUESTIONS[0], "colon")]
    assert silent(bags, talk).read != told(bags, talk).read
    own = [[Turn("system", "Be long."), *talk[0]]]
    assert told(bags, own).read == silent(bags, own).read


def test_templates() -> None:
    assert assistant().template == "llava_v1"
    plain = assistant(AssistantConfig(template="plain", system="Be brief."))
    one = plain(pack([slide_of(0)]), [exchange(QUESTIONS[0], "colon")])
    other = plain(pack([slide_of(0)]), [exchange("Anything else?", "colon")])
    assert torch.equal(one.loss, other.loss)
    with pytest.raises(ConfigError, match="chat template"):
        assistant(AssistantConfig(template="chat"))


def test_a_blind_model_has_something_to_go_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PieceTokenizer, "bos_id", None)
    model = assistant(AssistantConfig(template="plain"))
    assert model.nothing().shape == (1, 64)
    told = model.caption([model.nothing()] * 2, Decoding(max_new_tokens=3))
    assert told[0] == told[1]
    assert assistant().nothing().shape == (0, 64)
