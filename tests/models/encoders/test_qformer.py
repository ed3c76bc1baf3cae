"""The Q-Former against transformers' BLIP-2, with the same weights, and its text side."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wsiprep.models import Bag, pack
from wsiprep.models.attention import Context
from wsiprep.models.encoders import qformer
from wsiprep.models.encoders._qformer_network import QFormerNetwork
from wsiprep.models.ragged import Plan, even_starts
from wsiprep.testing.slide_encoder import store_order

torch.set_num_threads(1)
SMALL = {
    "dim": 16, "width": 24, "layers": 3, "heads": 4, "hidden": 32, "queries": 3,
    "mixer_heads": 4, "mixer_hidden": 20,
}  # fmt: skip
WORDS = 37


def bag(count, seed):
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(1600, generator=generator)[:count]
    cell = torch.stack([picked // 40, picked % 40], dim=1)
    features = torch.randn(count, 12, generator=generator)
    return Bag(features, cell[store_order(cell)], torch.zeros(count, dtype=torch.int64))


def network(vocabulary=0):
    torch.manual_seed(0)
    return QFormerNetwork(
        32, 4, 4, 48, context_dim=24, vocabulary=vocabulary, positions=20
    ).eval()  # fmt: skip


def blip(text):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(1)
    config = transformers.Blip2QFormerConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=48, encoder_hidden_size=24, cross_attention_frequency=2,
        use_qformer_text_input=text, max_position_embeddings=20,
    )  # fmt: skip
    model = transformers.Blip2QFormerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def mapped(model, ours, text):
    """Weights of a `Blip2QFormerModel` under our names; biases of keys are left out."""
    theirs = model.state_dict()
    names = {"norm": "layernorm"}
    for n in range(4):
        here, there = f"layers.{n}", f"encoder.layer.{n}"
        for a, b in (("attention", "attention"), ("cross", "crossattention")):
            if a == "cross" and n % 2:
                continue
            for part in ("query", "key", "value"):
                names[f"{here}.{a}.{part}"] = f"{there}.{b}.attention.{part}"
            names[f"{here}.{a}.out"] = f"{there}.{b}.output.dense"
            norm = "norm" if a == "attention" else "cross_norm"
            names[f"{here}.{norm}"] = f"{there}.{b}.output.LayerNorm"
        for a, b in (("query_block", "_query"), ("text_block", "")):
            if a == "text_block" and not text:
                continue
            names[f"{here}.{a}.ffn.up"] = f"{there}.intermediate{b}.dense"
            names[f"{here}.{a}.ffn.down"] = f"{there}.output{b}.dense"
            names[f"{here}.{a}.norm"] = f"{there}.output{b}.LayerNorm"
    state = {
        name: theirs[names[name.rsplit(".", 1)[0]] + "." + name.rsplit(".", 1)[1]]
        for name in ours.state_dict()
        if not name.startswith(("word", "position"))
    }
    used = {names[n.rsplit(".", 1)[0]] + "." + n.rsplit(".", 1)[1] for n in state}
    assert all(n.endswith("key.bias") for n in set(theirs) - used)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(n.startswith(("word", "position")) for n in missing)


@pytest.mark.parametrize("lengths", [[50, 9, 30], [17, 17, 17], [1, 200, 3]])
def test_equals_blip2(lengths):
    model, ours = blip(text=False), network()
    mapped(model, ours, text=False)
    queries, count = torch.randn(3, 5, 32), 3
    starts = torch.tensor([0, *lengths]).cumsum(0)
    patches = torch.randn(int(starts[-1]), 24)
    padded = torch.full((count, max(lengths), 24), 7.0)
    mask = torch.zeros(count, max(lengths), dtype=torch.int64)
    for b, n in enumerate(lengths):
        padded[b, :n], mask[b, :n] = patches[starts[b] : starts[b + 1]], 1
    with torch.no_grad():
        wanted = model(
            query_embeds=queries, encoder_hidden_states=padded, encoder_attention_mask=mask
        ).last_hidden_state
        even = even_starts(count, 5)
        context = Context(patches, Plan(even, starts))
        found = ours(queries.flatten(0, 1), Plan(even, even), context)
    torch.testing.assert_close(found.unflatten(0, (3, 5)), wanted, atol=1e-5, rtol=1e-5)


def test_equals_blip2_with_text():
    model, ours = blip(text=True), network(vocabulary=WORDS)
    mapped(model, ours, text=True)
    queries, words = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    patches = torch.randn(2 * 11, 24)
    with torch.no_grad():
        wanted = model(
            query_embeds=torch.cat([queries, words], 1),
            query_length=5,
            encoder_hidden_states=patches.unflatten(0, (2, 11)),
        ).last_hidden_state
        even, both = even_starts(2, 5), even_starts(2, 12)
        kind = (torch.arange(24) % 12) < 5
        found = ours(
            torch.cat([queries, words], 1).flatten(0, 1),
            Plan(both, both),
            Context(patches, Plan(even, even_starts(2, 11))),
            kind,
        )
    torch.testing.assert_close(found.unflatten(0, (2, 12)), wanted, atol=1e-5, rtol=1e-5)


def test_starts_from_a_bert():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=20,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    encoder = qformer.create(qformer.Config(**SMALL, vocabulary=WORDS, text_length=20), 12).eval()
    encoder.load_bert(model.state_dict())
    ids = torch.randint(0, WORDS, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        wanted = encoder.text_head(hidden[:, 0])
        torch.testing.assert_close(encoder.text(ids, mask), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(KeyError):
        encoder.load_bert({})


def encoder_with_text():
    torch.manual_seed(0)
    return qformer.create(qformer.Config(**SMALL, vocabulary=WORDS, text_length=20), 12).eval()


def test_matching_pairs_equal_pairs_alone():
    encoder = encoder_with_text()
    bags = pack([bag(40, 1), bag(0, 2), bag(90, 3)])
    pick = torch.tensor([2, 0, 0, 1])
    ids = torch.randint(0, WORDS, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([6, 3, 5, 1])[:, None]
    found = encoder.together(bags, pick, ids, mask)
    assert found.shape == (4, 3, 24)
    for n, (b, length) in enumerate(zip(pick.tolist(), [6, 3, 5, 1], strict=True)):
        alone = pack([[bag(40, 1), bag(0, 2), bag(90, 3)][b]])
        one = encoder.together(
            alone, torch.zeros(1, dtype=torch.int64), ids[n : n + 1, :length],
            mask[n : n + 1, :length],
        )  # fmt: skip
        torch.testing.assert_close(one[0], found[n], atol=1e-5, rtol=1e-5)
    other = ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % WORDS
    assert not torch.allclose(encoder.together(bags, pick, other, mask)[0], found[0], atol=1e-4)


def test_text_needs_a_vocabulary():
    encoder = qformer.create(qformer.Config(**SMALL), 12)
    with pytest.raises(ValueError, match="vocabulary"):
        encoder.text(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))


def test_attention_of_regions_sums_to_one_in_each():
    encoder = qformer.create(qformer.Config(**SMALL), 12).eval()
    bags = pack([bag(300, 1), bag(0, 2), bag(4, 3)])
    share = encoder.region_attention(bags)
    sums = torch.zeros(len(bags.region_bag)).index_add(0, bags.region, share)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_regions_folded_into_the_batch_equal_one_region_at_a_time():
    cfg = qformer.Config(**(SMALL | {"mixer_layers": 0}))
    torch.manual_seed(0)
    encoder = qformer.create(cfg, 12).eval()
    whole = bag(500, 1)
    bags = pack([whole])
    found = encoder(bags).region
    for n in range(len(found)):
        part = whole.take((bags.region == n).nonzero()[:, 0])
        torch.testing.assert_close(encoder(pack([part])).slide[0], found[n], atol=1e-5, rtol=1e-5)


def test_recomputing_changes_no_gradient(monkeypatch):
    """Large bags are worked on with less memory, to the same result, with dropout too."""
    from wsiprep.models.encoders import _qformer_network as module

    found = []
    for limit in (1, 10**9):
        monkeypatch.setattr(module, "KEPT_ROWS", limit)
        torch.manual_seed(0)
        encoder = qformer.create(qformer.Config(**SMALL), 12).train()
        torch.manual_seed(1)
        out = encoder(pack([bag(200, 1), bag(30, 2)]))
        (out.slide.sum() + out.region.square().sum()).backward()
        found.append([out.slide.detach(), *(p.grad for p in encoder.parameters())])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("queries", [3, 20])
@pytest.mark.parametrize("width", [12, 40])
def test_groups_change_nothing(queries, width, monkeypatch):
    """However many sequences go through together, and whether the adapter is read through."""
    from wsiprep.models.encoders import _qformer_network as module

    generator = torch.Generator().manual_seed(0)
    bags = [bag(n, seed) for seed, n in enumerate((200, 0, 30, 250))]
    bags = [
        Bag(torch.randn(len(one), width, generator=generator), one.cell, one.slide) for one in bags
    ]
    torch.manual_seed(0)
    encoder = qformer.create(qformer.Config(**(SMALL | {"queries": queries})), width)
    encoder = encoder.double().eval()
    packed = pack(bags).to("cpu", torch.float64)
    assert (encoder._rows(packed)[1] is not None) == (queries == 3 and width == 12)
    found = []
    for rows in (1, 7 * queries, 10**6):
        monkeypatch.setattr(module, "GROUP_ROWS", {False: rows})
        encoder.zero_grad()
        out = encoder(packed)
        (out.slide.sum() + out.region.square().sum()).backward()
        grads = [p.grad for p in encoder.parameters()]
        found.append([out.slide, out.region, out.attention, *grads])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


CHILD = """
import sys, torch
from wsiprep.core.malloc import return_large_blocks
from wsiprep.models import Bag, pack
from wsiprep.models.encoders import qformer
from wsiprep.testing.slide_encoder import store_order
torch.set_num_threads(1)
return_large_blocks()
count = int(sys.argv[1])
place = torch.randperm(count * 4 // 3)[:count]
cell = torch.stack([place // 400, place % 400], dim=1)
cell = cell[store_order(cell)]
bags = pack([Bag(torch.randn(count, 512), cell, torch.zeros(count, dtype=torch.int64))])
encoder = qformer.create(qformer.Config(), 512)
out = encoder(bags)
(out.slide.square().sum() + out.region.square().sum()).backward()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_a_large_slide_fits_into_2_gb():
    """Forward and backward, dropout on, of the default Q-Former: 100,000 patches."""
    command = [sys.executable, "-c", CHILD, "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2e9


@pytest.mark.slow  # 10,000 patches through a network of full size
def test_work_is_linear_in_the_patches():
    """Multiply-adds, forward and backward, of the default Q-Former."""
    encoder = qformer.create(qformer.Config(), 512)
    done = []
    for count in (2_000, 8_000):
        place = torch.randperm(count * 4 // 3)[:count]
        cell = torch.stack([place // 100, place % 100], dim=1)
        section = torch.zeros(count, dtype=torch.int64)
        bags = pack([Bag(torch.randn(count, 512), cell[store_order(cell)], section)])
        with FlopCounterMode(display=False) as counter:
            out = encoder(bags)
            (out.slide.square().sum() + out.region.square().sum()).backward()
        done.append(counter.get_total_flops())
    few, many = done
    assert 3 < many / few < 4
