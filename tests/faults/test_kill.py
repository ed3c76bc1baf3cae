"""Kills at any moment: the next run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wsiprep.store.verify import verify_output

# Each tile takes a moment, so that a kill lands in the middle.
PROGRAM = """
import sys, time
from wsiprep.tasks import fill
honest = fill._begin
def slow(*args):
    time.sleep(float(sys.argv[3]))
    return honest(*args)
fill._begin = slow
from wsiprep.core.config import build
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare
import json, os
more = json.loads(os.environ.get("MORE_SETTINGS", "{}"))
cfg = build(PrepareConfig, ("", {"slides": (sys.argv[1],), "output": sys.argv[2],
    "encoder": ("test",), "patch_size": 64, "batch_size": 8, "overlay": False, **more}))
from wsiprep.core.report import Event
def tell(event):
    print(event.kind, event.done, flush=True)
report = prepare(cfg, tell)
print("operations", globals().get("count", 0))
if report.problem:
    print(type(report.problem).__name__, report.problem, file=sys.stderr)
print("encoded", sum(r.encoded for r in report.rows), flush=True)
sys.exit(report.exit_code)
"""


def start(slide: Path, out: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(slide), str(out), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tree(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name not in {"run.jsonl", "config.yaml"}
    }


def resumed(slide: Path, out: Path) -> int:
    """Run to the end, from nothing or from where a run was stopped; gives the patches encoded."""
    process = start(slide, out, 0)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return int(text.split()[-1])


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
    process = start(small_slide, tmp_path, 0.02)
    done = kill_after_tiles(process, patches // 2, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    findings = verify_output(tmp_path).findings
    assert [f.part for f in findings] == ["mpp0.5_patch64_stride64/test (journal)"]
    assert resumed(small_slide, tmp_path) <= patches - done
    assert tree(tmp_path) == expected
    assert verify_output(tmp_path).findings == ()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_honoured_and_resumed(small_slide, tmp_path, undisturbed, how):
    expected, patches = undisturbed
    process = start(small_slide, tmp_path, 0.02)
    kill_after_tiles(process, patches // 3, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    resumed(small_slide, tmp_path)
    assert tree(tmp_path) == expected


@pytest.mark.slow
def test_many_kills_at_random_times(small_slide, tmp_path, undisturbed):
    """Kills over the whole life of a run, imports and publishing included."""
    expected, _ = undisturbed
    rng = random.Random(5)
    for round_ in range(4):
        out = tmp_path / str(round_)
        for _ in range(30):
            process = start(small_slide, out, 0.005)
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


KILL_AT = """
import os, signal, sys
from wsiprep.store import disk, manifest, write
count = 0
def wrap(module, name):
    honest = getattr(module, name)
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **kwargs)
    setattr(module, name, wrapped)
for name in ("rename", "replace", "fsync", "pwrite", "truncate"):
    wrap(os, name)
"""


def run_until(step: int, slide: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """A run that kills itself at its `step`-th operation on the disk; never if that is 0."""
    return subprocess.run(
        [sys.executable, "-c", KILL_AT + PROGRAM, str(slide), str(out), "0", str(step)],
        capture_output=True,
        text=True,
        check=False,
    )


def killed_at(step: int, slide: Path, out: Path) -> None:
    died = run_until(step, slide, out)
    assert died.returncode == -signal.SIGKILL, died.stderr


@pytest.mark.parametrize("points", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_at_chosen_disk_operations(small_slide, tmp_path, undisturbed, points):
    """Deterministic: the k-th rename, replace, fsync, pwrite or truncate is where it dies."""
    expected, _ = undisturbed
    done = run_until(0, small_slide, tmp_path / "count")
    assert done.returncode == 0, done.stderr
    total = int(next(t for t in done.stdout.splitlines() if t.startswith("operations")).split()[1])
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
    small_slide, tmp_path, undisturbed, points, monkeypatch
):
    """Old settings' mask, grid, features and outlines never survive in a run that says ok."""
    change = {"min_tissue": 0.3, "min_tissue_area": 0.2, "holes": "remove"}
    monkeypatch.setenv("MORE_SETTINGS", json.dumps(change))
    resumed(small_slide, tmp_path / "fresh")
    expected = tree(tmp_path / "fresh")
    monkeypatch.setenv("MORE_SETTINGS", json.dumps({**change, "overwrite": True}))
    for k in range(points):
        out = tmp_path / str(k)
        for name, content in undisturbed[0].items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        step = 8 + round(k * 110 / points)
        killed_at(step, small_slide, out)
        resumed(small_slide, out)
        assert tree(out) == expected, step
        assert verify_output(out).findings == (), step


def test_no_space_left_ends_the_run_and_loses_nothing(small_slide, tmp_path, undisturbed):
    expected, _ = undisturbed
    program = PROGRAM.replace(
        "import sys, time\n",
        "import sys, time, os, errno\n"
        "honest_pwrite = os.pwrite\n"
        "calls = 0\n"
        "def full(*args):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls > 5:\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    return honest_pwrite(*args)\n"
        "os.pwrite = full\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(small_slide), str(tmp_path), "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OutputError" in done.stderr
    assert "No space left" in done.stderr
    resumed(small_slide, tmp_path)
    assert tree(tmp_path) == expected


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
