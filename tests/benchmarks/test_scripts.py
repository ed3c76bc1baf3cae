"""Every benchmark still runs, and says what it asks."""

from __future__ import annotations

import importlib
import json

import pytest

from tests.benchmarks.scripts import BENCHMARKS, FILES, ON_GPU, said_by


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
    assert [f"{name}.py" for name in (*FILES, *ON_GPU)] == [
        word for word in text.split('"') if word.endswith(".py")
    ]


@pytest.mark.parametrize("name", ON_GPU)
def test_gpu_says_its_question_and_its_command(name):
    done = said_by(name, "--help")
    assert done.returncode == 0
    assert "?" in done.stdout
    assert f"python benchmarks/{name}.py" in done.stdout


@pytest.mark.parametrize("name", ON_GPU)
def test_without_a_gpu_nothing_is_measured(name, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = importlib.import_module(name)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    kept = tmp_path / "runs.jsonl"
    gpu.main(["--quick", "--json", str(kept)])
    assert capsys.readouterr().out == "no CUDA device: nothing measured\n"
    assert not kept.exists()


def test_the_peak_of_a_gpu_is_that_of_its_name_or_what_is_given(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = importlib.import_module("gpu_language")
    for name, peak in (
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some other GPU", None),
    ):
        monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda _, name=name: name)
        assert gpu.peak_of("cuda", None) == peak
        assert gpu.peak_of("cuda", 5.0) == 5e12
    assert gpu.peak_of("cpu", None) is None


@pytest.mark.slow
def test_gpu_language_runs_on_a_cpu(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    kept = tmp_path / "runs.jsonl"
    flags = ["--device", "cpu", "--quick", "--peak-tflops", "0.1", "--json", str(kept)]
    done = said_by("gpu_language", *flags)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    recipes = ["pathflip", "pathflip-v2", "pathalign", "prism", "wsi-llava"]
    assert [row["case"] for row in rows] == [*recipes, "frozen", "lora", "full"]
    for row in rows:
        assert row["rate"] > 0
        facts = row["facts"]
        assert facts["MFU %"] == pytest.approx(100 * facts["TFLOP/s"] / 0.1)
        assert facts["TFLOP a step"] > 0
    frozen, lora, full = (row["facts"]["TFLOP a step"] for row in rows[-3:])
    assert frozen < full < lora  # adapters' own products, where the network is tiny


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
