"""`torchrun` and `accelerate launch` start trainings whose processes work as one."""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.train.language.assistants import RECIPE, write_set

PERCEIVER = {"dim": 16, "latents": 3, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
TEXT = {"dim": 16, "layers": 1, "heads": 2, "dropout": 0.0}
ALIGN = {
    "model": {
        "slides": {"encoder": "perceiver", "options": PERCEIVER},
        "texts": {"encoder": "transformer", "options": TEXT},
    },
    "optimisation": {"steps": 2, "batch_size": 4},
}
SPOKEN = {**RECIPE, "optimisation": {**RECIPE["optimisation"], "steps": 2}}
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
                 "--master-port={port}"),
    # --multi_gpu is its name for processes of one machine that meet by themselves, GPUs or not.
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
                   "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
                   "--main_process_port={port}"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", ["align", "caption", "instruct"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_that_a_launcher_starts_are_one_run(launcher, command, tmp_path):
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    stores, data = write_set(tmp_path)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump({"align": ALIGN, "caption": SPOKEN, "instruct": SPOKEN}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(__file__).parents[2])
    train = ["-m", "wsiprep", "train", command, "--recipe", str(recipe), "--data", str(data),
             "--stores", str(stores), "--device", "cpu"]  # fmt: skip

    def run(out: Path, *start: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [sys.executable, *start, *train, "-o", str(out)], cwd=tmp_path, capture_output=True,
            text=True, check=False, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO((out / "log.csv").read_text())))

    alone = run(tmp_path / "one")
    module, *flags = LAUNCHERS[launcher]
    two = run(tmp_path / "two", "-m", module, *(flag.format(port=port) for flag in flags))
    assert [row["step"] for row in two] == [row["step"] for row in alone] == ["1", "2"]
    assert (tmp_path / "two" / "state-1-000002.pt").is_file()  # of the second process
    assert not list((tmp_path / "one").glob("state-1-*"))
    for name in ("loss", "val/mrr" if command == "align" else "val/token_probability"):
        assert [float(row[name]) for row in two if row[name]] == pytest.approx(
            [float(row[name]) for row in alone if row[name]], rel=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "ours"), [("align", "whole on every process"), ("instruct", "--shard")]
)
def test_what_accelerate_is_asked_for_is_not_left_out_in_silence(command, ours, tmp_path):
    pytest.importorskip("accelerate")
    stores, data = write_set(tmp_path)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump({"align": ALIGN, "instruct": SPOKEN}))
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes=1",
         "--num_machines=1", "--mixed_precision=bf16", "--dynamo_backend=no",
         "--main_process_port=0", "-m", "wsiprep", "train", command, "--recipe", str(recipe),
         "--data", str(data), "--stores", str(stores), "--device", "cpu",
         "-o", str(tmp_path / "out")], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1",
             "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "--use_fsdp" in done.stderr
    assert ours in done.stderr
    assert not (tmp_path / "out").exists()
