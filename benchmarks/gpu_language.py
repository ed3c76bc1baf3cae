"""How much of a GPU do `train align` and `train instruct` use?

align     a step of each recipe that ships, at its real size, on as many slides as it puts through
          at once; a text encoder from the hub is replaced by our own transformer of its size
instruct  a step of an assistant that shows 1,024 patches of each of 4 slides to a language model of
          0.5, 1.5 or 7 B random weights: frozen (the projector learns), with LoRA, and in full

A step is what training does with a batch in memory: to the device, forward, backward, AdamW, with
bf16 autocast. A token is what a network reads: a patch in `align`, a patch or a piece of text in
`instruct`. FLOPs are those of matrix products, counted once over a real forward and backward pass;
what is computed twice to save memory counts twice, and on a CPU fused attention is not counted.
MFU is their rate over the peak of the device in dense bf16, known for some by name and else given.
What does not fit into memory is left out and named. Without a CUDA device nothing is measured;
--device cpu --quick shows that the script runs.

    python benchmarks/gpu_language.py [--part align | instruct] [--patches 10000] [--steps 5]
                                      [--peak-tflops N] [--device cuda] [--quick] [--repeats N]
                                      [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import gc
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu import NOTHING
from harness import Case, Done, compare, options
from torch.utils.flop_counter import FlopCounterMode

from wsiprep.models import Bag
from wsiprep.models.aligned import Aligned
from wsiprep.models.assistant import Assistant
from wsiprep.models.assistant_parts import AssistantParts
from wsiprep.models.language import Turn
from wsiprep.models.language.hf import HfConfig, HfLanguageModel
from wsiprep.models.language.projector import Projector
from wsiprep.models.sampling import Sampling
from wsiprep.models.towers import make_slide_encoder
from wsiprep.testing.slide_encoder import store_order
from wsiprep.train.language.align import AlignLearner, make_tokenizer
from wsiprep.train.language.cases import Batch, Cases
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.instruct import InstructLearner
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.loop import Learner
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.memory import peak_mib
from wsiprep.train.language.processes import Processes
from wsiprep.train.language.recipe import AlignRecipe, load_recipe, section

INPUT = 1536
RECIPES = ("pathflip", "pathflip-v2", "pathalign", "prism", "wsi-llava")
TUNINGS = ("frozen", "lora", "full")
SLIDES, SHOWN = 4, 1024
"""Of a step of `instruct`: slides, and patches of each."""
FEATURES = Fingerprint("noise", "", INPUT, 0.5, 256, 256, normalised=False)

BERT = "model.texts={encoder: transformer, options: {dim: 768, layers: 12, heads: 12}}"
"""In place of text encoders from the hub, all of which are of BERT's size."""
LLMS: dict[str, dict[str, Any]] = {
    "0.5 B": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "1.5 B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7 B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Of the shapes of Qwen2.5."""
VOCABULARY = 151_936

SMALL_QFORMER = (
    "model.slides.options={dim: 32, queries: 4, width: 32, layers: 2, heads: 4, hidden: 64, "
    "mixer_layers: 0, regions: true}"
)
SMALL_PERCEIVER = "model.slides.options={dim: 32, latents: 5, heads: 4}"
SMALL_TEXT = "model.texts={encoder: transformer, options: {dim: 32, layers: 1, heads: 4}}"
SMALL_CAPTIONS = "model.objectives.caption_options={width: 32, layers: 2, heads: 4, hidden: 64}"
SMALL = {
    "pathflip": (SMALL_QFORMER,),
    "pathflip-v2": (SMALL_PERCEIVER, SMALL_TEXT),
    "pathalign": (SMALL_QFORMER, SMALL_CAPTIONS),
    "prism": (SMALL_PERCEIVER, SMALL_TEXT, SMALL_CAPTIONS),
    "wsi-llava": (
        "model.slides.options={dim: 32, layers: 1, heads: 4, hidden: 64, tokens: 16}", SMALL_TEXT,
    ),
}  # fmt: skip
SMALL_LLM = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip

PEAK_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0,
    "A100": 312.0, "L40S": 362.0, "A40": 150.0, "RTX A6000": 155.0, "RTX 4090": 165.0,
}  # fmt: skip
"""Dense bf16 products with float32 sums, as the maker says; the first name that fits."""

WORDS = (
    "tumour", "nests", "stroma", "necrosis", "mucin", "glands", "lymphocytes", "grade", "two",
    "three", "with", "without", "invasion", "of", "vessels", "margins", "seen", "rare",
)  # fmt: skip
END = "</s>"


@dataclass(frozen=True, slots=True)
class Ready:
    """A learner with a batch, warmed up.

    Attributes:
        learner: On its device, in training mode.
        optimiser: Of all that learns.
        batch: On the CPU.
        flops: Of a step.
    """

    learner: Learner
    optimiser: torch.optim.Optimizer
    batch: Batch
    flops: int


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Own flags, and those that every benchmark has."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--part", choices=("align", "instruct"))
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--device", default="cuda")
    own, rest = parser.parse_known_args(argv)
    opts = options(__doc__, rest)
    if own.patches < 1 or own.steps < 1:
        parser.error("--patches and --steps must be at least 1")
    if opts.quick:
        own.patches, own.steps = 64, 1
    return own, opts


def peak_of(device: str, given: float | None) -> float | None:
    """FLOP/s of a device, or None where it is not known."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    known = (k for k in PEAK_TFLOPS if re.search(rf"\b{k}\b", name))
    return next((PEAK_TFLOPS[k] * 1e12 for k in known), None)


def sentences(count: int, seed: int) -> str:
    """Sentences of eight words."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(WORDS), (count, 8), generator=generator).tolist()
    return " ".join(" ".join(WORDS[i] for i in row).capitalize() + "." for row in drawn)


def cases_of(slides: int, patches: int, sampling: Sampling) -> Cases:
    """Slides that share their patches, of which each draws its own."""
    generator = torch.Generator().manual_seed(0)
    side = 1 + int((patches / 0.75) ** 0.5)
    place = torch.randperm(side * side, generator=generator)[:patches]
    cell = torch.stack([place // side, place % side], dim=1)
    features = torch.randn(patches, INPUT, generator=generator).half()
    bag = Bag(features, cell[store_order(cell)], torch.zeros(patches, dtype=torch.int64))
    samples = [
        Sample(
            id=f"s{n}", slides=(f"s{n}",), caption=sentences(12, n),
            conversations=(Turn("user", sentences(2, n)), Turn("assistant", sentences(20, n))),
        )
        for n in range(slides)
    ]  # fmt: skip
    return Cases(samples, lambda _: bag, FEATURES, sampling)


def batch_of(cases: Cases) -> Batch:
    bags = tuple(cases.bag(row, 0) for row in range(len(cases)))
    return Batch(1, 0, cases.samples, bags)


def processes_on(device: str) -> Processes:
    return Processes(0, 1, torch.device(device), "bf16")


def align(name: str, own: argparse.Namespace, quick: bool) -> tuple[Learner, Batch]:
    """A recipe, on as many slides as it puts through at once."""
    named = load_recipe(name)
    changes = SMALL[name] if quick else ()
    if not quick and named.align is not None and named.align["model"]["texts"]["encoder"] == "hf":
        changes = (BERT,)
    recipe = section(named, "align", AlignRecipe, changes)
    how = recipe.optimisation
    slides = 2 if quick else how.micro_batch or how.batch_size
    recipe = section(named, "align", AlignRecipe, (*changes, "optimisation.micro_batch=null"))
    cases = cases_of(slides, own.patches, recipe.sampling)
    torch.manual_seed(0)
    model = Aligned(recipe.model, INPUT, make_tokenizer(recipe.model, cases.samples))
    here = processes_on(own.device)
    learner = AlignLearner(
        model.to(here.device), recipe, cases, None, here, seed=0, name=name
    )  # fmt: skip
    return learner, batch_of(cases)


def instruct(
    shape: dict[str, Any], tuning: Any, own: argparse.Namespace, quick: bool
) -> tuple[Learner, Batch]:
    """An assistant with a language model of random weights."""
    import transformers

    shown, vocabulary = (16, 512) if quick else (SHOWN, VOCABULARY)
    parts = AssistantParts.model_validate({
        "slides": {"encoder": "identity"}, "projector": {"projector": "mlp2"},
        "assistant": {"template": "llava_v1", "max_tokens": 2 * SHOWN},
    })  # fmt: skip
    recipe = AssistantRecipe(
        model=parts, captions=False, sampling=Sampling(method="uniform", patches=shown)
    )
    cases = cases_of(2 if quick else SLIDES, max(own.patches, shown), recipe.sampling)
    tokenizer = words_tokenizer()
    config = transformers.Qwen2Config(
        **shape, vocab_size=vocabulary, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(own.device):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    language = HfLanguageModel(network, tokenizer, HfConfig(llm="random", tuning=tuning), {})
    assert parts.slides is not None
    encoder, width = make_slide_encoder(parts.slides, INPUT)
    projector = Projector(parts.projector, width, language.width)
    model = Assistant(encoder, projector, language, parts.assistant).to(own.device)
    learner = InstructLearner(
        model, parts, recipe, cases, None, processes_on(own.device),
        command="instruct", name="random",
    )  # fmt: skip
    return learner, batch_of(cases)


def words_tokenizer() -> Any:
    """Byte pairs made of the words, as transformers has them."""
    import tokenizers
    import transformers

    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator([sentences(50, 0)], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END)


@contextmanager
def ready(make: Callable[[], tuple[Learner, Batch]]) -> Iterator[Ready]:
    """Made, with a step behind it in which FLOPs were counted; freed afterwards."""
    learner, batch = make()
    learner.module.train()
    learned = [p for rate in learner.rates() for p in rate.parameters.values()]
    optimiser = torch.optim.AdamW(learned, lr=1e-5)
    with FlopCounterMode(display=False) as counter:
        learner.backward(batch)
    optimiser.step()
    made = Ready(learner, optimiser, batch, counter.get_total_flops())
    del learner, batch, learned, optimiser
    try:
        yield made
    finally:
        del made
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def train(steps: int, peak: float | None, made: Ready) -> Done:
    """Steps of training."""
    device = next(made.learner.module.parameters()).device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began, tokens = time.perf_counter(), 0.0
    for _ in range(steps):
        made.optimiser.zero_grad(set_to_none=True)
        found = made.learner.backward(made.batch)
        made.optimiser.step()
        read = sum(len(bag) for bag in made.batch.bags)
        tokens += float(found.get("tokens", torch.tensor(read)))
    if on_gpu:
        torch.cuda.synchronize(device)
    rate = made.flops * steps / (time.perf_counter() - began)
    facts = {"TFLOP a step": made.flops / 1e12, "TFLOP/s": rate / 1e12}
    if peak is not None:
        facts["MFU %"] = 100 * rate / peak
    weights = sum(p.numel() for p in made.learner.module.parameters())
    return Done(tokens, {**facts, "peak GiB": peak_mib(device) / 2**10, "M weights": weights / 1e6})


def fitting(cases: list[Case]) -> list[Case]:
    """Those that fit into memory; the others are named."""
    found = []
    for case in cases:
        try:
            with case.setup():
                found.append(case)
        except torch.OutOfMemoryError:
            print(f"left out {case.name}: it does not fit into memory")
    return found


def main(argv: list[str] | None = None) -> None:
    own, opts = arguments(argv)
    on_gpu = own.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print(NOTHING)
        return
    where = torch.cuda.get_device_name(own.device) if on_gpu else own.device
    peak = peak_of(own.device, own.peak_tflops)
    if peak is None:
        print(f"the peak of {where} is not known: no MFU without --peak-tflops")
    run = partial(train, own.steps, peak)

    def table(title: str, makers: dict[str, Callable[[], tuple[Learner, Batch]]]) -> None:
        cases = [Case(n, {}, "tokens", partial(ready, make), run) for n, make in makers.items()]
        if on_gpu:
            cases = fitting(cases)
        compare(f"{title} on {where}", cases, (), opts)

    if own.part != "instruct":
        table("A step of `train align`", {n: partial(align, n, own, opts.quick) for n in RECIPES})
    shapes = {"a tiny one": SMALL_LLM} if opts.quick else LLMS
    for size, shape in shapes.items() if own.part != "align" else ():
        makers = {n: partial(instruct, shape, n, own, opts.quick) for n in TUNINGS}
        table(f"A step of `train instruct` with {size}", makers)


if __name__ == "__main__":
    main()
