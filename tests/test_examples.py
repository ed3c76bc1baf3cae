"""Every example runs on a synthetic slide and says something; the Slurm script deals slides out."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from wsiprep.cli.main import app
from wsiprep.store import FeatureStore

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NEEDLES = {
    "01_open_a_slide": "region      uint8 (64, 128, 3)",
    "02_find_tissue": "wrote small.geojson",
    "03_place_patches": "read 512 px area-averaged 2:1 to 256 px",
    "04_run_a_folder": "all of it was there already",
    "05_read_features": "1280) torch.float16",
    "06_add_an_encoder": "small: ok,",
    "07_restrict_to_a_geojson": "geojson:tumour.geojson",
}
"""What an example must say, so that it did what its name promises."""

SLOW = {"04_run_a_folder", "05_read_features"}
"""They load torch, timm and lite0: some ten seconds on a busy machine."""


def run(script: Path, *args: Path | str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_known():
    assert {script.stem for script in SCRIPTS} == set(NEEDLES)


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=[pytest.mark.slow] if s.stem in SLOW else []) for s in SCRIPTS],
    ids=lambda script: script.stem,
)
def test_example_runs_on_a_slide_of_the_user(script, small_slide, tmp_path):
    text = run(script, small_slide, cwd=tmp_path)
    assert NEEDLES[script.stem] in text
    assert list(tmp_path.iterdir()) == []  # results went to a temporary folder


def test_example_makes_its_own_slide_and_keeps_results_where_told(tmp_path, small_slide):
    assert "synthetic: 2048 x 1536 px" in run(EXAMPLES / "01_open_a_slide.py", cwd=tmp_path)
    run(EXAMPLES / "02_find_tissue.py", small_slide, tmp_path / "out", cwd=tmp_path)
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".geojson", ".jpg"}


@pytest.mark.slow
def test_folder_example_makes_two_slides_and_a_broken_one(tmp_path):
    text = run(EXAMPLES / "04_run_a_folder.py", cwd=tmp_path)
    assert len(re.findall(r"case_[12] +ok", text)) == 2
    assert len(re.findall(r"case_[12] +skipped", text)) == 2
    assert len(re.findall(r"case_3 +failed", text)) == 2
    assert "is empty (0 bytes)" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_is_short_and_says_what_it_needs(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    start = lines.index("# /// script")
    stop = lines.index("# ///")
    said = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[start + 1 : stop]))
    assert said["requires-python"] == ">=3.11"
    assert [name.partition("[")[0] for name in said["dependencies"]] == ["wsiprep"]


def test_the_encoder_example_keeps_its_contract(tmp_path):
    copy = shutil.copy(EXAMPLES / "06_add_an_encoder.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", copy],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b1\d passed", done.stdout)
    assert "skipped" not in done.stdout


def test_slurm_tasks_share_out_the_manifest(tmp_path, small_slide):
    for name in ("a", "b", "c"):
        shutil.copy(small_slide, tmp_path / f"{name}.tiff")
    manifest = tmp_path / "cohort.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "path"], *([n, f"{n}.tiff"] for n in "abc")])
    for task in (3, 4):
        done = slurm_task(task, 2, manifest, tmp_path / "out", "--encoder", "test")
        assert done.returncode == 0, done.stderr
    stores = sorted((tmp_path / "out").glob("*.zarr"))
    assert [store.stem for store in stores] == ["a", "b", "c"]
    assert all(len(FeatureStore(store).features("test")) for store in stores)
    shards = {p.name: p.read_text().split()[1:] for p in tmp_path.glob("cohort.shard-*")}
    assert shards == {
        "cohort.shard-0-of-2.csv": ["a,a.tiff", "c,c.tiff"],
        "cohort.shard-1-of-2.csv": ["b,b.tiff"],
    }


def test_a_slurm_task_without_slides_ends_well(tmp_path):
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide_id,path\na,a.tiff\n")
    done = slurm_task(4, 2, manifest, tmp_path / "out")
    assert done.returncode == 0
    assert done.stdout == "no slides for task 1 of 2\n"


@pytest.mark.parametrize(("kind", "given"), [("align", 3), ("instruct", 4)])
def test_training_on_nodes_is_asked_for_as_the_program_takes_it(tmp_path, kind, given):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    for name, text in (("scontrol", "echo node1; echo node2"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!{bash}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = EXAMPLES / "slurm" / f"train_{kind}.sbatch"
    names = ["stores", "data.jsonl", "start", "out"][:given]
    names[-1] = "out"
    env = {
        **os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip

    def said() -> list[str]:
        done = subprocess.run(
            [bash, str(script), *names], capture_output=True, text=True, check=True, cwd=tmp_path,
            env=env,
        )  # fmt: skip
        return done.stdout.split("\n")[:-1]

    first = said()
    assert "node1:29500" in first
    ours = first[first.index("wsiprep") + 1 :]
    assert ours[:2] == ["train", kind]
    command = typer.main.get_command(app).commands["train"].commands[kind]
    known = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    assert {word for word in ours if word.startswith("--")} <= known
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.pt").touch()
    assert said() == [*first, "--resume"]


ON_EACH_NODE = """
for SLURM_NODEID in 0 1; do
    export SLURM_NODEID
    printf '@node\\0'
    "$@" || exit
done
"""
"""Of srun: what it is given, once for each of two nodes."""

SAY = "printf '%s\\0' \"$@\""


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
@pytest.mark.parametrize("kind", ["align", "instruct"])
def test_nodes_that_train_know_themselves_and_each_other(tmp_path, kind, launcher):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    programs = {
        "scontrol": "echo node1; echo node2", "srun": ON_EACH_NODE, "torchrun": SAY,
        "accelerate": SAY,
    }  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!{bash}\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    text = (EXAMPLES / "slurm" / f"train_{kind}.sbatch").read_text(encoding="utf-8")
    if launcher == "accelerate":  # its command is a comment, in place of the last one
        before, active, after = text.partition("\nsrun torchrun")
        assert active
        told = [line.removeprefix("# ") for line in after.splitlines() if line.startswith("# ")]
        commented = told[[line.split()[0] for line in told].index("srun") :]
        text = "\n".join([before, *commented, ""])
    script = tmp_path / "batch.sh"
    script.write_text(text, encoding="utf-8")
    subprocess.run([bash, "-n", str(script)], check=True)

    odd = ["my stores", 'it"s $HOME.jsonl', "a 'b'", "out \\ here"]
    names = odd if kind == "instruct" else [odd[0], odd[1], odd[3]]
    more = ["--set", "model.assistant.system=Be  brief; $SLURM_NODEID"]
    (tmp_path / odd[3]).mkdir()
    (tmp_path / odd[3] / "state.pt").touch()
    done = subprocess.run(
        [bash, str(script), *names, *(more if kind == "instruct" else [])],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={
            **os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4",
            "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_NODEID": "0",
        },
    )  # fmt: skip
    empty, *parts = done.stdout.removesuffix("\0").split("@node\0")
    nodes = [part.removesuffix("\0").split("\0") for part in parts]
    assert (empty, len(nodes)) == ("", 2)
    given = [node[node.index("wsiprep") + 1 :] for node in nodes]
    assert given[0] == given[1]
    assert given[0][:2] == ["train", kind]
    assert {*names} <= {*given[0]}
    assert given[0][-1] == "--resume"
    assert kind == "align" or more[1] in given[0]

    own = [node[: node.index("wsiprep")] for node in nodes]
    if launcher == "torchrun":  # which agrees on ranks where its nodes meet
        assert own[0] == own[1]
        flags = dict(zip(own[0][:-1:2], own[0][1::2], strict=True))
        assert flags == {
            "--nnodes": "2", "--nproc-per-node": "4", "--rdzv-backend": "c10d",
            "--rdzv-endpoint": "node1:29500", "--rdzv-id": "7",
        }  # fmt: skip
        assert own[0][-1] == "--no-python"
        return
    for number, node in enumerate(own):
        assert node[:2] == ["launch", "--multi_gpu"]
        assert node[-1] == "-m"
        assert dict(zip(node[2:-1:2], node[3:-1:2], strict=True)) == {
            "--mixed_precision": "no", "--dynamo_backend": "no", "--num_machines": "2",
            "--num_processes": "8", "--machine_rank": str(number), "--main_process_ip": "node1",
            "--main_process_port": "29500",
        }  # fmt: skip


def slurm_task(
    task: int, tasks: int, manifest: Path, out: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Run the batch script as Slurm would, in an array that begins at 3."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    program = Path(sys.executable).parent / "wsiprep"
    if not program.exists():
        pytest.skip("the program wsiprep is not installed beside this Python")
    return subprocess.run(
        [bash, str(EXAMPLES / "slurm" / "prepare.sbatch"), str(manifest), str(out), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_MIN": "3",
            "SLURM_ARRAY_TASK_COUNT": str(tasks),
            "SLURM_CPUS_PER_TASK": "2",
        },
    )


def test_the_mean_of_networks_lies_between_them(tmp_path):
    import torch

    from wsiprep.tissue.network import TissueNet, network_bytes, read_network

    for seed in (0, 1):
        torch.manual_seed(seed)
        (tmp_path / f"{seed}.safetensors").write_bytes(network_bytes(TissueNet(), {"seed": seed}))
    names = [str(tmp_path / f"{name}.safetensors") for name in ("mean", "0", "1")]
    script = EXAMPLES / "train_tissue" / "average.py"
    subprocess.run([sys.executable, str(script), *names], check=True)
    (mean, words), (one, _), (other, _) = (read_network(Path(name)) for name in names)
    assert words["mean_of"] == [{"seed": 0}, {"seed": 1}]
    for made, a, b in zip(mean.parameters(), one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(made, (a + b) / 2, rtol=2e-3, atol=1e-4)  # kept in half
