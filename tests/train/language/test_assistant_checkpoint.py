"""Checkpoints of assistants: what they give back, what they refuse, what begins with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.language.assistants import (
    DIM,
    FEATURES,
    TINY,
    TOKENIZER,
    bag_of,
)
from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError, StoreMismatchError, WeightsError
from wsiprep.models import pack
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.assistant import Assistant
from wsiprep.models.assistant_parts import AssistantParts, make_assistant
from wsiprep.models.language import Turn
from wsiprep.models.sampling import Sampling
from wsiprep.train.language.assistant_checkpoint import (
    load_assistant,
    read_start,
    save_assistant,
)
from wsiprep.train.language.checkpoint import save_aligned


def made(parts: dict[str, Any], seed: int = 3) -> tuple[Assistant, AssistantParts]:
    torch.manual_seed(seed)
    wanted = AssistantParts.model_validate(parts)
    return make_assistant(wanted, DIM, TOKENIZER, seed=seed), wanted


def saved(folder: Path, model: Assistant, parts: AssistantParts) -> Path:
    folder.mkdir()
    save_assistant(folder, model, parts, features=FEATURES, sampling=Sampling(), recipe={})
    return folder


PERCEIVER = {"encoder": "perceiver", "options": {"dim": 16, "latents": 5, "heads": 2}}


def test_a_checkpoint_gives_the_model_back(tmp_path: Path) -> None:
    model, parts = made({"slides": PERCEIVER, "language": TINY})
    random = torch.get_rng_state()
    found = load_assistant(saved(tmp_path / "a", model, parts), "cpu")
    assert torch.equal(torch.get_rng_state(), random)
    assert (found.parts, found.features) == (parts, FEATURES)
    talk = [[Turn("user", "Which organ?"), Turn("assistant", "colon")]]
    bags = pack([bag_of(0)]).to("cpu", torch.float32)
    assert not found.model.training
    assert torch.equal(model.eval()(bags, talk).loss, found.model(bags, talk).loss)


def test_another_language_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", *made({"slides": PERCEIVER, "language": TINY}))
    words = json.loads((folder / "model.json").read_text())
    words["language"]["tokenizer_sha256"] = "0" * 64
    (folder / "model.json").write_text(json.dumps(words))
    with pytest.raises(StoreMismatchError, match="tokenizer_sha256 was 000"):
        load_assistant(folder, "cpu")
    words["kind"] = "aligned"
    (folder / "model.json").write_text(json.dumps(words))
    with pytest.raises(WeightsError, match="what is needed is assistant"):
        load_assistant(folder, "cpu")


def test_it_begins_with_the_encoder_of_an_aligned_model(tmp_path: Path) -> None:
    options = {
        "dim": 16, "queries": 2, "width": 24, "layers": 2, "heads": 2, "hidden": 32,
        "mixer_heads": 2, "mixer_hidden": 16, "mixer_layers": 1,
    }  # fmt: skip
    cfg = AlignedConfig.model_validate(
        {
            "slides": {"encoder": "qformer", "options": options},
            "texts": {"encoder": "shared", "vocabulary": 300},
        }
    )
    torch.manual_seed(5)
    aligned = Aligned(cfg, DIM, TOKENIZER).eval()
    (tmp_path / "a").mkdir()
    save_aligned(tmp_path / "a", aligned, features=FEATURES, sampling=Sampling(), recipe={})
    start = read_start(tmp_path / "a")
    wanted = AssistantParts.model_validate({"language": TINY})
    parts = start.parts(wanted)
    model = make_assistant(parts, DIM, TOKENIZER, seed=9).eval()
    fresh = model.projector.state_dict()
    start.fill(model)
    bags = pack([bag_of(0), bag_of(1)]).to("cpu", torch.float32)
    torch.testing.assert_close(model.slides(bags).tokens, aligned.slides(bags).tokens)
    assert all(torch.equal(v, fresh[k]) for k, v in model.projector.state_dict().items())
    # The language model is shown other tokens of the same encoder.
    queries = {"encoder": "qformer", "options": {"tokens": "queries"}}
    other = start.parts(wanted.model_copy(update={"slides": _side(queries)}))
    assert other.slides is not None
    assert other.slides.options == {**options, "tokens": "queries"}
    with pytest.raises(ConfigError, match="wants the slide encoder 'perceiver'"):
        start.parts(wanted.model_copy(update={"slides": _side(PERCEIVER)}))


def _side(values: dict[str, Any]) -> Settings | None:
    return AssistantParts.model_validate({"slides": values}).slides


def test_a_projector_of_another_language_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", *made({"slides": PERCEIVER, "language": TINY}))
    start = read_start(folder)
    wide = {**TINY, "options": {"width": 64, "layers": 1, "heads": 4}}
    other, _ = made({"slides": PERCEIVER, "language": wide})
    with pytest.raises(StoreMismatchError, match="width was 48 and is 64"):
        start.fill(other)


def test_without_a_slide_encoder_there_is_no_assistant() -> None:
    with pytest.raises(ConfigError, match="no slide encoder"):
        make_assistant(AssistantParts.model_validate({"language": TINY}), DIM, TOKENIZER)
    wrong = {"slides": PERCEIVER, "language": {"kind": "hf"}}
    with pytest.raises(ConfigError, match="llm"):
        make_assistant(AssistantParts.model_validate(wrong), DIM)
