"""Kills at any moment: the next run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.life import Life, forked, started
from wsiprep.store.verify import verify_output


def tree(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name not in {"run.jsonl", "config.yaml"}
    }


def resumed(slide: Path, out: Path, **settings: Any) -> int:
    """Run to the end, from nothing or from where a run was stopped; gives the patches encoded."""
    ended = forked(Life(str(slide), str(out), settings=settings), out.with_name(f"{out.name}.log"))
    assert ended.returncode == 0, ended.errors
    return ended.told("encoded")


@pytest.fixture(scope="module")
def undisturbed(small_slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    encoded = resumed(small_slide, out)
    return tree(out), encoded


def kill_after_tiles(process: subprocess.Popen[str], tiles: int, how: int) -> int:
    """Wait until that many tiles are done, send the signal, return tiles told of."""
    done = 0
    for line in process.stdout:
        kind, count = line.split()[:2]
        if kind == "tiles":
            done += int(count)
            if done >= tiles:
                break
    process.send_signal(how)
    return done


def test_a_killed_run_resumes_to_the_same_bytes(small_slide, tmp_path, undisturbed):
    expected, patches = undisturbed
    out = tmp_path / "out"
    process = started(Life(str(small_slide), str(out), pause=0.02))
    done = kill_after_tiles(process, patches // 2, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    findings = verify_output(out).findings
    assert [f.part for f in findings] == ["mpp0.5_patch64_stride64/test (journal)"]
    assert resumed(small_slide, out) <= patches - done
    assert tree(out) == expected
    assert verify_output(out).findings == ()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_honoured_and_resumed(small_slide, tmp_path, undisturbed, how):
    expected, patches = undisturbed
    out = tmp_path / "out"
    process = started(Life(str(small_slide), str(out), pause=0.02))
    kill_after_tiles(process, patches // 3, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    resumed(small_slide, out)
    assert tree(out) == expected


@pytest.mark.slow
def test_many_kills_at_random_times(small_slide, tmp_path, undisturbed):
    """Kills over the whole life of a run, imports and publishing included."""
    expected, _ = undisturbed
    rng = random.Random(5)
    for round_ in range(4):
        out = tmp_path / str(round_)
        for _ in range(30):
            process = started(Life(str(small_slide), str(out), pause=0.005))
            try:
                process.communicate(timeout=rng.uniform(0.5, 4.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            else:
                break
        resumed(small_slide, out)
        assert tree(out) == expected
        assert verify_output(out).findings == ()


def killed_at(step: int, slide: Path, out: Path, **settings: Any) -> None:
    life = Life(str(slide), str(out), dies_at=step, settings=settings)
    died = forked(life, out.with_name(f"{out.name}.log"))
    assert died.returncode == -signal.SIGKILL, died.errors


@pytest.mark.parametrize("points", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_at_chosen_disk_operations(small_slide, tmp_path, undisturbed, points):
    """Deterministic: the k-th rename, replace, fsync, pwrite or truncate is where it dies."""
    expected, _ = undisturbed
    done = forked(Life(str(small_slide), str(tmp_path / "count")), tmp_path / "count.log")
    assert done.returncode == 0, done.errors
    total = done.told("operations")
    assert total > 40
    # Half of them over the whole run, half over its end, where parts are published.
    spread = [1 + round(i * (total - 1) / (points // 2)) for i in range(points // 2)]
    ending = [total - 3 * i for i in range(points - points // 2)]
    for step in sorted({s for s in spread + ending if s > 0}):
        out = tmp_path / str(step)
        killed_at(step, small_slide, out)
        resumed(small_slide, out)
        assert tree(out) == expected, step
        assert verify_output(out).findings == (), step


@pytest.mark.parametrize("points", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_a_killed_overwrite_resumes_to_the_bytes_of_a_fresh_run(
    small_slide, tmp_path, undisturbed, points
):
    """Old settings' mask, grid, features and outlines never survive in a run that says ok."""
    change = {"min_tissue": 0.3, "min_tissue_area": 0.2, "holes": "remove"}
    resumed(small_slide, tmp_path / "fresh", **change)
    expected = tree(tmp_path / "fresh")
    for k in range(points):
        out = tmp_path / str(k)
        for name, content in undisturbed[0].items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        step = 8 + round(k * 110 / points)
        killed_at(step, small_slide, out, **change, overwrite=True)
        resumed(small_slide, out, **change, overwrite=True)
        assert tree(out) == expected, step
        assert verify_output(out).findings == (), step


def test_no_space_left_ends_the_run_and_loses_nothing(small_slide, tmp_path, undisturbed):
    expected, _ = undisturbed
    out = tmp_path / "out"
    done = forked(Life(str(small_slide), str(out), writes=5), tmp_path / "log")
    assert done.returncode == 3, done.errors
    assert "OutputError" in done.errors
    assert "No space left" in done.errors
    resumed(small_slide, out)
    assert tree(out) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_fails_before_any_work(small_slide, tmp_path):
    out = tmp_path / "ro"
    out.mkdir()
    out.chmod(0o500)
    done = subprocess.run(
        [sys.executable, "-m", "wsiprep", "run", str(small_slide), "-o", str(out / "x"),
         "--encoder", "test"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "ermission denied" in done.stderr
    assert f"{small_slide.stem}:" not in done.stderr, "no slide was begun"
