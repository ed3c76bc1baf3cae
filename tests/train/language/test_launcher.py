"""What `accelerate launch` was asked for is done, or refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.train.language.assistants import write_set
from tests.train.language.test_instruct import training
from wsiprep.core.errors import ConfigError
from wsiprep.train.language.align import prepare_align
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.instruct import prepare_assistant
from wsiprep.train.language.launcher import check_launcher

PLAIN = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_DEBUG_MODE": "true",
    "ACCELERATE_CPU_AFFINITY": "1",
}
CUTS = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")


@pytest.fixture(autouse=True)
def plainly_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("sharded", [None, False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_processes_alone_are_taken_from_it(
    precision: Literal["fp32", "bf16"], sharded: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_launcher(precision, "cuda", sharded=sharded)
    for name in PLAIN:  # as torchrun, which sets none of them
        monkeypatch.delenv(name)
    check_launcher(precision, "cuda", sharded=sharded)


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
@pytest.mark.parametrize("name", CUTS)
def test_a_model_is_not_spread_by_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = f"--use_{name.lower()}"
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", value)
    for sharded, ours in ((False, "Give --shard"), (True, "--shard of"), (None, "micro_batch")):
        with pytest.raises(ConfigError, match=flag) as raised:
            check_launcher("fp32", "cpu", sharded=sharded)
        assert f"ACCELERATE_USE_{name}" in str(raised.value)
        assert "--multi_gpu" in str(raised.value.hint)
        assert ours in str(raised.value.hint)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "false")
    check_launcher("fp32", "cpu", sharded=False)


@pytest.mark.parametrize(
    ("variable", "value", "device", "said", "hint"),
    [
        ("MIXED_PRECISION", "bf16", "cpu", "--mixed_precision bf16", "--precision bf16"),
        ("MIXED_PRECISION", "fp16", "cpu", "--mixed_precision fp16", "--mixed_precision no"),
        ("MIXED_PRECISION", "fp8", "cpu", "--mixed_precision fp8", "--mixed_precision no"),
        ("DYNAMO_BACKEND", "INDUCTOR", "cpu", "--dynamo_backend inductor", "--dynamo_backend no"),
        ("USE_CPU", "True", "cuda", "--cpu", "--device cpu"),
    ],
)
def test_what_this_training_would_not_do_is_refused(
    variable: str, value: str, device: str, said: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with pytest.raises(ConfigError, match=said) as raised:
        check_launcher("fp32", device, sharded=False)
    assert hint in str(raised.value.hint)


def test_what_both_ask_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_launcher("bf16", "cuda", sharded=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError):
        check_launcher("bf16", "cuda", sharded=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_launcher("bf16", "cpu", sharded=True)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("command", ["caption", "instruct"])
def test_assistants_are_refused_before_anything_is_read(
    command: Literal["caption", "instruct"],
    shard: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    cfg = training(tmp_path, tmp_path, tmp_path / "no.jsonl", shard=shard)
    with pytest.raises(ConfigError, match="--use_fsdp") as raised:
        prepare_assistant(cfg, command)
    assert "--shard" in str(raised.value.hint)


def test_align_is_refused_and_said_to_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, data = write_set(tmp_path)
    cfg = LanguageTraining(data=data, stores=stores, output=tmp_path / "out", device="cpu")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="--use_fsdp") as raised:
        prepare_align(cfg)
    assert "whole on every process" in str(raised.value.hint)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="--mixed_precision bf16"):
        prepare_align(cfg)


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ([], None),
        (["--mixed_precision=no"], None),
        (["--mixed_precision=bf16"], "--mixed_precision bf16"),
        (["--use_fsdp", "--mixed_precision=bf16"], "--use_fsdp"),
        (["--use_megatron_lm"], "--use_megatron_lm"),
        (["--dynamo_backend=inductor"], "--dynamo_backend inductor"),
    ],
)
def test_accelerate_says_it_by_these_variables(
    flags: list[str], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--num_machines=1", "--num_processes=2", "--num_cpu_threads_per_process=1", *flags]
    defaults = [] if any("dynamo" in flag for flag in flags) else ["--dynamo_backend=no"]
    if not any("precision" in flag for flag in flags):
        defaults.append("--mixed_precision=no")
    args: Any = launch_command_parser().parse_args([*given, *defaults, "script.py"])
    for name, value in prepare_multi_gpu_env(args).items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, value)
    if refused is None:
        check_launcher("fp32", "cuda", sharded=False)
        return
    with pytest.raises(ConfigError, match=re.escape(refused)):
        check_launcher("fp32", "cuda", sharded=False)
