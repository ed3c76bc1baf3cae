"""How well a network that learns does, in numbers and to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from wsiprep.synth.thumbnails.labels import CLASSES
from wsiprep.synth.thumbnails.stains import Stain
from wsiprep.train.tissue.config import TissueTraining
from wsiprep.train.tissue.data import Pair, Sample, Thumbnails, sample_of
from wsiprep.train.tissue.losses import class_bits
from wsiprep.train.tissue.student import Student
from wsiprep.views.contact_sheet import SheetCell, draw_sheet

__all__ = ["iou_scores", "validation_sets", "validation_sheet"]

VALIDATION_SEED, VALIDATION_COUNT = 900_001, {"net": 96, "sam": 24}
"""Drawn thumbnails of each set, by model: whole ones are as large as a dozen pieces."""
SHOWN = 24
"""Thumbnails of each set on the contact sheet."""
SHADES = {
    "tissue": (0, 160, 90),
    "pen": (255, 140, 0),
    "edge": (30, 60, 255),
    "fold": (230, 0, 200),
}


def validation_sets(
    cfg: TissueTraining, student: Student, stains: Sequence[str], pairs: Sequence[Pair],
    own: Mapping[str, Stain] | None = None,
) -> dict[str, list[Sample]]:  # fmt: skip
    """Thumbnails by set: drawn in known stains, drawn in stains left out, real."""
    count, framing = VALIDATION_COUNT[cfg.model], student.framing
    sets = {"drawn": Thumbnails(VALIDATION_SEED, count, framing, stains, own=own)}
    if cfg.leave_out:
        unseen = Thumbnails(VALIDATION_SEED + 1, count, framing, cfg.leave_out, own=own)
        sets["unseen"] = unseen
    samples = {name: [data[k] for k in range(len(data))] for name, data in sets.items()}
    if real := [pair for pair in pairs if pair.split == "val"]:
        made = [framing.validated(pair.thumbnail) for pair in real]
        samples["real"] = [sample_of(m.pixels, m.label, m.known) for m in made]
    return samples


def iou_scores(name: str, student: Student, samples: Sequence[Sample]) -> dict[str, float]:
    """IoU of each class over all known pixels of a set, by `set/class`.

    A class that a set does not show, or of which nothing is known there, has none.
    """
    count = len(student.classes)
    both, either = torch.zeros(count), torch.zeros(count)
    for pixels, label, known in samples:
        found = student.masks(pixels)
        target, weight = (class_bits(b[None], count)[0].bool() for b in (label, known))
        both += (found & target & weight).sum((1, 2))
        either += ((found | target) & weight).sum((1, 2))
    pairs = zip(student.classes, both.tolist(), either.tolist(), strict=True)
    return {f"{name}/{c}": round(b / e, 4) for c, b, e in pairs if e}


def validation_sheet(student: Student, validation: dict[str, list[Sample]]) -> np.ndarray:
    """A contact sheet of what is found on the validation thumbnails."""
    cells = []
    for name, samples in validation.items():
        for number, (pixels, _, _) in enumerate(samples[:SHOWN]):
            picture = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            shown = picture.copy()
            for word, mask in zip(student.classes, student.masks(pixels), strict=True):
                where = mask.numpy()
                shade = np.array(SHADES[word], np.float32)
                shown[where] = (0.55 * shown[where] + 0.45 * shade).astype(np.uint8)
            both = np.concatenate([picture, shown], axis=1)
            cells.append(SheetCell(both, (f"{name} {number}",)))
    legend = [(word, SHADES[word]) for word in student.classes]
    return draw_sheet(cells, columns=6, cell_px=320, title="What it finds", legend=legend)


if set(SHADES) != set(CLASSES):
    raise RuntimeError("every class needs a shade")
