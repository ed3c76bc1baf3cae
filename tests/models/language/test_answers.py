from __future__ import annotations

import random

import pytest
import torch

from tests.models.language.fakes import PieceTokenizer, small_model
from wsiprep.core.errors import ManifestError
from wsiprep.models.language import (
    Decoding,
    Projector,
    ProjectorConfig,
    TinyConfig,
    TinyLanguageModel,
    Turn,
    answer,
    encode_conversation,
    encode_prompt,
    score_options,
    splice_slides,
)

TOKENIZER = PieceTokenizer()
MODEL = small_model(TOKENIZER).requires_grad_(False)
SLIDE = torch.randn(4, MODEL.width, generator=torch.Generator().manual_seed(1))
ASKED = [Turn("user", "<image>\nWhich?"), Turn("assistant", "This."), Turn("user", "Sure?")]


@pytest.mark.parametrize("with_end", [False, True])
def test_options_score_what_they_are_likely_token_by_token(with_end: bool) -> None:
    options = ["A", "B lobular", "A ductal carcinoma"]
    scores = score_options(
        MODEL, ASKED, options, [SLIDE], template="llava_v1", with_end=with_end, batch=2
    )
    prompt = encode_prompt(ASKED, TOKENIZER, "llava_v1")
    begin = splice_slides(MODEL, [prompt], [[SLIDE]]).inputs_embeds
    for index, option in enumerate(options):
        ids = TOKENIZER.encode(f" {option}") + [TOKENIZER.eos_id] * with_end
        total = 0.0
        for step, token in enumerate(ids):
            whole = torch.cat([begin, MODEL.embed(torch.tensor([ids[:step]]).long())], dim=1)
            out = MODEL(whole, torch.ones(whole.shape[:2], dtype=torch.bool))
            total += float(out.logits[0, -1].log_softmax(-1)[token])
        assert float(scores.total[index]) == pytest.approx(total, rel=1e-4)
        assert int(scores.tokens[index]) == len(ids)
        assert float(scores.per_token[index]) == pytest.approx(total / len(ids), rel=1e-4)
    assert scores.best(normalised=False) == int(scores.total.argmax())
    assert scores.best() == int((scores.total / scores.tokens).argmax())


@pytest.mark.parametrize("template", ["chatml", "llava_v1"])
def test_options_do_not_depend_on_what_they_are_scored_with(template: str) -> None:
    options = ["A", "much longer than the others", "C"]
    together = score_options(MODEL, ASKED, options, [SLIDE], template=template)
    for index, option in enumerate(options):
        alone = score_options(MODEL, ASKED, [option], [SLIDE], template=template)
        torch.testing.assert_close(together.total[index], alone.total[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ManifestError, match="no options"):
        score_options(MODEL, ASKED, [], [SLIDE], template=template)


def test_a_slide_is_read_once_for_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    forward = TinyLanguageModel.forward

    def counted(self, inputs_embeds, *args, **kwargs):
        read.append(inputs_embeds.shape[0] * inputs_embeds.shape[1])
        return forward(self, inputs_embeds, *args, **kwargs)

    monkeypatch.setattr(TinyLanguageModel, "forward", counted)
    slide = torch.randn(500, MODEL.width, generator=torch.Generator().manual_seed(2))
    options = ["A", "B", "A lobular", "C", "D"]
    scores = score_options(MODEL, ASKED, options, [slide], template="llava_v1", batch=2)
    assert sum(read) < 2 * 500
    monkeypatch.undo()
    for index, option in enumerate(options):  # one alone is read in one pass
        alone = score_options(MODEL, ASKED, [option], [slide], template="llava_v1")
        torch.testing.assert_close(scores.total[index], alone.total[0], rtol=1e-4, atol=1e-4)


def test_questions_answered_together_are_answered_as_alone() -> None:
    talks = [ASKED, ASKED[:1], [Turn("user", "A long question about no slide at all?")]]
    slides = [[SLIDE], [SLIDE[:1]], []]
    rules = Decoding(max_new_tokens=10)
    asked = {"template": "llava_v1", "decoding": rules}
    together = answer(MODEL, talks, slides, **asked)
    alone = [
        answer(MODEL, [talk], [shown], **asked)[0]
        for talk, shown in zip(talks, slides, strict=True)
    ]
    assert together == alone
    assert len(set(together)) == 3


QUESTIONS = ("<image>\nWhich tissue is seen?", "<image>\nHow many foci are there?")
ANSWERS = (
    ("ductal carcinoma", "lobular carcinoma", "normal glands", "fat and stroma"),
    ("no focus", "a single focus", "two foci", "many foci"),
)


def cases() -> tuple[list[tuple[str, str, int]], list[torch.Tensor]]:
    """16 questions (question, answer, slide) on 8 slides of 5 tokens (5, 24).

    Each answer is that of two slides, and which tissue says nothing about how many foci.
    """
    generator = torch.Generator().manual_seed(5)
    concepts = torch.randn(2, 4, 24, generator=generator)
    slides, asked = [], []
    for slide in range(8):
        facts = (slide % 4, (slide // 2 + slide) % 4)
        tokens = 0.3 * torch.randn(5, 24, generator=generator)
        tokens[1] += concepts[0, facts[0]]
        tokens[3] += concepts[1, facts[1]]
        slides.append(tokens)
        asked += [(QUESTIONS[q], ANSWERS[q][facts[q]], slide) for q in range(2)]
    return asked, slides


def trained(
    asked: list[tuple[str, str, int]], slides: list[torch.Tensor], steps: int
) -> tuple[TinyLanguageModel, Projector]:
    texts = [*QUESTIONS, *(text for row in ANSWERS for text in row), "user assistant"]
    tokenizer = PieceTokenizer([*texts, "assistant"])
    model = TinyLanguageModel(TinyConfig(width=64, layers=2, heads=4, hidden=128), tokenizer)
    projector = Projector(ProjectorConfig(projector="mlp2"), 24, 64)
    learning = torch.optim.AdamW([*model.parameters(), *projector.parameters()], lr=3e-3)
    encoded = [
        encode_conversation([Turn("user", q), Turn("assistant", a)], tokenizer, "chatml")
        for q, a, _ in asked
    ]
    starts = torch.arange(len(slides) + 1) * 5
    for _ in range(steps):
        shown = projector(torch.cat(slides), starts).split()
        batch = splice_slides(model, encoded, [[shown[slide]] for _, _, slide in asked])
        out = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels)
        learning.zero_grad()
        out.loss.backward()
        learning.step()
    return model, projector


def said(
    model: TinyLanguageModel,
    projector: Projector,
    asked: list[tuple[str, str, int]],
    slides: list[torch.Tensor],
) -> list[str]:
    shown = projector(torch.cat(slides), torch.arange(len(slides) + 1) * 5).split()
    return answer(
        model,
        [[Turn("user", q)] for q, _, _ in asked],
        [[shown[slide]] for _, _, slide in asked],
        template="chatml",
        decoding=Decoding(max_new_tokens=8),
    )


def test_sixteen_questions_are_learned_and_the_answers_follow_the_slide() -> None:
    asked, slides = cases()
    model, projector = trained(asked, slides, steps=120)
    assert said(model, projector, asked, slides) == [a for _, a, _ in asked]
    # The same questions over each other slide: the answer is that of the slide shown.
    right = {(q, slide): a for q, a, slide in asked}
    order = list(range(8))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        swapped = [(q, right[q, order[slide]], slide) for q, _, slide in asked]
        found = said(model, projector, swapped, [slides[index] for index in order])
        assert found == [a for _, a, _ in swapped]
    # Options are told apart as well, and by the same evidence.
    shown = projector(torch.cat(slides), torch.arange(9) * 5).split()
    for question, right_answer, slide in asked:
        options = ANSWERS[QUESTIONS.index(question)]
        scores = score_options(
            model, [Turn("user", question)], options, [shown[slide].detach()], template="chatml"
        )
        assert options[scores.best()] == right_answer
        assert options[scores.best(normalised=False)] == right_answer


def test_without_slides_nothing_is_learned_but_the_majority() -> None:
    asked, slides = cases()
    blank = [torch.zeros_like(slide) for slide in slides]
    model, projector = trained(asked, blank, steps=120)
    found = said(model, projector, asked, blank)
    # Each answer is right for 2 of 8 slides, so a model that sees nothing is right for 4 of 16.
    assert sum(one == a for one, (_, a, _) in zip(found, asked, strict=True)) <= 4
    assert set(found) <= {text for row in ANSWERS for text in row}
