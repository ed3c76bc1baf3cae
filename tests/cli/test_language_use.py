"""`classify`, `retrieve`, `ground`, `evaluate align` and `evaluate ground` as a shell sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.cli.test_startup import HEAVY
from tests.tasks.aligned_made import WORLD, make_cohort
from wsiprep.cli.main import app
from wsiprep.core.config import leaves
from wsiprep.tasks.evaluate_language_config import EvaluateAlignConfig, EvaluateGroundConfig
from wsiprep.tasks.use_config import ClassifyConfig, GroundConfig, RetrieveConfig

COMMANDS = {
    "classify": ClassifyConfig,
    "retrieve": RetrieveConfig,
    "ground": GroundConfig,
    "evaluate align": EvaluateAlignConfig,
    "evaluate ground": EvaluateGroundConfig,
}


def wsiprep(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light_and_names_every_flag(command):
    code = (
        "import sys, json\n"
        "import wsiprep.cli.main as m\n"
        f"sys.argv = ['wsiprep', *{command.split()!r}, '--help']\n"
        "try:\n    m.main()\nexcept SystemExit as e:\n    assert e.code in (0, None), e.code\n"
        "sys.stderr.write(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert HEAVY & set(json.loads(done.stderr)) == set()
    for _, name, _, field in leaves(COMMANDS[command]):
        if not (field.json_schema_extra or {}).get("argument"):
            assert f"--{name.rstrip('_').replace('_', '-')}" in done.stdout


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


def test_a_user_goes_through(cohort, tmp_path):
    slide, store = cohort.slides[0], cohort.store(0)
    text = WORLD.prompts(slide.findings[0])[0]
    common = ("-m", cohort.model, "-o", tmp_path / "out", "--device", "cpu")

    done = wsiprep("ground", store, "-t", text, *common)
    assert done.exit_code == 0, done.stderr
    assert text in done.stdout
    assert (tmp_path / "out" / "grounding" / f"{slide.id}.geojson").is_file()
    assert "heat map" in done.stdout
    assert wsiprep("inspect", store).stdout.count(text) == 1

    done = wsiprep("retrieve", cohort.stores, "-t", text, "-k", 2, *common)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"text: {text}"
    assert lines[1].split()[0] == "1"

    done = wsiprep("classify", store, "--classes", "lung", "--json", *common)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["prompts"]["classes"]) == {
        "lung adenocarcinoma",
        "lung squamous cell carcinoma",
    }
    assert str(tmp_path / "out" / "classes.csv") in done.stderr

    done = wsiprep("evaluate", "align", "--data", cohort.manifest, "--stores", cohort.stores,
                   "--resamples", 100, *common)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("retrieval: n 12")
    assert "blind" in done.stdout

    done = wsiprep("classify", tmp_path / "none.zarr", "--classes", "lung", *common)
    assert done.exit_code == 1
    assert "failed none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["classify", "x.zarr", "-m", "m", "-o", "o"],
        ["classify", "x.zarr", "--classes", "no-such", "-m", "m", "-o", "o"],
        ["retrieve", "-m", "m", "-o", "o"],
        ["ground", "x.zarr", "-m", "m", "-o", "o"],
        ["ground", "x.zarr", "-t", " ", "-m", "m", "-o", "o"],
        ["evaluate", "align", "--data", "no.jsonl", "--stores", ".", "-m", "m", "-o", "o"],
        ["evaluate", "ground", "--truth", "no.csv", "-m", "m", "-o", "o"],
    ],
)
def test_usage_errors_exit_with_2_and_write_nothing(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2, done.output
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_none(tmp_path):
    args = ["ground", "x.zarr", "-t", "x", "-m", str(tmp_path), "-o", str(tmp_path / "o")]
    assert CliRunner().invoke(app, args).exit_code == 3
