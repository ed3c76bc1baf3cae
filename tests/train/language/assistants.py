"""Small slides, samples and assistants for tests of what is asked about slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.train.language.made import SPEC, grid_of, write_store
from wsiprep.models.bags import Bag
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.tokenizer import train_bpe
from wsiprep.train.language.assistant_config import AssistantTraining
from wsiprep.train.language.cases import Cases
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.manifest import Sample, Turn, write_manifest

torch.set_num_threads(1)

DIM = SPEC.dim
FEATURES = Fingerprint(SPEC.name, SPEC.weights_sha256, DIM, 0.5, 256, 256, False)
ORGANS = ("colon", "lung", "kidney", "skin")
TOKENIZER = train_bpe(["Tissue of colon, lung, kidney, skin."] * 3, vocab_size=300)
TINY = {"kind": "tiny", "vocabulary": 320, "options": {"width": 48, "layers": 2, "heads": 4}}
RECIPE = {
    "model": {
        "slides": {"encoder": "identity"},
        "language": TINY,
        "assistant": {"system": "Be brief.", "max_tokens": 256},
    },
    "optimisation": {"learning_rate": 5e-3, "warmup": 5, "epochs": 1, "batch_size": 4},
}


def vectors(number: int, patches: int = 6) -> np.ndarray:
    """Patches that say which slide they are of; exact as float16."""
    noise = np.random.default_rng(number).integers(-4, 4, (patches, DIM)) / 16
    noise[:, number % 4] += 3
    return noise


def samples(count: int = 4, split: str = "") -> list[Sample]:
    """A sample a slide: a caption, a conversation, a question with options."""
    found = []
    for k in range(count):
        organ = ORGANS[k % 4]
        found.append(
            Sample(
                id=f"q{k}{split}",
                slides=(f"s{k}",),
                patient_id=f"p{k}",
                caption=f"Tissue of {organ}.",
                conversations=(Turn("user", "Which organ?"), Turn("assistant", f"The {organ}.")),
                question="Choose the organ.",
                choices=ORGANS,
                answer=organ,
                task="organ" if k % 2 else "site",
                split=split,  # type: ignore[arg-type]
            )
        )
    return found


def write_stores(folder: Path, count: int = 4) -> Path:
    """A store for each slide of `samples`."""
    cells = np.argwhere(np.ones((2, 3), bool))
    for k in range(count):
        write_store(folder, f"s{k}", number=k, cells=cells, vectors=vectors(k))
    return folder


def bag_of(number: int) -> Bag:
    grid = grid_of(np.argwhere(np.ones((2, 3), bool)))
    cell = torch.from_numpy(grid.cell.astype(np.int64))
    features = torch.from_numpy(vectors(number).astype(np.float16))
    return Bag(features, cell, torch.zeros(len(cell), dtype=torch.int64))


def cases_of(what: Sequence[Sample]) -> Cases:
    numbers = [int(one.slides[0].removeprefix("s")) for one in what]
    return Cases(what, lambda row: bag_of(numbers[row]), FEATURES, Sampling(), seed=1)


def recipe(**optimisation: object) -> AssistantRecipe:
    return AssistantRecipe.model_validate(
        {**RECIPE, "optimisation": {**RECIPE["optimisation"], **optimisation}}
    )


def write_set(folder: Path, count: int = 4) -> tuple[Path, Path]:
    """Stores and a manifest of training and validation samples."""
    stores = write_stores(folder / "stores", count + 2)
    held = samples(count + 2, "val")[count:]
    write_manifest(folder / "data.jsonl", [*samples(count, "train"), *held])
    return stores, folder / "data.jsonl"


def training(folder: Path, stores: Path, data: Path, **given: Any) -> AssistantTraining:
    (folder / "small.yaml").write_text(
        yaml.safe_dump({"caption": RECIPE, "instruct": RECIPE}), encoding="utf-8"
    )
    values = {
        "data": data, "stores": stores, "output": folder / "out", "device": "cpu",
        "recipe": str(folder / "small.yaml"), "validate_every": 100, **given,
    }  # fmt: skip
    return AssistantTraining.model_validate(values)
