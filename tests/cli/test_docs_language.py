"""The commands of docs/slide_language.md, in its order, on a cohort that is drawn here.

Nothing is changed but what needs a download or hours: encoder and language model are stand-ins,
and networks and steps are few.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wsiprep.cli.main import app
from wsiprep.core.types import Size
from wsiprep.store import FeatureStore
from wsiprep.synth.captions import NAMES
from wsiprep.synth.cohort import Cohort
from wsiprep.synth.composition import KINDS
from wsiprep.tasks.doctor import OPTIONAL
from wsiprep.train.language.manifest import Sample, read_manifest
from wsiprep.train.language.splits import divide

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "slide_language.md"
UUID = "25c0b433-5557-4165-922e-2c1eac9c26f0"
ELSEWHERE = ("convert wsi-bench", "convert slidebench", "demo")
"""Commands on files that are not those of a user, or tested as a whole elsewhere."""
SMALL_OPTIMISATION = ("optimisation.steps=3", "optimisation.batch_size=2", "optimisation.warmup=1")
SMALL = {
    "train align": (
        *(f"model.slides.options.{name}" for name in (
            "width=16", "layers=2", "heads=2", "hidden=32", "dim=16", "mixer_heads=2",
            "mixer_hidden=32",
        )),
        "model.texts.vocabulary=300", "sampling.min_region_patches=1", *SMALL_OPTIMISATION,
    ),
    "train instruct": ("sampling.min_region_patches=1", *SMALL_OPTIMISATION),
}  # fmt: skip


def commands() -> list[list[str]]:
    """Words of every `wsiprep …` of the document's shell blocks, without the name itself."""
    blocks = re.findall(r"^```sh\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["wsiprep"]]


def mine() -> list[list[str]]:
    return [c for c in commands() if not " ".join(c).startswith(ELSEWHERE)]


def test_the_document_begins_with_the_whole_way():
    first = [" ".join(command[:2]) for command in mine()[:8]]
    assert first == [
        "run slides/", "convert csv", "train align", "evaluate align", "train instruct",
        "evaluate caption", "ask stores/A.zarr", "ask stores/A.zarr",
    ]  # fmt: skip
    assert "-q" not in mine()[7]


def test_the_document_begins_with_what_must_be_installed():
    """A recipe of the whole way needs what `pip install .` does not bring."""
    text = DOC.read_text(encoding="utf-8")
    assert text[text.index("```sh\n") + 6 :].startswith("pip install '.[language]'")
    assert "pip install '.[language]'" in (ROOT / "README.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {re.split("[><=;[]", one)[0] for one in extras["optional-dependencies"]["language"]}
    assert brought >= OPTIONAL.keys()


def test_slides_in_folders_of_their_own_are_found():
    """As the client of the GDC leaves them; a folder of slides is always searched so."""
    taken = [command for command in mine() if "slides/" in command]
    assert {command[0] for command in taken} == {"run", "classify", "caption"}
    assert all("--recursive" in command for command in taken)


def names_of(counts: dict[str, int]) -> list[str]:
    """Patients of TCGA of whom so many fall into each split."""
    names, left = [], dict(counts)
    numbers = itertools.count()
    while any(left.values()):
        name = f"TCGA-AA-{next(numbers):04}"
        (one,) = divide([Sample(name, (name,), name, name, "x")], val=0.1, test=0.1).samples
        if left[one.split]:
            left[one.split] -= 1
            names.append(name)
    return names


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a user has it: slides of TCGA, each in a folder of its own as the client of the
    GDC leaves them, and two others, and a CSV of reports."""
    from tests.models.language.made_hf import make_tokenizer, transformers

    folder = tmp_path_factory.mktemp("user")
    (folder / "slides").mkdir()
    patients = names_of({"train": 4, "val": 1, "test": 2})
    drawn = Cohort(trained=3, tested=1, size=Size(768, 768), mpp=0.5).train
    for slide in drawn:
        slide.write(folder / f"{slide.id}.tiff")
    rows = [("slide", "report", "question", "choices", "answer", "label")]
    for number, patient in enumerate(["", "", *patients]):
        slide = drawn[number % len(drawn)]
        barcode = f"{patient}-01Z-00-DX1"
        name = f"{barcode}.{UUID}" if patient else "AB"[number]
        own = folder / "slides" / (f"{number:08}-7d1e" if patient else "")
        own.mkdir(exist_ok=True)
        shutil.copy(folder / f"{slide.id}.tiff", own / f"{name}.tiff")
        cell = (f"{name}.tiff", barcode)[number % 2] if patient else name
        rows.append((cell, slide.caption, "", "", "", NAMES[slide.main]))
        others = [NAMES[kind] for kind in KINDS if kind != slide.main][:2]
        choices = " | ".join(sorted([NAMES[slide.main], *others]))
        rows.append((cell, "", "Which tissue?", choices, NAMES[slide.main], ""))
    with open(folder / "reports.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (folder / "classes.yaml").write_text(json.dumps({NAMES[k]: [NAMES[k]] for k in KINDS}))
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, bos_token_id=1, eos_token_id=2, max_position_embeddings=4096,
        )
    ).save_pretrained(folder / "llm")  # fmt: skip
    tokenizer.save_pretrained(folder / "llm")
    return folder


def changed(words: list[str], folder: Path) -> list[str]:
    """A command with stand-ins for what must be downloaded, and small where it would take long."""
    swap = {"timm:hf-hub:MahmoodLab/UNI2-h": "test", "/models/Qwen3-0.6B": str(folder / "llm")}
    words = [swap.get(word, word) for word in words]
    small = SMALL.get(" ".join(words[:2]), ())
    words += [part for change in small for part in ("--set", change)]
    if words[0] in ("ask", "caption") or words[:2] in (
        ["evaluate", "vqa"],
        ["evaluate", "caption"],
    ):
        words += ["--max-new-tokens", "6"]
    if words[0] != "convert":
        words += ["--device", "cpu"]
    return words


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_command_runs_as_it_stands(place, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(place)
    said = {}
    for words in mine():
        if words[:2] == ["evaluate", "ground"]:
            write_truth(place)
        done = CliRunner().invoke(app, changed(words, place), input="Any necrosis?\n\n")
        assert done.exit_code == 0, (" ".join(words), done.output, done.exception)
        said[" ".join(words)] = done.stdout
    samples = read_manifest(place / "data.jsonl")
    assert {one.split for one in samples} == {"train", "val", "test"}
    stores = {path.name.removesuffix(".zarr") for path in (place / "stores").glob("*.zarr")}
    assert {slide for one in samples for slide in one.slides} == stores
    assert len(samples) == 2 * len(stores) == 18
    convert = next(text for words, text in said.items() if words.startswith("convert csv"))
    assert "by the first 12 characters of TCGA barcodes" in convert
    assert said["ask stores/A.zarr --model assistant"].strip()  # the chat's answer
    for report in ("scores/align.json", "captions/caption.json", "vqa/vqa.json"):
        assert (place / report).is_file(), sorted(place.rglob("*.json"))


def write_truth(folder: Path) -> None:
    grid = FeatureStore(folder / "stores" / "A.zarr").grid()
    inside = np.zeros(grid.shape, bool)
    inside[tuple(grid.cell[: len(grid) // 2].T)] = True
    np.save(folder / "half.npy", inside)
    (folder / "truth.csv").write_text("slide,text,reference\nA,tumour nests,half.npy\n")
