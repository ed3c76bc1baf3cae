"""Commands as a shell sees them: exit codes, streams, JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import wsiprep


@pytest.fixture(scope="module")
def done(small_slide, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done")
    result = wsiprep("run", small_slide, "-o", out, "--encoder", "test", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["exit_code"] == 0
    assert report["slides"][0]["status"] == "ok"
    assert "\x1b" not in result.stderr
    return out


def test_inspect_a_slide_and_its_store(small_slide, done):
    result = wsiprep("inspect", small_slide, done / "small.zarr", "--json", "--mpp", "1")
    assert result.returncode == 0
    slide, store = json.loads(result.stdout)
    assert slide["mpp"] == 0.5
    assert slide["plan"]["mpp"] == 1.0
    assert store["grids"][0]["features"][0]["encoder"] == "test"
    text = wsiprep("inspect", done / "small.zarr").stdout
    assert "mpp0.5_patch256_stride256" in text


def test_inspect_helps_where_the_scale_is_missing(tmp_path):
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((20, 30, 3), np.uint8))
    result = wsiprep("inspect", tmp_path / "x.png", tmp_path / "gone.svs", "--json")
    assert result.returncode == 1
    first, second = json.loads(result.stdout)
    assert first["size0"] == [30, 20]
    assert "--slide-mpp" in first["problem"]
    assert "no file" in second["problem"]


def test_verify(done, tmp_path):
    assert wsiprep("verify", done).returncode == 0
    assert json.loads(wsiprep("verify", done, "--json").stdout)["findings"] == []
    result = wsiprep("verify", tmp_path)
    assert result.returncode == 2
    assert "no store" in result.stderr


def test_models_and_doctor():
    models = json.loads(wsiprep("models", "--json").stdout)
    names = {spec["name"] for spec in models["encoders"]}
    assert {"lite0", "test"} <= names
    assert "otsu" in models["segmenters"]
    text = wsiprep("models").stdout
    assert "ImageNet" in text
    result = wsiprep("doctor", "--json", **{"HF_TOKEN": "hf_secretsecret"})
    assert result.returncode == 0, result.stdout
    assert "hf_secret" not in result.stdout + result.stderr
    assert all(check["status"] != "fail" for check in json.loads(result.stdout))


def test_a_wrong_device_is_an_environment_problem(small_slide, tmp_path):
    result = wsiprep(
        "run", small_slide, "-o", tmp_path / "o", "--encoder", "test", "--device", "cuda:77"
    )
    assert result.returncode == 3
    assert "cuda:77" in result.stderr
    assert not (tmp_path / "o").exists()


def test_yaml_under_flags(small_slide, tmp_path):
    settings = tmp_path / "s.yaml"
    settings.write_text("encoder: test\npatch-size: 128\nmin_tissue: 3e-1\nmpp: 0.5\n")
    out = tmp_path / "o"
    result = wsiprep(
        "run", small_slide, "-o", out, "--config", settings, "--mag", "10", "--json"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (out / "small.zarr" / "grids" / "mpp1_patch128_stride128").is_dir()
    again = wsiprep("run", small_slide, "-o", tmp_path / "p", "--config", out / "config.yaml")
    assert again.returncode == 0, again.stderr
    embed = wsiprep("embed", small_slide, "-o", out, "--config", out / "config.yaml")
    assert embed.returncode == 0, embed.stderr
    settings.write_text("patch_sise: 128\n")
    result = wsiprep("run", small_slide, "-o", out, "--config", settings)
    assert result.returncode == 2
    assert "patch_size" in result.stderr


def test_a_stream_that_goes_away_does_not_stop_the_work(small_slide, tmp_path):
    command = f"'{sys.executable}' -m wsiprep run '{small_slide}' --encoder test"
    script = (
        f"{command} -o '{tmp_path}/a' 2>&1 | head -1; echo ${{PIPESTATUS[0]}};"
        f"{command} -o '{tmp_path}/b' >&- 2>&-; echo $?"
    )
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.split()[-2:] == ["0", "0"], result.stdout
    for name in "ab":
        assert wsiprep("verify", tmp_path / name).returncode == 0


def test_tissue_detection_can_be_interrupted(small_slide, tmp_path):
    """A stop does not wait for a thumbnail, which here never ends."""
    program = (
        "import sys, time\n"
        "from wsiprep.slide.readers import _base\n"
        "def slow(self, mpp, bad):\n"
        "    print('reading', flush=True)\n"
        "    while True: time.sleep(0.1)\n"
        "_base.BaseSlide.thumbnail = slow\n"
        "from wsiprep.cli.main import main\n"
        f"sys.argv = ['wsiprep', 'segment', {str(small_slide)!r}, '-o', {str(tmp_path)!r}]\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=600)  # against hanging alone
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "again" in errors
