"""A cohort of planted slides in stores, and an aligned model that knows their findings.

The slide's side is the patches as they are; the text's side is a tiny transformer that learned to
say the planted vector of what a sentence names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from tests.train.language.made import write_store
from wsiprep.core.types import EncoderSpec
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.tokenizer import train_words
from wsiprep.store.read import FeatureStore
from wsiprep.synth.planted import FINDINGS, PlantedSlide, PlantedWorld
from wsiprep.train.language.checkpoint import save_aligned, write_checkpoint
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.manifest import Sample, write_manifest

DIM = 16
WORLD = PlantedWorld(dim=DIM, noise=0.1, counts=(1, 2), blob_cells=8, held_out=12)
SPEC = EncoderSpec("planted:net", DIM, None, (0.5,) * 3, (0.5,) * 3, weights_sha256="cd" * 32)


@dataclass(frozen=True)
class Cohort:
    """Stores, manifest and model on disk, and what is true."""

    folder: Path
    stores: Path
    manifest: Path
    model: Path
    slides: tuple[PlantedSlide, ...]

    def store(self, number: int) -> Path:
        return self.stores / f"{self.slides[number].id}.zarr"

    def inside(self, number: int, finding: int) -> np.ndarray:
        return self.slides[number].truth == finding


def make_cohort(folder: Path, *, regions: bool = False, steps: int = 120) -> Cohort:
    torch.set_num_threads(1)
    slides = WORLD.test() if steps else WORLD.test(2)
    stores = folder / "stores"
    for number, slide in enumerate(slides):
        write_store(stores, slide.id, number=number, cells=slide.cell, spec=SPEC,
                    vectors=slide.features)  # fmt: skip
    samples = [
        Sample(
            id=s.id, slides=(s.id,), patient_id=f"p{n // 2}", caption=s.caption,
            sub_captions=s.sub_captions, split="test",
            label=FINDINGS[s.findings[0]] if len(s.findings) == 1 else "",
        )
        for n, s in enumerate(slides)
    ]  # fmt: skip
    write_manifest(folder / "data.jsonl", samples)
    features = Fingerprint.of(FeatureStore(stores / f"{slides[0].id}.zarr"))
    model = make_model(steps, regions=regions)
    write_checkpoint(
        folder / "model",
        lambda path: save_aligned(
            path, model, features=features, sampling=Sampling(), recipe={"name": "planted"}
        ),
    )
    return Cohort(folder, stores, folder / "data.jsonl", folder / "model", slides)


def make_model(steps: int = 120, *, regions: bool = False) -> Aligned:
    torch.manual_seed(0)
    every = [text for n in range(len(FINDINGS)) for text in WORLD.prompts(n)]
    captions = [s.caption for s in WORLD.train(40)]
    cfg = AlignedConfig(
        slides={"encoder": "identity"},
        texts={"encoder": "transformer", "options": {"dim": DIM, "layers": 1, "dropout": 0.0}},
        objectives={
            "slide_options": {"temperature": 0.1, "learned": True},
            "region_weight": float(regions),
        },
    )
    model = Aligned(cfg, DIM, train_words([*every, *captions, *FINDINGS], max_words=200))
    targets = torch.from_numpy(WORLD.vectors)
    texts = [*every, *FINDINGS, *captions]
    goal = torch.cat([
        targets.repeat_interleave(len(every) // len(FINDINGS), 0), targets,
        torch.stack([targets[list(s.findings)].sum(0) for s in WORLD.train(40)]),
    ])  # fmt: skip
    optimiser = torch.optim.Adam(model.texts.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = 1 - functional.cosine_similarity(model.texts(texts), goal).mean()
        loss.backward()
        optimiser.step()
    return model.eval()
