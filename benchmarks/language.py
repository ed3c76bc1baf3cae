"""What do slides of unequal size cost a slide-language model, in time and memory?

Packed bags    one training step (forward, backward, AdamW) of a slide encoder of PathFLIP 2's kind,
               256 wide, on 8 bags of 200 to 20,000 patches: `packed`, as we do; `padded`, the same
               network and the same numbers on a rectangle with a mask, as is common; `one by one`.
               Only patches that are there count.
Q-Former       forward and backward of PathFLIP's, 512 numbers a patch, in a process of its own:
               linear in patches is a ratio of 1; `peak MiB` is all of the process, of which
               `imports only` and the network are a fixed part.
From stores    patches of batches drawn and read from a store (float16, 1280 numbers, from the page
               cache, two threads), against a training step of that encoder on them.
Regions drawn  24 regions of a slide of 20,108 patches, as PathFLIP draws them, in the same store:
               `everything read` and then drawn from, and `as drawn`, as we do. `MiB beyond` is the
               peak of a process of its own beyond that of one that only opens the store.
Large batches  a contrast of 256 slides of 256 patches, whole and by gradient caching in pieces of
               8, and a batch of 8; each in a process of its own. `MiB beyond` is what a step
               needs beyond its data, texts and network.

Dropout is on. On CPU, one thread. Processes that tell their memory call
`wsiprep.core.malloc.return_large_blocks` first, as glibc else keeps what is freed.

    python benchmarks/language.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from child import in_child
from harness import Case, Done, compare, options
from store_layout import DIM, Features, Ours
from torch import Tensor, nn

from wsiprep.core.malloc import return_large_blocks
from wsiprep.models import Bag, PackedBags, pack
from wsiprep.models.encoders import perceiver, qformer
from wsiprep.models.gradient_cache import Encoding, cached_backward
from wsiprep.models.objectives import InfoNCE
from wsiprep.models.sampling import Sampling, sample
from wsiprep.testing.slide_encoder import store_order
from wsiprep.train.language.cases import Cases, batches
from wsiprep.train.language.manifest import Sample

INPUT = 512
OPENED, READ_ALL, AS_DRAWN = range(3)
SMALL = {"dim": 256, "latents": 65}

CHILD = """
from child import tell
import language
words = [int(w) if w.lstrip("-").isdigit() else w for w in sys.argv[2:]]
tell(getattr(language, sys.argv[1])(*words))
"""


def bag(patches: int, seed: int, dtype: torch.dtype = torch.float32) -> Bag:
    """Noise on cells of a square, three quarters of which hold a patch."""
    generator = torch.Generator().manual_seed(seed)
    side = 1 + int((patches / 0.75) ** 0.5)
    place = torch.arange(side * side)
    cell = torch.stack([place // side, place % side], dim=1)
    cell = cell[torch.randperm(len(cell), generator=generator)[:patches]]
    features = torch.randn(patches, INPUT, generator=generator).to(dtype)
    return Bag(features, cell[store_order(cell)], torch.zeros(patches, dtype=torch.int64))


def sizes(quick: bool) -> list[int]:
    """Patches of 8 bags, evenly on a logarithmic scale."""
    least, most = (20, 400) if quick else (200, 20_000)
    return [round(least * (most / least) ** (k / 7)) for k in range(8)]


def small_encoder(input_dim: int) -> perceiver.PerceiverEncoder:
    torch.manual_seed(0)
    return perceiver.create(perceiver.Config(**SMALL), input_dim)


def on_rectangle(
    net: perceiver.PerceiverEncoder, x: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """The encoder on a rectangle: slides (B, d) and patches (B, L, d).

    Args:
        net: With one layer, one self block and the decoder.
        x: float (B, L, D).
        there: bool (B, L), False on padding.
    """

    def block(of: Any, x: Tensor, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        attention = of.attention
        q, k, v = (
            p(t).unflatten(2, (attention.heads, attention.width)).transpose(1, 2)
            for p, t in (
                (attention.query, of.norm(x)),
                (attention.key, rows),
                (attention.value, rows),
            )
        )
        drop = attention.dropout if of.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        x = x + attention.out(out.transpose(1, 2).flatten(2))
        return x + of.ffn(of.ffn_norm(x).flatten(0, 1)).view_as(x)

    x = net.adapter(x.flatten(0, 1)).unflatten(0, there.shape)
    z = net.latents.expand(len(x), -1, -1)
    reader, thinker, decoder = net.read[0], net.think[0], net.decoder
    z = block(reader, z, reader.context_norm(x), there[:, None, None])
    z = block(thinker, z, thinker.norm(z))
    x = x + block(decoder, x, decoder.context_norm(z))
    return net.slide_head(z[:, 0]), net.patch_head(x.flatten(0, 1)).view_as(x)


def as_rectangle(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Zeros up to the longest: float (B, L, D), and bool (B, L)."""
    x = nn.utils.rnn.pad_sequence([one.features for one in bags], batch_first=True)
    many = torch.tensor([len(one) for one in bags])
    return x, torch.arange(x.shape[1]) < many[:, None]


def check_equal(net: perceiver.PerceiverEncoder, bags: Sequence[Bag]) -> None:
    """Refuse to compare ways that do not give the same."""
    net.eval()
    with torch.no_grad():
        out = net(pack(bags))
        slide, patch = on_rectangle(net, *(given := as_rectangle(bags)))
    torch.testing.assert_close(out.slide, slide, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.patch, patch[given[1]], rtol=1e-3, atol=1e-4)
    net.train()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, losses: Sequence[Any]) -> None:
    """One step on the sum of losses, each made and sent back before the next."""
    optimizer.zero_grad()
    for loss in losses:
        loss().backward()
    optimizer.step()


def of_packed(net: nn.Module, bags: PackedBags) -> Tensor:
    out = net(bags)
    return out.slide.square().sum() + out.patch.square().sum() / 1000


def of_padded(net: perceiver.PerceiverEncoder, bags: Sequence[Bag]) -> Tensor:
    x, there = as_rectangle(bags)
    slide, patch = on_rectangle(net, x, there)
    return slide.square().sum() + (patch * there[..., None]).square().sum() / 1000


def packing_cases(quick: bool) -> list[Case]:
    bags = [bag(n, seed) for seed, n in enumerate(sizes(quick))]
    patches = sum(len(one) for one in bags)
    net = small_encoder(INPUT)
    check_equal(net, bags)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    ways: dict[str, list[Callable[[], Tensor]]] = {
        "padded": [lambda: of_padded(net, bags)],
        "packed": [lambda: of_packed(net, pack(bags))],
        "one by one": [lambda one=one: of_packed(net, pack([one])) for one in bags],
    }
    worked = {"padded": len(bags) * max(map(len, bags))}

    def run(name: str) -> Done:
        train(net, optimizer, ways[name])
        return Done(patches, {"patches worked on": worked.get(name, patches)})

    return [Case(n, {}, "patches", nullcontext, lambda _, n=n: run(n)) for n in ways]


def qformer_step(patches: int, layers: int) -> int:
    """Forward and backward of one slide; 0 patches only make the network."""
    torch.set_num_threads(1)
    return_large_blocks()
    torch.manual_seed(0)
    net = qformer.create(qformer.Config(layers=layers), INPUT).train()
    if patches:
        out = net(pack([bag(patches, 0)]))
        (out.slide.square().sum() + out.region.square().sum()).backward()
    return patches


def qformer_cases(quick: bool) -> list[Case]:
    layers = 2 if quick else 12
    counts = (500, 1000) if quick else (25_000, 50_000, 100_000)

    def run(count: int) -> Done:
        return in_child(CHILD, ["qformer_step", count, layers])

    names = {0: "imports only"} | {count: f"{count:,}" for count in counts}
    return [
        Case(name, {"layers": layers}, "patches", nullcontext, lambda _, n=count: run(n))
        for count, name in names.items()
    ]


def store_cases(folder: Path, quick: bool) -> list[Case]:
    slides, drawn = (2, 64) if quick else (8, 2048)
    samples = [Sample(id=f"s{n}", slides=("slide",), caption="-") for n in range(slides)]
    sampling = Sampling(method="stratified", patches=drawn)
    (cases,) = Cases.of_splits([samples], folder, sampling)
    size = max(1, slides // 2)
    (first,) = batches(cases, size, 1, 1)
    ready = pack(first.bags).to("cpu", torch.float32)
    net = small_encoder(DIM).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def read(_: Any) -> Done:
        found = [pack(one.bags).to("cpu", torch.float32) for one in batches(cases, size, 1, 4)]
        return Done(sum(len(one.features) for one in found))

    def step(_: Any) -> Done:
        train(net, optimizer, [lambda: of_packed(net, ready)])
        return Done(len(ready.features))

    return [
        Case("training step", {}, "patches", nullcontext, step),
        Case("store to batch", {}, "patches", nullcontext, read),
    ]


def region_cases(folder: Path, regions: int) -> list[Case]:
    cases = region_source(folder, regions)
    ways = {"everything read": READ_ALL, "as drawn": AS_DRAWN}
    one, other = (read_regions(cases, way, 0) for way in ways.values())
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.cell, other.cell)
    peak = {way: _peak("region_step", folder, regions, way) for way in (OPENED, *ways.values())}
    epochs = count(1)

    def run(way: int) -> Done:
        made = read_regions(cases, way, next(epochs))
        return Done(len(made), {"MiB beyond": peak[way] - peak[OPENED]})

    return [Case(n, {}, "patches", nullcontext, lambda _, w=way: run(w)) for n, way in ways.items()]


def held(folder: Path) -> int:
    return len(region_source(folder, 1).patches(0).cell)


def region_source(folder: Path, regions: int) -> Cases:
    sampling = Sampling(method="regions", regions=regions)
    slide = Sample(id="s", slides=("slide",), caption="-")
    return Cases.of_splits([[slide]], folder, sampling)[0]


def read_regions(cases: Cases, way: int, epoch: int) -> Bag:
    if way == AS_DRAWN:
        return cases.bag(0, epoch)
    whole = cases.patches(0)
    whole = whole.take(torch.arange(len(whole.cell)))
    return sample(whole, cases.sampling, seed=cases.seed, epoch=epoch, slide_id=cases.names[0])


def region_step(folder: str, regions: int, way: int) -> int:
    """Read what is drawn of a slide, in one of the ways."""
    torch.set_num_threads(1)
    return_large_blocks()
    cases = region_source(Path(folder), regions)
    return 0 if way == OPENED else len(read_regions(cases, way, 0))


def contrast(slides: int, piece: int, patches: int) -> int:
    """One step of contrast on slides, in pieces; 0 is whole, and -1 makes only the data."""
    torch.set_num_threads(1)
    return_large_blocks()
    net = small_encoder(INPUT).train()
    bags = [bag(patches, seed, torch.float16) for seed in range(slides)]
    texts = torch.randn(slides, net.dim)
    loss = InfoNCE()

    def forward(some: Sequence[Bag]) -> Tensor:
        whole = pack(some)
        return net(replace(whole, features=whole.features.float())).slide

    if piece > 0:
        pieces = [bags[a : a + piece] for a in range(0, slides, piece)]
        encoding = Encoding(forward, pieces, (net,))
        cached_backward([encoding], lambda slide: loss(slide, texts))
    elif piece == 0:
        loss(forward(bags), texts).backward()
    return slides


def contrast_cases(quick: bool) -> list[Case]:
    many, piece, patches = (8, 2, 32) if quick else (256, 8, 256)
    ways = {
        f"{piece} whole": (piece, 0),
        f"{many} in pieces of {piece}": (many, piece),
        f"{many} whole": (many, 0),
    }
    peak = {count: _peak("contrast", count, -1, patches) for count in (piece, many)}

    def run(count: int, size: int) -> Done:
        done = in_child(CHILD, ["contrast", count, size, patches])
        beyond = float(done.facts["peak MiB"]) - peak[count]
        return Done(done.amount, {"peak MiB": done.facts["peak MiB"], "MiB beyond": beyond})

    return [
        Case(name, {}, "slides", nullcontext, lambda _, w=way: run(*w))
        for name, way in ways.items()
    ]


def _peak(*words: int | str | Path) -> float:
    return float(in_child(CHILD, list(words)).facts["peak MiB"])


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    torch.set_num_threads(1)
    many = sizes(opts.quick)
    compare(
        f"Slides and language: a training step on bags of {many[0]:,} to {many[-1]:,} patches",
        packing_cases(opts.quick), ("padded",), opts,
    )  # fmt: skip
    cases = qformer_cases(opts.quick)
    title = "Slides and language: a Q-Former forward and backward on one slide"
    compare(title, cases, (cases[-2].name,), opts)
    with tempfile.TemporaryDirectory() as folder:
        Ours(Features(20, 30) if opts.quick else Features(100, 150)).write(Path(folder))
        title = "Slides and language: from a store to a batch"
        compare(title, store_cases(Path(folder), opts.quick), ("training step",), opts)
    with tempfile.TemporaryDirectory() as folder:
        Ours(Features(60, 60) if opts.quick else Features(200, 200)).write(Path(folder))
        regions = 4 if opts.quick else 24
        title = (
            f"Slides and language: {regions} regions of a slide of {held(Path(folder)):,} patches"
        )
        cases = region_cases(Path(folder), regions)
        compare(title, cases, ("everything read",), opts)
    cases = contrast_cases(opts.quick)
    compare("Slides and language: a large batch in pieces", cases, (cases[0].name,), opts)


if __name__ == "__main__":
    main()
