"""The command line answers at once, and says what it promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli import shell
from wsiprep.core.config import leaves
from wsiprep.tasks.ask_config import AskConfig, CaptionConfig
from wsiprep.tasks.config import CoordsConfig, EmbedConfig, PrepareConfig, SegmentConfig
from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert_config import ConvertConfig
from wsiprep.tasks.evaluate_config import EvaluateTissueConfig
from wsiprep.tasks.evaluate_texts_config import EvaluateCaptionConfig, EvaluateVqaConfig
from wsiprep.train.language.assistant_config import TrainAssistantConfig

HEAVY = {"torch", "timm", "zarr", "numpy", "cv2", "PIL", "openslide", "tiffslide", "h5py", "dask"}
COMMANDS = [
    *("run", "segment", "coords", "embed", "inspect", "verify", "models", "doctor", "demo"),
    *("evaluate", "evaluate tissue"),
    *("convert", "convert wsi-bench", "convert slidebench", "convert histgen"),
    *("convert wsi-vqa", "convert patchgastric", "convert csv"),
    *("ask", "caption", "evaluate vqa", "evaluate caption", "train caption", "train instruct"),
]


def wsiprep(*args: str) -> subprocess.CompletedProcess[str]:
    return shell.wsiprep(*args, COLUMNS="200", NO_COLOR="1")


@pytest.mark.parametrize("command", [[], *[c.split() for c in COMMANDS]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys, json\n"
        "import wsiprep.cli.main as m\n"
        f"sys.argv = ['wsiprep', *{command!r}, '--help']\n"
        "try:\n    m.main()\nexcept SystemExit as e:\n    assert e.code in (0, None), e.code\n"
        "sys.stderr.write(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stderr)) == set()
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("run", PrepareConfig),
        ("segment", SegmentConfig),
        ("coords", CoordsConfig),
        ("embed", EmbedConfig),
        ("evaluate tissue", EvaluateTissueConfig),
        ("convert wsi-bench", ConvertConfig),
        ("convert csv", formats.load("csv").Config),
        ("ask", AskConfig),
        ("caption", CaptionConfig),
        ("evaluate vqa", EvaluateVqaConfig),
        ("evaluate caption", EvaluateCaptionConfig),
        ("train instruct", TrainAssistantConfig),
    ],
)
def test_every_setting_is_a_flag(command, model):
    text = wsiprep(*command.split(), "--help").stdout
    for _, name, _, field in leaves(model):
        extra = field.json_schema_extra or {}
        if not extra.get("argument"):
            assert f"--{name.rstrip('_').replace('_', '-')}" in text
    assert "--config" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize(
    "args",
    [
        ["run"],
        ["run", "x.svs"],
        ["run", "-o", "out"],
        ["run", "x.svs", "-o", "out", "--min-tissue", "3"],
        ["run", "x.svs", "-o", "out", "--min-tissue", "much"],
        ["run", "x.svs", "-o", "out", "--mpp", "0.5", "--mag", "20"],
        ["run", "x.svs", "-o", "out", "--encoder", "lite9"],
        ["run", "x.svs", "-o", "out", "--no-such-flag"],
        ["run", "x.svs", "-o", "out", "--config", "no-such.yaml"],
        ["run", "nothing-*.svs", "-o", "out"],
        ["verify", "no-such-folder"],
        ["evaluate", "tissue", "-o", "out"],
        ["evaluate", "tissue", "no-such-folder", "-o", "out"],
        ["evaluate", "tissue", "--manifest", "no-such.csv", "-o", "out"],
        ["convert", "wsi-bench", "-o", "out.jsonl"],
        ["convert", "wsi-bench", "no-such.json", "-o", "out.jsonl"],
        ["convert", "no-such-format", "a.json", "-o", "out.jsonl"],
        ["ask", "x.zarr", "-q", "Which organ?"],
        ["ask", "x.zarr", "-m", "no-such-model", "-q", "Which organ?", "-c", "only one"],
        ["ask", "x.svs", "-m", "no-such-model", "-q", "Which organ?"],
        ["caption", "x.zarr", "-m", "m", "--beams", "2", "--temperature", "1"],
        ["evaluate", "vqa", "-m", "m", "-o", "out"],
        ["evaluate", "vqa", "-m", "m", "-o", "out", "--stores", ".", "--data", "no-such.jsonl"],
        ["train", "instruct", "-o", "out", "--stores", ".", "--data", "no-such.jsonl"],
        ["inspect"],
        ["no-such-command"],
    ],
)
def test_usage_errors_exit_with_2_and_write_nothing(args, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "wsiprep", *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_version():
    import wsiprep as package

    assert wsiprep("--version").stdout.strip() == package.__version__
