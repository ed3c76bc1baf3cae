"""Cached gradients are those of the whole batch, in one process and in two."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsiprep.models.gradient_cache import Encoding, cached_backward
from wsiprep.models.objectives.alike import false_negatives
from wsiprep.models.objectives.caption import caption_loss
from wsiprep.models.objectives.gather import gather_rows, row_offset
from wsiprep.models.objectives.infonce_loss import InfoNCE
from wsiprep.models.objectives.region_pool import RegionPool
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.siglip_loss import SigLIP
from wsiprep.models.objectives.top_k import SoftTopK

torch.set_num_threads(1)

BATCH, REGIONS, TEXTS, DIM = 8, 3, 2, 16


class RowDropout(nn.Module):
    """Dropout whose random numbers come row by row, so that cutting a batch changes none."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.stack([torch.rand(x.shape[1:], dtype=torch.float64) for _ in x]) > 0.3
        return x * kept / 0.7


class SlideEncoder(nn.Module):
    """(n, R, d) to vectors of slides (n, d) and of regions (n R, d), with dropout."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(DIM, 32), nn.GELU(), dropout, nn.Linear(32, DIM))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        region = self.body(x)
        return region.mean(dim=1), region.flatten(0, 1)


class System(nn.Module):
    """Two encoders, and what only the losses use."""

    def __init__(self, dropout: Callable[[], nn.Module] = RowDropout) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slide: nn.Module = SlideEncoder(dropout())
        self.text: nn.Module = nn.Sequential(nn.Linear(DIM, DIM), dropout(), nn.Linear(DIM, DIM))
        self.contrast = InfoNCE(temperature=0.07, learned=True)
        self.region = RegionSigmoid(DIM, pool=RegionPool(DIM, heads=4), bias=-3.0)
        self.pairs = SigLIP(bias=-3.0)
        self.top = SoftTopK(k=2)

    def loss_parameters(self) -> list[nn.Parameter]:
        heads = (self.contrast, self.region, self.pairs, self.top)
        return [parameter for head in heads for parameter in head.parameters()]

    def loss(self, vectors: tuple[Tensor, Tensor], sub: Tensor, keys: Tensor) -> Tensor:
        """All objectives; `sub` is (n K, d), `keys` (n K,)."""
        slide, region = vectors
        n = len(slide)
        region_bag = torch.arange(n).repeat_interleave(REGIONS)
        text_bag = torch.arange(n).repeat_interleave(TEXTS)
        caption = sub.view(n, TEXTS, -1).mean(dim=1)
        ignore = false_negatives(keys[::TEXTS])
        regions = self.region(
            region, region_bag, sub, text_bag, keys, bags=n,
            generator=torch.Generator().manual_seed(5),
        ).loss  # fmt: skip
        starts = torch.arange(n + 1) * REGIONS
        top, _ = self.top(sub, text_bag, region, starts, ignore=false_negatives(keys))
        return (
            self.contrast(slide, caption, ignore=ignore)
            + regions
            + 0.5 * self.pairs(slide, caption, ignore=ignore)
            + top
        )


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    slides = torch.randn(BATCH, REGIONS, DIM, generator=generator)
    texts = torch.randn(BATCH * TEXTS, DIM, generator=generator)
    # Some texts say the same.
    return slides, texts, torch.arange(BATCH * TEXTS) % 13


def gradients(system: nn.Module) -> dict[str, Tensor]:
    return {
        name.replace("module.", ""): p.grad.clone()
        for name, p in system.named_parameters()
        if p.grad is not None
    }


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5 * max(scale, 1e-3), msg=name
        )


def whole(system: System) -> tuple[Tensor, dict[str, Tensor]]:
    slides, texts, keys = data()
    torch.manual_seed(7)
    loss = system.loss(system.slide(slides), system.text(texts), keys)
    loss.backward()
    return loss.detach(), gradients(system)


def encodings(system: System, slides: Tensor, texts: Tensor, micro: int) -> list[Encoding]:
    return [
        Encoding(system.slide, slides.split(micro)),
        Encoding(system.text, texts.split(micro * TEXTS)),
    ]


@pytest.mark.parametrize("micro", [1, 2, 3, 4, BATCH])
def test_cached_gradients_are_those_of_the_whole_batch(micro: int) -> None:
    expected_loss, expected = whole(System())
    assert len(expected) == len(list(System().parameters()))
    system = System()
    slides, texts, keys = data()
    torch.manual_seed(7)
    loss = cached_backward(
        encodings(system, slides, texts, micro),
        lambda vectors, sub: system.loss(vectors, sub, keys),
    )
    torch.testing.assert_close(loss, expected_loss)
    assert not loss.requires_grad
    compare(gradients(system), expected)


@pytest.mark.parametrize("micro", [1, 2, 4, BATCH])
def test_dropout_of_torch_is_the_same_both_times(micro: int) -> None:
    """Against the same micro-batches with all their activations kept."""
    slides, texts, keys = data()
    kept, system = System(lambda: nn.Dropout(0.3)), System(lambda: nn.Dropout(0.3))
    torch.manual_seed(7)
    parts = [kept.slide(part) for part in slides.split(micro)]
    vectors = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    sub = torch.cat([kept.text(part) for part in texts.split(micro * TEXTS)])
    expected_loss = kept.loss(vectors, sub, keys)  # type: ignore[arg-type]
    expected_loss.backward()
    after = torch.get_rng_state()
    torch.manual_seed(7)
    loss = cached_backward(
        encodings(system, slides, texts, micro),
        lambda vectors, sub: system.loss(vectors, sub, keys),
    )
    torch.testing.assert_close(loss, expected_loss.detach())
    compare(gradients(system), gradients(kept))
    # The second pass uses up no random numbers.
    assert torch.equal(torch.get_rng_state(), after)


def test_dropout_that_is_not_restored_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = whole(System())
    system = System()
    slides, texts, keys = data()
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    torch.manual_seed(7)
    cached_backward(
        encodings(system, slides, texts, 2), lambda vectors, sub: system.loss(vectors, sub, keys)
    )
    name = "slide.body.0.weight"
    assert (gradients(system)[name] - expected[name]).abs().max() > 1e-3


def test_gradients_add_up_and_are_scaled() -> None:
    slides, texts, keys = data()
    system, plain = System().eval(), System().eval()
    _, expected = whole(plain)
    for _ in range(2):
        cached_backward(
            encodings(system, slides, texts, 3),
            lambda vectors, sub: system.loss(vectors, sub, keys),
            loss_parameters=system.loss_parameters(),
            scale=0.5,
        )
    compare(gradients(system), expected)


def test_autocast_leaves_gradients_in_the_second_pass() -> None:
    slides, texts, keys = data()
    system, plain = System().eval(), System().eval()

    def loss(vectors: tuple[Tensor, Tensor], sub: Tensor) -> Tensor:
        return system.loss(vectors, sub, keys)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached_backward(encodings(system, slides, texts, BATCH), loss)
        plain.loss(plain.slide(slides), plain.text(texts), keys).backward()
    found, expected = gradients(system), gradients(plain)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
        assert difference < 0.05, name


def test_frozen_and_shared_networks() -> None:
    slides, texts, keys = data()
    system = System().eval()
    system.text.requires_grad_(False)
    cached_backward(
        encodings(system, slides, texts, 2), lambda vectors, sub: system.loss(vectors, sub, keys)
    )
    assert all(p.grad is None for p in system.text.parameters())
    assert all(p.grad is not None for p in system.slide.parameters())

    # One network for both sides, used by the loss as well.
    shared, plain = nn.Linear(4, 4), nn.Linear(4, 4)
    plain.load_state_dict(shared.state_dict())
    a, b = torch.randn(6, 4), torch.randn(6, 4)

    def loss(net: nn.Linear) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: (net(x) * y).sum().tanh() + net.weight.square().sum()

    cached_backward([Encoding(shared, a.split(2)), Encoding(shared, b.split(3))], loss(shared))
    loss(plain)(plain(a), plain(b)).backward()
    compare(gradients(shared), gradients(plain))


def test_what_is_passed_on_and_what_is_refused() -> None:
    net = nn.Linear(4, 4)
    seen: list[Tensor] = []

    def forward(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return net(part), torch.full((len(part),), len(part)), part

    def loss(vectors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        seen.append(vectors[1])
        return vectors[0].sum()

    cached_backward([Encoding(forward, torch.ones(5, 4).split(2))], loss)
    assert seen[0].tolist() == [2, 2, 2, 2, 1]
    with pytest.raises(ValueError, match="needs a micro-batch"):
        cached_backward([Encoding(net, [])], loss)


# --- two processes ---------------------------------------------------------------------------


def in_two(work: Callable[..., None], folder: Path, *more: Any) -> None:
    """Run `work(rank, *more)` in two processes of one gloo group."""
    torch.multiprocessing.spawn(_enter, (work, str(folder / "meet"), more), nprocs=2)


def _enter(rank: int, work: Callable[..., None], meet: str, more: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    work(rank, *more)
    # Threads of a group that DDP was given outlive the group, and what they hold when Python ends
    # would abort this process. What fails does not come here and is told by `spawn`.
    os._exit(0)


def own_part(rank: int, rows: Tensor, each: int = 1) -> Tensor:
    """Unequal halves: 5 samples and 3."""
    return rows[: 5 * each] if rank == 0 else rows[5 * each :]


def _two_equal_one(rank: int, folder: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    expected = torch.load(Path(folder) / "one.pt")
    slides, texts, keys = data()
    slides = own_part(rank, slides)
    texts, keys = own_part(rank, texts, TEXTS), own_part(rank, keys, TEXTS)

    # 1. Gathering: order, offset, and the sum of what both ask.
    rows = (torch.arange(5.0) if rank == 0 else torch.arange(5.0, 8.0)).requires_grad_()
    every = gather_rows(rows)
    assert every.tolist() == list(range(8))
    assert row_offset(rows) == (0 if rank == 0 else 5)
    (every * torch.arange(8.0) * (rank + 1)).sum().backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [3.0 * value for value in rows.tolist()]
    labels = torch.tensor([[0, 1, 2]]) if rank == 0 else torch.tensor([[0, 1, -100], [0, 2, 2]])
    logits = torch.arange(float(labels.numel() * 3)).view(*labels.shape, 3).sin() + rank
    share = caption_loss(logits, labels)
    dist.all_reduce(share)
    torch.testing.assert_close(share / 2, expected["caption"])

    # 2. Plain: the mean of losses and of gradients of two processes.
    system = System().eval()
    loss = system.loss(system.slide(slides), system.text(texts), keys)
    loss.backward()
    for parameter in system.parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
    compare(gradients(system), expected["gradients"])
    value = loss.detach().clone()
    dist.all_reduce(value)
    torch.testing.assert_close(value / 2, expected["loss"])

    # 3. Cached, in networks wrapped in DDP, with a different number of micro-batches.
    for micro in (1, 2, 8):
        system = System().eval()
        system.slide = DistributedDataParallel(system.slide)
        system.text = DistributedDataParallel(system.text)
        cached_backward(
            encodings(system, slides, texts, micro),
            lambda vectors, sub: system.loss(vectors, sub, keys),  # noqa: B023
            loss_parameters=system.loss_parameters(),
        )
        compare(gradients(system), expected["gradients"])

    # 4. Two calls a step.
    system = System().eval()
    system.slide = DistributedDataParallel(system.slide)
    system.text = DistributedDataParallel(system.text)
    for _ in range(2):
        cached_backward(
            encodings(system, slides, texts, 2),
            lambda vectors, sub: system.loss(vectors, sub, keys),
            loss_parameters=system.loss_parameters(),
            scale=0.5,
        )
    compare(gradients(system), expected["gradients"])

    # 5. A parameter of the loss that was not told.
    with pytest.raises(ValueError, match="not in loss_parameters"):
        cached_backward(
            encodings(system, slides, texts, 2),
            lambda vectors, sub: system.loss(vectors, sub, keys),
        )


def test_two_processes_are_one(tmp_path: Path) -> None:
    loss, expected = whole(System().eval())
    labels = torch.tensor([[0, 1, 2], [0, 1, -100], [0, 2, 2]])
    first = torch.arange(9.0).view(1, 3, 3).sin()
    second = torch.arange(18.0).view(2, 3, 3).sin() + 1
    caption = caption_loss(torch.cat([first, second]), labels)
    torch.save({"loss": loss, "gradients": expected, "caption": caption}, tmp_path / "one.pt")
    in_two(_two_equal_one, tmp_path, str(tmp_path))
