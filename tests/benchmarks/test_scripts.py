"""Every benchmark still runs, and says what it asks."""

from __future__ import annotations

import importlib
import json

import pytest

from tests.benchmarks.scripts import BENCHMARKS, FILES, said_by


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_benchmark_still_runs(name, tmp_path):
    kept, tables = tmp_path / "runs.jsonl", tmp_path / "RESULTS.md"
    flags = ["--quick", "--json", str(kept), "--markdown", str(tables)]
    done = said_by(name, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {row["benchmark"] for row in rows} == {name}
    assert all(row["rate"] > 0 for row in rows if row["case"] != "imports only")
    titles = list(dict.fromkeys(row["title"] for row in rows))
    text = tables.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    assert f"`python benchmarks/{name}.py --quick`" in text


@pytest.mark.parametrize("name", FILES)
def test_benchmark_says_its_question_and_its_command(name):
    done = said_by(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout
    assert f"python benchmarks/{name}.py" in done.stdout


def test_all_of_them_run_in_one_command():
    text = (BENCHMARKS / "__main__.py").read_text()
    assert [*(f"{name}.py" for name in FILES), "gpu.py"] == [
        word for word in text.split('"') if word.endswith(".py")
    ]


def test_gpu_says_its_question_and_its_command():
    done = said_by("gpu", "--help")
    assert done.returncode == 0
    assert "?" in done.stdout
    assert "python benchmarks/gpu.py" in done.stdout


def test_without_a_gpu_nothing_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    kept = tmp_path / "runs.jsonl"
    gpu.main(["--quick", "--json", str(kept)])
    assert capsys.readouterr().out == "no CUDA device: nothing measured\n"
    assert not kept.exists()


@pytest.mark.slow
def test_gpu_runs_on_a_cpu(tmp_path):
    kept = tmp_path / "runs.jsonl"
    flags = ["--device", "cpu", "--model", "vit_tiny_patch16_224", "--quick", "--json", str(kept)]
    done = said_by("gpu", *flags)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["encoder alone", "decode cpu"]
    assert all(row["rate"] > 0 for row in rows)
    assert "on cpu" in rows[0]["title"]
