"""Slides without tissue and without stores in `evaluate align | caption | vqa`: one behaviour."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.tasks.aligned_made import DIM as ALIGNED_DIM
from tests.tasks.aligned_made import SPEC as ALIGNED_SPEC
from tests.tasks.aligned_made import make_cohort
from tests.train.language.assistants import FEATURES, RECIPE, samples, write_stores
from tests.train.language.made import write_blank, write_grid, write_store
from wsiprep.cli.main import app
from wsiprep.core.errors import MissingStageError, SlideError
from wsiprep.models.assistant_parts import AssistantParts, make_assistant
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.tokenizer import train_bpe
from wsiprep.tasks.evaluate_align import evaluate_align
from wsiprep.tasks.evaluate_caption import evaluate_caption
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig
from wsiprep.tasks.evaluate_texts_config import EvaluateCaptionConfig, EvaluateVqaConfig
from wsiprep.tasks.evaluate_vqa import evaluate_vqa
from wsiprep.train.language.assistant_checkpoint import save_assistant
from wsiprep.train.language.manifest import Sample, read_manifest, write_manifest

torch.set_num_threads(1)
COMMANDS = {
    "align": (evaluate_align, EvaluateAlignConfig),
    "caption": (evaluate_caption, EvaluateCaptionConfig),
    "vqa": (evaluate_vqa, EvaluateVqaConfig),
}


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of three slides, and an assistant that knows nothing."""
    folder = tmp_path_factory.mktemp("assistant")
    write_stores(folder / "stores", 3)
    write_blank(folder / "stores", "blank", 8)
    write_grid(folder / "stores", "bare", 9)
    parts = AssistantParts.model_validate(RECIPE["model"])
    torch.manual_seed(1)
    model = make_assistant(parts, FEATURES.dim, train_bpe(["a b c"], vocab_size=300), seed=1)
    (folder / "model").mkdir()
    save_assistant(
        folder / "model", model.eval(), parts, features=FEATURES, sampling=Sampling(), recipe={}
    )
    write_manifest(folder / "data.jsonl", samples(3))
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of two slides, and an aligned model that knows nothing."""
    cohort = make_cohort(tmp_path_factory.mktemp("aligned"), steps=0)
    write_store(cohort.stores, "blank", number=98, cells=np.empty((0, 2), int),
                spec=ALIGNED_SPEC, vectors=np.empty((0, ALIGNED_DIM)))  # fmt: skip
    write_grid(cohort.stores, "bare", 99)
    return cohort.folder


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, aligned: Path, assistant: Path) -> tuple[str, Path]:
    return request.param, aligned if request.param == "align" else assistant


def evaluate(command: tuple[str, Path], out: Path, extra: list[str], **given: Any) -> Any:
    """Evaluate on the samples of the folder, and on one of each slide of `extra`."""
    name, folder = command
    known = read_manifest(folder / "data.jsonl") if not given.pop("only", False) else []
    first = read_manifest(folder / "data.jsonl")[0]
    more = [replace(first, id=f"q-{s}", slides=(s,), patient_id=f"p-{s}") for s in extra]
    out.mkdir()
    write_manifest(out / "data.jsonl", [*more, *known])
    run, settings = COMMANDS[name]
    values = {
        "data": out / "data.jsonl", "stores": folder / "stores", "model": folder / "model",
        "output": out / "report", "resamples": 100, "device": "cpu", **given,
    }  # fmt: skip
    if name != "align":
        values |= {"blind": False, "judge": "none", "max_new_tokens": 2}
    return run(settings.of(**values))


def scores(report: dict[str, Any]) -> dict[str, Any]:
    part = report.get("retrieval", report.get("closed", report))
    return {"n": part["n"], "sha256": part["data_sha256"], "scores": part["scores"]}


def test_slides_without_tissue_are_left_out_and_named(
    command: tuple[str, Path], tmp_path: Path
) -> None:
    plain = evaluate(command, tmp_path / "plain", [])
    assert plain.report["left_out"]["empty"] == {"n": 0, "samples": {}}
    done = evaluate(command, tmp_path / "more", ["blank"])
    assert done.report["left_out"]["empty"] == {"n": 1, "samples": {"q-blank": ["blank"]}}
    # What is reported of the others is what it is without it.
    assert scores(done.report) == scores(plain.report)
    assert getattr(done, "exit_code", 0) == 0
    (written,) = (tmp_path / "more" / "report").glob("*.json")
    assert json.loads(written.read_text()) == done.report
    for table in (tmp_path / "more" / "report").glob("*.csv"):
        assert "q-blank" not in table.read_text()


def test_slides_without_a_store_or_features_are_an_error_or_left_out(
    command: tuple[str, Path], tmp_path: Path
) -> None:
    of = len(read_manifest(command[1] / "data.jsonl")) + 2
    with pytest.raises(MissingStageError) as caught:
        evaluate(command, tmp_path / "e", ["gone", "bare"])
    for part in (f"2 of {of} samples", "gone, bare", "--skip-missing"):
        assert part in str(caught.value)
    assert not (tmp_path / "e" / "report").exists()
    done = evaluate(command, tmp_path / "o", ["gone", "bare"], skip_missing=True)
    assert done.report["left_out"]["missing"]["samples"] == {"q-gone": ["gone"], "q-bare": ["bare"]}
    assert scores(done.report) == scores(evaluate(command, tmp_path / "plain", []).report)


def test_where_no_slide_has_tissue_nothing_is_measured(
    command: tuple[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SlideError, match="no patch with features"):
        evaluate(command, tmp_path / "o", ["blank"], only=True)
    assert not (tmp_path / "o" / "report").exists()


def test_captions_of_one_case_stay_with_it(assistant: Path, tmp_path: Path) -> None:
    """Several samples of a slide are one case; what is left out before it does not move them."""
    first, *others = samples(3)
    twice = replace(first, id="again", caption="Said otherwise.")
    gone = Sample(id="b", slides=("blank",), caption="Never seen.")
    write_manifest(tmp_path / "d.jsonl", [gone, first, others[0], twice, others[1]])
    done = evaluate_caption(EvaluateCaptionConfig.of(
        data=tmp_path / "d.jsonl", stores=assistant / "stores", model=assistant / "model",
        output=tmp_path / "o", resamples=100, device="cpu", max_new_tokens=2, judge="none",
    ))  # fmt: skip
    assert done.report["n"] == 3
    lines = (tmp_path / "o" / "captions.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["q0", "s0"], ["q1", "s1"], ["q2", "s2"]]
    assert [line.split(",")[3] for line in lines[1:]] == [one.caption for one in samples(3)]


def test_by_the_command_line(command: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = command
    first = read_manifest(folder / "data.jsonl")[0]
    more = [replace(first, id=s, slides=(s,)) for s in ("blank", "gone")]
    write_manifest(tmp_path / "d.jsonl", [*more, *read_manifest(folder / "data.jsonl")])
    flags = ["evaluate", name, "--data", str(tmp_path / "d.jsonl"), "--stores",
             str(folder / "stores"), "-m", str(folder / "model"), "-o", str(tmp_path / "o"),
             "--resamples", "100", "--device", "cpu"]  # fmt: skip
    flags += [] if name == "align" else ["--no-blind", "--max-new-tokens", "2"]
    runner = CliRunner()
    refused = runner.invoke(app, flags)
    assert refused.exit_code == 1
    assert "--skip-missing" in refused.stderr
    done = runner.invoke(app, [*flags, "--skip-missing"])
    assert done.exit_code == 0, done.stderr
    assert "left out: 1 samples of slides without a store or without features: gone" in done.stdout
    assert "left out: 1 samples whose slides have no patch with features: blank" in done.stdout
    quiet = runner.invoke(app, [*flags, "--skip-missing", "--json"])
    assert json.loads(quiet.stdout)["left_out"]["missing"]["n"] == 1
    assert "left out: 1 samples" in quiet.stderr
