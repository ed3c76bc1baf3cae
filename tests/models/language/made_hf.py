"""A small Llama with a tokenizer of its own, as the transformers library makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wsiprep.models.language import (
    HfConfig,
    HfLanguageModel,
    Turn,
    encode_conversation,
    load_hf,
    splice_slides,
)

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


TEXTS = ["Which organ is seen?", "Ductal carcinoma of the breast, grade 2.", "No tumour."] * 4
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [Turn("user", "<image>\nWhich organ?"), Turn("assistant", "Breast <|im_end|>, I see.")]


def make_tokenizer(spaced: bool = False) -> Any:
    """Byte-level byte pairs as GPT-2 and Llama 3 have, or words with ▁ as Llama 2 and Vicuna."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    names = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    if spaced:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token=names[0]))
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        raw.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        bytes_ = [f"<0x{value:02X}>" for value in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False)
        raw.train_from_iterator(TEXTS, trainer)
        told = json.loads(raw.to_str())
        for name in bytes_:
            told["model"]["vocab"].setdefault(name, len(told["model"]["vocab"]))
        raw = Tokenizer.from_str(json.dumps(told))
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        raw.train_from_iterator(TEXTS, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=names[1],
        eos_token=names[2],
        additional_special_tokens=names[3:],
    )
    made.chat_template = TEMPLATE
    return made


def load(folder: Path, tuning: str = "frozen", **more: Any) -> HfLanguageModel:
    return load_hf(HfConfig.model_validate({"llm": str(folder), "tuning": tuning, **more}))


def slide(tokens: int = 3) -> torch.Tensor:
    return torch.randn(tokens, 32, generator=torch.Generator().manual_seed(1))


def talk_batch(model: HfLanguageModel) -> Any:
    encoded = [
        encode_conversation(TALK, model.tokenizer, "chat"),
        encode_conversation([Turn("user", "a"), TALK[1]], model.tokenizer, "chat"),
    ]
    return splice_slides(model, encoded, [[slide()], []])


def logits(model: HfLanguageModel) -> torch.Tensor:
    batch = talk_batch(model)
    with torch.no_grad():
        out: torch.Tensor = model(batch.inputs_embeds, batch.attention_mask).logits
    return out[batch.attention_mask]
