"""Which class is a slide of, where classes are given in words and no example of them is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiprep.core.errors import ConfigError
from wsiprep.core.report import Event, OnEvent
from wsiprep.models.aligned import Aligned
from wsiprep.models.bags import PackedBags
from wsiprep.models.objectives.scale import cosines
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.asked_model import load_model
from wsiprep.tasks.embedded import EmbeddedSlide, gather_embedded, visit
from wsiprep.tasks.prompts import class_vectors, read_classes
from wsiprep.tasks.results import Asked, csv_text, failures, write_json
from wsiprep.tasks.use_config import ClassifyConfig

__all__ = ["ClassScores", "classify", "score_patches", "score_slide"]


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """How well a slide fits each class.

    Attributes:
        score: float64 (C,), cosine of slide and class, or share of patches.
        probability: float64 (C,), they sum to 1: softmax of the cosines times the scale that the
            model learned, or the share itself. Only as well calibrated as the model.
        counted: What was counted: slide, patches, or regions in place of patches.
    """

    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    counted: str


@torch.no_grad()
def score_slide(model: Aligned, bags: PackedBags, classes: Tensor) -> ClassScores:
    """Compare the vector of a slide with those of classes.

    Args:
        model: In evaluation mode.
        bags: One bag.
        classes: float32 (C, d), of length 1.
    """
    cosine = (model.embed_slides(bags) @ classes.T)[0].cpu().double()
    chance = (model.scale() * cosine).softmax(dim=0)
    return ClassScores(cosine.numpy(), chance.numpy(), "slide")


@torch.no_grad()
def score_patches(model: Aligned, bags: PackedBags, classes: Tensor) -> ClassScores:
    """Give every patch its nearest class; a class scores the share of patches that are its.

    Where the slide encoder has no vectors of patches, those of their regions stand for them.

    Args:
        model: In evaluation mode.
        bags: One bag with patches.
        classes: float32 (C, d), of length 1.

    Raises:
        ConfigError: the slide encoder has vectors neither of patches nor of regions.

    Source: KEEP (Zhou et al., 2024), which classifies slides by the ratio of tiles.
    """
    out = model.slides(bags)
    if out.patch is not None:
        nearest, counted = cosines(out.patch, classes).argmax(dim=1), "patches"
    elif out.region is not None:
        nearest = cosines(out.region, classes).argmax(dim=1)[bags.region]
        counted = "regions"
    else:
        raise ConfigError(
            "the slide encoder of this model has vectors neither of patches nor of regions.",
            hint="Use --mode slide.",
        )
    share = torch.bincount(nearest.cpu(), minlength=len(classes)).double() / len(nearest)
    return ClassScores(share.numpy(), share.numpy(), counted)


def classify(cfg: ClassifyConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Classify slides; writes classes.csv and classes.json.

    Raises:
        UsageError: slides or classes make no sense; nothing was written.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
    """
    classes = read_classes(cfg.classes.classes, cfg.classes.templates)
    out = cfg.result.output
    check_writable(out)
    asked = load_model(cfg.model)
    model = asked.checkpoint.model
    found = gather_embedded(
        cfg.inputs, cfg.slide, out, asked.checkpoint.features,
        device=cfg.model.device, weights=cfg.model.weights, on_event=on_event,
    )  # fmt: skip
    for note in found.notes:
        on_event(Event("note", text=note))
    vectors = class_vectors(model, classes)
    score = score_slide if cfg.classes.mode == "slide" else score_patches
    rows: list[dict[str, Any]] = []

    def one(slide: EmbeddedSlide) -> str:
        view = asked.view(slide)
        scores = score(model, view.bags, vectors)
        best = int(scores.score.argmax())
        rows.append(
            {
                "slide": slide.id,
                "store": str(slide.store),
                "predicted": classes.names[best],
                "probability": float(scores.probability[best]),
                "scores": dict(zip(classes.names, scores.score.tolist(), strict=True)),
                "probabilities": dict(zip(classes.names, scores.probability.tolist(), strict=True)),
                "patches": view.patches,
                "counted": scores.counted,
                "grid": view.grid,
                "features": view.encoder,
                "features_key": view.key,
            }
        )
        return f"{classes.names[best]} ({scores.probability[best]:.3f})"

    outcomes = (*found.failed, *visit(found.slides, one, on_event))
    report = {
        **asked.provenance(),
        "task": "classify",
        "mode": cfg.classes.mode,
        "scale": model.scale(),
        "prompts": classes.canonical(),
        "slides": rows,
        "failed": failures(outcomes),
    }
    table = [
        {
            **{name: row[name] for name in ("slide", "store", "predicted", "probability")},
            **{f"score {name}": value for name, value in row["scores"].items()},
            "patches": row["patches"],
        }
        for row in rows
    ]
    columns = ["slide", "store", "predicted", "probability",
               *(f"score {name}" for name in classes.names), "patches"]  # fmt: skip
    paths = {"table": out / "classes.csv", "json": out / "classes.json"}
    write_whole(paths["table"], csv_text(columns, table).encode("utf-8", "backslashreplace"))
    write_json(paths["json"], report)
    return Asked(report, outcomes, {name: str(path) for name, path in paths.items()})
