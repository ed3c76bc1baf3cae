"""Models on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer, as transformers saves them."""
    from tests.models.language.made_hf import make_tokenizer, transformers

    path = tmp_path_factory.mktemp("llm") / "small-llama"
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    )
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
