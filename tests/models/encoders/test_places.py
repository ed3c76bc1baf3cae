"""What encoders make of where patches lie, and of one patch among two thousand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsiprep.models import Bag, pack
from wsiprep.models.encoders import registry
from wsiprep.testing.slide_encoder import store_order

torch.set_num_threads(1)
WIDTH, SIDE = 16, 8
WITHOUT_PLACES: dict[str, dict[str, Any]] = {
    "identity": {},
    "gated_attention": {"dim": 32, "gate": 16, "dropout": 0.0},
    "perceiver": {"dim": 32, "latents": 5, "heads": 4, "dropout": 0.0, "attention_dropout": 0.0},
    "qformer": {"dim": 32, "width": 32, "layers": 2, "heads": 4, "hidden": 64, "dropout": 0.0},
}
WITH_PLACES: dict[str, dict[str, Any]] = {
    "longnet": {"dim": 32, "layers": 1, "heads": 2, "hidden": 64, "segments": (64,),
                "ratios": (1,), "dropout": 0.0, "drop_path": 0.0},
    # Its class token knows no places: it hears of them from patches, by a second layer.
    "alibi_vit": {"dim": 32, "layers": 2, "heads": 4, "hidden": 64, "registers": 0,
                  "dropout": 0.0, "drop_path": 0.0},
}  # fmt: skip
CONCEPT = F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)), dim=0)


def made(name: str, options: dict[str, Any], width: int = WIDTH) -> nn.Module:
    module = registry.load(name)
    torch.manual_seed(1)
    encoder: nn.Module = module.create(module.Config(**options), width)
    return encoder


def bag(features: Tensor, cell: Tensor) -> Bag:
    order = store_order(cell)
    return Bag(features[order], cell[order], torch.zeros(len(cell), dtype=torch.int64))


def lattice(side: int = SIDE) -> Tensor:
    return torch.cartesian_prod(torch.arange(side), torch.arange(side))


def slide_of(encoder: nn.Module, bags: list[Bag]) -> Tensor:
    found: Tensor = encoder(pack(bags)).slide
    return found


@pytest.mark.parametrize("name", [*WITHOUT_PLACES, *WITH_PLACES])
def test_who_sees_where_patches_lie(name: str) -> None:
    encoder = made(name, {**WITHOUT_PLACES, **WITH_PLACES}[name]).eval()
    cell = lattice()
    features = torch.randn(len(cell), WIDTH, generator=torch.Generator().manual_seed(2))
    moved = torch.randperm(len(cell), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        here, there = slide_of(encoder, [bag(features, cell), bag(features[moved], cell)])
    if name in WITHOUT_PLACES:
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
    else:
        assert float((here - there).abs().max()) > 1e-3


def sides(count: int, seed: int) -> tuple[list[Bag], Tensor]:
    """Bags in which a concept lies left or right."""
    random = torch.Generator().manual_seed(seed)
    cell, bags = lattice(), []
    labels = torch.randint(0, 2, (count,), generator=random)
    for label in labels.tolist():
        features = 0.1 * torch.randn(len(cell), WIDTH, generator=random)
        row, col = torch.randint(0, SIDE // 2, (2,), generator=random).tolist()
        features[row * SIDE + col + label * SIDE // 2] += 3 * CONCEPT
        bags.append(bag(features, cell))
    return bags, labels


def learned(name: str, options: dict[str, Any], steps: int) -> float:
    """Accuracy on new bags after learning."""
    encoder = made(name, options)
    head = nn.Linear(slide_of(encoder, sides(2, 0)[0]).shape[1], 1)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for step in range(steps):
        bags, labels = sides(16, 100 + step)
        loss = F.binary_cross_entropy_with_logits(
            head(slide_of(encoder, bags))[:, 0], labels.float()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bags, labels = sides(200, 7)
    with torch.no_grad():
        said = head(slide_of(encoder.eval(), bags))[:, 0] > 0
    return float((said == labels.bool()).float().mean())


def test_left_and_right_are_learned_by_who_sees_places_alone() -> None:
    assert learned("longnet", WITH_PLACES["longnet"], 180) > 0.9
    assert learned("gated_attention", WITHOUT_PLACES["gated_attention"], 60) < 0.65


def test_one_patch_among_two_thousand_is_found() -> None:
    """A needle: of a slide only whether it has the concept is told, in a single patch of it."""
    random = torch.Generator().manual_seed(4)
    cell = lattice(45)[:2000]

    def slides(count: int) -> tuple[list[Bag], Tensor, Tensor]:
        labels = torch.arange(count) % 2
        places = torch.randint(0, 2000, (count,), generator=random)
        bags, found = [], []
        for label, place in zip(labels.tolist(), places.tolist(), strict=True):
            features = 0.3 * torch.randn(len(cell), WIDTH, generator=random)
            features[place] += 3 * label * CONCEPT
            bags.append(bag(features, cell))
            found.append(int((store_order(cell) == place).nonzero()))
        return bags, labels, torch.tensor(found)

    encoder = made("gated_attention", WITHOUT_PLACES["gated_attention"])
    head = nn.Linear(32, 1)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(150):
        bags, labels, _ = slides(8)
        loss = F.binary_cross_entropy_with_logits(
            head(slide_of(encoder, bags))[:, 0], labels.float()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bags, labels, places = slides(40)
    with torch.no_grad():
        out = encoder.eval()(pack(bags))
        right = ((head(out.slide)[:, 0] > 0) == labels.bool()).float().mean()
    attention = out.attention.split([len(one) for one in bags])
    pointed = [int(row.argmax()) == place for row, place, label in zip(
        attention, places.tolist(), labels.tolist(), strict=True) if label]  # fmt: skip
    assert float(right) > 0.9
    assert sum(pointed) / len(pointed) > 0.9
