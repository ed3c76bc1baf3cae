"""An assistant learns what slides show, and says it."""

from __future__ import annotations

import pytest
import torch

from tests.models.assistants import (
    DECODING,
    FACTS,
    ORGANS,
    QUESTIONS,
    SLIDES,
    TOKENIZER,
    WIDTH,
    asked,
    assistant,
    exchange,
    slide_of,
    small_perceiver,
)
from wsiprep.core.errors import ConfigError, WeightsError
from wsiprep.models import Bag, pack
from wsiprep.models.assistant import Assistant, AssistantConfig
from wsiprep.models.encoders.identity import IdentityEncoder
from wsiprep.models.language import Projector, ProjectorConfig, TinyConfig, TinyLanguageModel

STEPS = 60


@pytest.fixture(scope="module")
def trained() -> Assistant:
    """An assistant that has learned 16 questions on 8 slides, from nothing."""
    model = assistant()
    bags = pack([slide_of(number) for number in range(SLIDES)])
    talks = [exchange(q, fact) for q, k in ((0, 0), (1, 1)) for q, fact in _facts(q, k)]
    of = [*range(SLIDES), *range(SLIDES)]
    weights = [w for part in model.learning().values() for w in part]
    optimiser = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
    model.train()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 15)
        optimiser.zero_grad()
        model(bags, talks, of=of).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    return model.eval()


def _facts(question: int, column: int) -> list[tuple[str, str]]:
    return [(QUESTIONS[question], fact[column]) for fact in FACTS]


def answers(model: Assistant, slides: list[int], column: int) -> list[str]:
    shown = model.look(pack([slide_of(number) for number in slides]))
    return model.answer(shown, [asked(QUESTIONS[column])] * len(slides), DECODING)


@pytest.mark.parametrize("column", [0, 1])
def test_it_learns_sixteen_questions(trained: Assistant, column: int) -> None:
    said = answers(trained, list(range(SLIDES)), column)
    assert said == [fact[column] for fact in FACTS]


@pytest.mark.parametrize("column", [0, 1])
def test_answers_follow_the_slide_when_slides_are_swapped(trained: Assistant, column: int) -> None:
    swapped = [(number + 3) % SLIDES for number in range(SLIDES)]
    mirrored = list(reversed(swapped))
    for order in (swapped, mirrored):
        assert answers(trained, order, column) == [FACTS[number][column] for number in order]


def test_what_is_shown_decides_alone(trained: Assistant) -> None:
    # Patches of slide 5 under the cells of slide 2: the answer is that of the patches.
    five, two = slide_of(5), slide_of(2)
    shown = trained.look(pack([Bag(five.features, two.cell, two.slide)]))
    assert trained.answer(shown, [asked(QUESTIONS[0])], DECODING) == [FACTS[5][0]]


@pytest.mark.parametrize(("column", "majority"), [(0, 0.25), (1, 0.5)])
def test_blind_it_is_no_better_than_the_commonest_answer(
    trained: Assistant, column: int, majority: float
) -> None:
    blind = [trained.nothing()] * SLIDES
    said = trained.answer(blind, [asked(QUESTIONS[column])] * SLIDES, DECODING)
    right = sum(a == fact[column] for a, fact in zip(said, FACTS, strict=True)) / SLIDES
    assert right <= majority


def test_options_are_chosen_by_likelihood(trained: Assistant) -> None:
    shown = trained.look(pack([slide_of(number) for number in range(SLIDES)]))
    chosen = [trained.score(part, asked(QUESTIONS[0]), ORGANS).best() for part in shown]
    assert [ORGANS[k] for k in chosen] == [fact[0] for fact in FACTS]
    blind = trained.score(trained.nothing(), asked(QUESTIONS[0]), ORGANS)
    seen = trained.score(shown[0], asked(QUESTIONS[0]), ORGANS)
    assert not torch.allclose(blind.total, seen.total)


def test_a_blind_model_learns_no_more_than_the_majority() -> None:
    model = assistant()
    talks = [exchange(*fact) for fact in _facts(0, 0)]
    weights = [w for part in model.learning().values() for w in part]
    optimiser = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
    for _ in range(40):
        optimiser.zero_grad()
        out = model(None, talks)
        out.loss.backward()
        optimiser.step()
    # Four organs, equally many slides each: no less than ln 4 nats an answer.
    per_answer = float(out.loss.detach() * out.tokens) / SLIDES
    assert torch.log(torch.tensor(4.0)) - 0.02 < per_answer < 3.0
    said = model.answer([model.nothing()] * SLIDES, [asked(QUESTIONS[0])] * SLIDES, DECODING)
    assert len(set(said)) == 1


def test_the_loss_is_the_mean_over_learned_tokens() -> None:
    model = assistant()
    bags = pack([slide_of(0), slide_of(1)])
    talks = [exchange(QUESTIONS[0], "colon"), exchange(QUESTIONS[1], "Yes, it is.")]
    both = model(bags, talks)
    parts = [model(pack([slide_of(k)]), [talks[k]]) for k in range(2)]
    assert int(both.tokens) == sum(int(part.tokens) for part in parts)
    total = sum(float(part.loss.detach()) * int(part.tokens) for part in parts)
    assert float(both.loss.detach()) == pytest.approx(total / int(both.tokens), rel=1e-5)
    assert both.read == sum(part.read for part in parts)


def test_conversations_may_be_of_one_bag_in_any_order() -> None:
    model = assistant()
    talks = [exchange(QUESTIONS[k % 2], "colon") for k in range(3)]
    shared = model(pack([slide_of(0), slide_of(1)]), talks, of=[1, 0, 1])
    alone = model(pack([slide_of(1), slide_of(0), slide_of(1)]), talks)
    torch.testing.assert_close(shared.loss, alone.loss)
    other = model(pack([slide_of(0), slide_of(1)]), talks, of=[0, 1, 0])
    assert not torch.allclose(shared.loss, other.loss)
    with pytest.raises(ValueError, match="bags"):
        model(pack([slide_of(0)]), talks, of=[0, 1, 0])


def test_only_what_is_meant_to_learn_has_gradients() -> None:
    for cfg, parts in (
        (AssistantConfig(), {"projector", "language"}),
        (AssistantConfig(slides_learn=True), {"slides", "projector", "language"}),
        (AssistantConfig(projector_learns=False), {"language"}),
    ):
        model = assistant(cfg, small_perceiver()).train()
        model(pack([slide_of(0)]), [exchange(QUESTIONS[0], "colon")]).loss.backward()
        assert set(model.learning()) == parts
        for name in ("slides", "projector", "language"):
            grown = [p.grad is not None for p in getattr(model, name).parameters()]
            assert any(grown) == (name in parts)
    frozen = assistant(None, small_perceiver(), tuning="frozen").train()
    assert set(frozen.learning()) == {"projector"}
    frozen(pack([slide_of(0)]), [exchange(QUESTIONS[0], "colon")]).loss.backward()
    assert all(p.grad is not None for p in frozen.projector.parameters())


def test_a_frozen_encoder_does_not_drop_out() -> None:
    frozen = assistant(None, small_perceiver()).train()
    bags = pack([slide_of(0)])
    assert torch.equal(frozen.show(bags).embeds, frozen.show(bags).embeds)
    assert frozen.language.training
    learning = assistant(AssistantConfig(slides_learn=True), small_perceiver()).train()
    assert not torch.equal(learning.show(bags).embeds, learning.show(bags).embeds)
    before = learning.look(bags)[0]
    assert torch.equal(before, learning.look(bags)[0])
    assert learning.training


@pytest.mark.parametrize("kind", ["linear", "mlp2", "resampler"])
def test_its_state_is_all_of_it(kind: str) -> None:
    one = assistant(None, small_perceiver(), kind, seed=1).eval()
    other = assistant(None, small_perceiver(), kind, seed=2).eval()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    bags, talk = pack([slide_of(0)]), [exchange(QUESTIONS[0], "colon")]
    assert not torch.equal(one(bags, talk).loss, other(bags, talk).loss)
    state = one.trainable_state()
    other.load_trainable(state)
    assert torch.equal(one(bags, talk).loss, other(bags, talk).loss)
    missing = next(name for name in state if name.startswith("projector."))
    del state[missing]
    with pytest.raises(WeightsError, match="missing"):
        other.load_trainable(state)


def test_an_empty_bag_is_an_empty_slide() -> None:
    model = assistant()
    nothing = slide_of(0, patches=0)
    out = model(pack([nothing, slide_of(1)]), [exchange(QUESTIONS[0], "colon")] * 2)
    assert torch.isfinite(out.loss)
    shown = model.look(pack([nothing]))
    assert model.caption(shown, DECODING) == model.caption([model.nothing()], DECODING)


def test_widths_must_fit() -> None:
    language = TinyLanguageModel(TinyConfig(width=32, heads=4, layers=1), TOKENIZER)
    with pytest.raises(ConfigError, match=r"width 48.*takes 32"):
        Assistant(
            IdentityEncoder(WIDTH),
            Projector(ProjectorConfig(), WIDTH, 48),
            language,
            AssistantConfig(),
        )
