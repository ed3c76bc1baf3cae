from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.language.fakes import PieceTokenizer
from wsiprep.core.errors import ConfigError, ManifestError, WeightsError
from wsiprep.models import Bag, pack
from wsiprep.models.assistant import Assistant, AssistantConfig
from wsiprep.models.encoders import perceiver
from wsiprep.models.encoders.identity import IdentityEncoder
from wsiprep.models.language import (
    Decoding,
    Projector,
    ProjectorConfig,
    TinyConfig,
    TinyLanguageModel,
    Turn,
)
from wsiprep.models.language.templates import VICUNA_SYSTEM
from wsiprep.testing.slide_encoder import store_order

WIDTH = 24
SLIDES = 8
STEPS = 60
DECODING = Decoding(max_new_tokens=24)
QUESTIONS = ("Which organ?", "Is it malignant?")
ORGANS = ("colon", "lung", "kidney", "breast")
# Each question's answers are shared by equally many slides, and by other slides than the other's.
FACTS = [(ORGANS[k % 4], ("Yes, it is.", "No.")[k // 4]) for k in range(SLIDES)]
PROMPT = AssistantConfig().caption_prompt
SAID = (" USER:", " ASSISTANT:", VICUNA_SYSTEM, PROMPT)
TOKENIZER = PieceTokenizer([*SAID, *QUESTIONS, *(word for fact in FACTS for word in fact)])


def slide_of(number: int, patches: int = 12) -> Bag:
    """A slide whose patches point in a direction of its own, with noise."""
    generator = torch.Generator().manual_seed(number)
    features = 0.3 * torch.randn(patches, WIDTH, generator=generator)
    features[:, number] += 3
    picked = torch.randperm(1600, generator=generator)[:patches]
    cell = torch.stack([picked // 40, picked % 40], dim=1)
    cell = cell[store_order(cell)]
    return Bag(features, cell, torch.zeros(patches, dtype=torch.int64))


def assistant(
    cfg: AssistantConfig | None = None,
    slides: nn.Module | None = None,
    kind: str = "mlp2",
    width: int = 64,
    **tiny: object,
) -> Assistant:
    tiny_cfg = TinyConfig.model_validate({"width": width, "layers": 2, "heads": 4, **tiny})
    language = TinyLanguageModel(tiny_cfg, TOKENIZER)
    encoder = slides if slides is not None else IdentityEncoder(WIDTH)
    dim = int(encoder.dim)  # type: ignore[arg-type]
    resampler = {"resampler_width": 32, "resampler_heads": 2, "queries": 4}
    projector = ProjectorConfig.model_validate({"projector": kind, **resampler})
    return Assistant(
        encoder, Projector(projector, dim, width), language, cfg or AssistantConfig(max_tokens=200)
    )


def small_perceiver() -> nn.Module:
    torch.manual_seed(1)
    return perceiver.create(perceiver.Config(dim=16, latents=5, heads=2), WIDTH)


def asked(question: str) -> list[Turn]:
    return [Turn("user", question)]


def exchange(question: str, said: str) -> list[Turn]:
    return [Turn("user", question), Turn("assistant", said)]


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


def test_an_empty_bag_is_an_empty_slide() -> None:
    model = assistant()
    nothing = slide_of(0, patches=0)
    out = model(pack([nothing, slide_of(1)]), [exchange(QUESTIONS[0], "colon")] * 2)
    assert torch.isfinite(out.loss)
    shown = model.look(pack([nothing]))
    assert model.caption(shown, DECODING) == model.caption([model.nothing()], DECODING)


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


def test_widths_must_fit() -> None:
    language = TinyLanguageModel(TinyConfig(width=32, heads=4, layers=1), TOKENIZER)
    with pytest.raises(ConfigError, match=r"width 48.*takes 32"):
        Assistant(
            IdentityEncoder(WIDTH),
            Projector(ProjectorConfig(), WIDTH, 48),
            language,
            AssistantConfig(),
        )
