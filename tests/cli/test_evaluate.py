"""`wsiprep evaluate tissue` as a shell sees it."""

from __future__ import annotations

import json
import subprocess

import cv2
import numpy as np
import pytest

from tests.cli import shell
from wsiprep.testing.segmenter import blob_thumbnail


def wsiprep(*args: object) -> subprocess.CompletedProcess[str]:
    return shell.wsiprep(*args, NO_COLOR="1")


@pytest.fixture
def folder(tmp_path):
    image, truth = blob_thumbnail()
    for name, moved in (("one", 0), ("two", 30)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
        mask = np.roll(truth, moved, axis=1).astype(np.uint8) * 255
        cv2.imwrite(str(tmp_path / f"{name}_mask.png"), mask)
    return tmp_path


def test_table_json_and_exit_code(folder, tmp_path):
    out = tmp_path / "out"
    command = ("evaluate", "tissue", folder, "-o", out, "--slide-mpp", 8, "--resamples", 200)
    done = wsiprep(*command, "--segmenter", "otsu", "--segmenter", "again=otsu")
    assert done.returncode == 0, done.stderr
    assert "IoU [95 %]" in done.stdout
    assert "again - otsu: IoU +0.000" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    report = json.loads((out / "tissue.json").read_text(encoding="utf-8"))
    mean = report["segmenters"][0]["mean"]["iou"]
    assert f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in lines["otsu"]
    assert "area error" in done.stdout
    assert f"{report['segmenters'][0]['mean']['area_error']['value']:+.3f}" in lines["otsu"]
    assert "[2/2] ok two" in done.stderr
    done = wsiprep(*command, "--segmenter", "otsu", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data_sha256"] == report["data_sha256"]

    (folder / "one.png").write_bytes(b"no picture")
    done = wsiprep(*command, "--segmenter", "otsu")
    assert done.returncode == 1
    assert "failed one" in done.stderr
    assert "Traceback" not in done.stderr
    assert "failed" in done.stdout


def test_usage(tmp_path):
    done = wsiprep("evaluate", "tissue", "nowhere", "-o", tmp_path / "o", "--segmenter", "x")
    assert done.returncode == 2
    assert "not a folder" in done.stderr
    assert not (tmp_path / "o").exists()
    assert "tissue" in wsiprep("evaluate", "--help").stdout
