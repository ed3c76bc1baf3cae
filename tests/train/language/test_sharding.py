"""A language model that is spread over two processes learns as one that is not."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.language.assistants import bag_of, samples, write_set
from tests.train.language.spread import STEPS, TOKENIZER, learner_of, run
from tests.train.language.test_instruct import training
from wsiprep.core.errors import ConfigError, PluginUnavailableError
from wsiprep.models import pack
from wsiprep.models.assistant_parts import AssistantParts
from wsiprep.models.language import Decoding
from wsiprep.train.language import sharding
from wsiprep.train.language.assistant_checkpoint import load_assistant
from wsiprep.train.language.checkpoint import locate, read_weights
from wsiprep.train.language.conversations import question_of
from wsiprep.train.language.instruct import prepare_assistant
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.sharding import blocks_of, shard

ROOT = Path(__file__).parents[3]
ALONE = Processes(0, 1, torch.device("cpu"))
UNEVEN = {"batch_size": 3, "micro": 1}
"""Of two processes the one has one micro-batch a step, and the other two."""


def two(out: Path, **job: Any) -> list[dict[str, Any]]:
    """What two processes tell of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip
    said = json.dumps({"out": str(out), **UNEVEN, **job})
    command = [sys.executable, "-m", "tests.train.language.spread", said]
    ranks = [{**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    started = [subprocess.Popen(command, env=one, cwd=ROOT) for one in ranks]
    try:
        assert [process.wait(540) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [json.loads((out / f"facts-{rank}.json").read_text()) for rank in range(2)]


def rows_of(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def same(one: Path, two: Path) -> None:
    """Two runs have the same losses, gradients, scores and weights."""
    for first, second in zip(rows_of(one), rows_of(two), strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert value == pytest.approx(second[name], rel=2e-4, abs=1e-7), name
    first_, second_ = (read_weights(locate(out)) for out in (one, two))
    assert first_.keys() == second_.keys()
    for name, weight in first_.items():
        torch.testing.assert_close(weight, second_[name], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_spread_model_learns_as_a_whole_one(tmp_path: Path) -> None:
    facts = two(tmp_path, plain=True, resume=True)
    run(learner_of(None, ALONE, spread=False, **UNEVEN), tmp_path / "one")
    assert len(rows_of(tmp_path / "spread")) == STEPS
    same(tmp_path / "plain", tmp_path / "spread")
    same(tmp_path / "one", tmp_path / "spread")

    whole = 2 * TOKENIZER.vocab_size * 48 + 48  # embeddings, head and the last norm stay whole
    for told in facts:
        assert told["own"] - whole == (told["all"] - whole) / 2
        assert "each process" in told["sizes"]["weights"]
    # The second has moments of its own part alone, the first of what is whole besides.
    assert facts[1]["moments"] == facts[1]["own"] - whole

    ends = [locate(tmp_path / name) / "weights.safetensors" for name in ("spread", "stopped")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "stopped")
    assert all(told["stopped"] for told in facts)
    assert all("other settings" in told["refused"] for told in facts)
    files = {file.name for file in (tmp_path / "stopped").glob("state*")}
    assert files == {"state.pt", f"state-1-{STEPS:06d}.pt"}

    found = load_assistant(tmp_path / "spread", "cpu").model
    shown = found.look(pack([bag_of(0)]).to("cpu", torch.float32))
    asked = [question_of(samples()[0], found.cfg)]
    assert len(found.answer(shown, asked, Decoding(max_new_tokens=4))) == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_adapters_of_a_spread_model_learn_as_those_of_a_whole_one(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    from tests.train.language.test_instruct_hf import make_llm, parts_with

    llm = make_llm(tmp_path / "llm", seed=0)
    # Frozen weights in bfloat16 beside adapters in float32, computed twice.
    options = {"dtype": "bfloat16", "activation_checkpointing": True, "lora_dropout": 0.0}
    values = parts_with(llm, "lora", **options).model_dump(mode="json")
    facts = two(tmp_path, parts=values)
    parts = AssistantParts.model_validate(values)
    run(learner_of(parts, ALONE, spread=False, **UNEVEN), tmp_path / "one")
    for one, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "spread"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)  # bfloat16 rounds
    assert facts[0]["own"] < 0.8 * facts[0]["all"]
    folders = [locate(tmp_path / name) / "adapter" for name in ("one", "spread")]
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    assert adapters[0].keys() == adapters[1].keys()
    assert {name: a.shape for name, a in adapters[0].items()} == {
        name: a.shape for name, a in adapters[1].items()
    }
    own = read_weights(locate(tmp_path / "spread"))
    learned = [v for k, v in own.items() if "lora_B" in k]
    assert any(bool(weight.any()) for weight in learned)
    assert sum(weight.numel() for weight in adapters[1].values()) == sum(
        weight.numel() for name, weight in own.items() if "lora_" in name
    )
    assert load_assistant(tmp_path / "spread", "cpu").parts == parts


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_spread_model_of_bfloat16_learns_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from tests.train.language.test_instruct_hf import make_llm, parts_with

    llm = make_llm(tmp_path / "llm", seed=0)
    values = parts_with(llm, "full", dtype="bfloat16").model_dump(mode="json")
    two(tmp_path, parts=values)
    parts = AssistantParts.model_validate(values)
    run(learner_of(parts, ALONE, spread=False, **UNEVEN), tmp_path / "one")
    for one, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "spread"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)  # bfloat16 rounds
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=3e-2)
    first, second = (read_weights(locate(tmp_path / name)) for name in ("one", "spread"))
    assert {weight.dtype for weight in second.values()} == {torch.float32}
    assert first.keys() == second.keys()
    # Not what bfloat16 could have held.
    block = next(weight for name, weight in second.items() if "q_proj" in name)
    assert not torch.equal(block, block.bfloat16().float())


def test_one_process_has_nobody_to_spread_over(tmp_path: Path) -> None:
    stores, data = write_set(tmp_path)
    with pytest.raises(ConfigError, match="drop --shard"):
        prepare_assistant(training(tmp_path, stores, data, shard=True), "instruct")


def test_blocks_are_the_list_that_holds_most() -> None:
    blocks = [nn.Linear(8, 8) for _ in range(2)]
    model = nn.Module()
    model.small = nn.ModuleList([nn.Linear(4, 4)])
    model.layers = nn.ModuleList(blocks)
    model.head = nn.Linear(8, 8, bias=False)
    assert blocks_of(model) == blocks
    model.head.weight = blocks[0].weight
    with pytest.raises(ConfigError, match="share weights"):
        blocks_of(model)
    with pytest.raises(ConfigError, match="no list of blocks"):
        blocks_of(nn.Linear(2, 2))
    twice = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match="share weights"):
        blocks_of(nn.Sequential(nn.ModuleList([twice, twice])))


def test_an_old_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(module: nn.Module, *, mesh: Any = None) -> None: ...

    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", old)
    with pytest.raises(PluginUnavailableError, match=sharding.NEEDS):
        shard(nn.Linear(2, 2), Processes(0, 2, torch.device("cpu")))
