"""Asking and evaluating an assistant, from stores, by the commands' own settings."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.train.language.assistants import (
    DIM,
    FEATURES,
    ORGANS,
    RECIPE,
    bag_of,
    samples,
    vectors,
    write_stores,
)
from tests.train.language.made import write_store
from wsiprep.cli.main import app
from wsiprep.core.errors import (
    ConfigError,
    ManifestError,
    StoreCorruptError,
    StoreMismatchError,
)
from wsiprep.models import pack
from wsiprep.models.assistant_parts import AssistantParts, make_assistant
from wsiprep.models.sampling import Sampling, sample
from wsiprep.models.text.tokenizer import train_bpe
from wsiprep.tasks.ask import ask, caption, open_chat
from wsiprep.tasks.ask_config import AskConfig, CaptionConfig
from wsiprep.tasks.asked_assistant import load_asked
from wsiprep.tasks.embedded import EmbeddedSlide
from wsiprep.tasks.evaluate_caption import evaluate_caption, other_patient
from wsiprep.tasks.evaluate_texts_config import EvaluateCaptionConfig, EvaluateVqaConfig
from wsiprep.tasks.evaluate_vqa import evaluate_vqa
from wsiprep.tasks.evaluated_texts import case_runs, open_cases
from wsiprep.train.language.assistant_checkpoint import save_assistant
from wsiprep.train.language.conversations import conversations_of, texts_of
from wsiprep.train.language.fingerprint import Fingerprint
from wsiprep.train.language.manifest import Sample, write_manifest

QUESTION = "Which organ?"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores of six slides and an assistant that knows the organs of all."""
    folder = tmp_path_factory.mktemp("world")
    write_stores(folder / "stores", 6)
    parts = AssistantParts.model_validate(RECIPE["model"])
    talks = [(k, t) for k, one in enumerate(samples(4))
             for t in conversations_of(one, "instruct", parts.assistant)]  # fmt: skip
    texts = [talk for _, talk in talks]
    torch.manual_seed(1)
    model = make_assistant(
        parts, DIM, train_bpe(texts_of(texts, parts.assistant), vocab_size=320), seed=1
    )
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    bags = pack([bag_of(k) for k in range(4)]).to("cpu", torch.float32)
    for _ in range(70):
        optimiser.zero_grad()
        model(bags, texts, of=[k for k, _ in talks]).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    (folder / "model").mkdir()
    save_assistant(
        folder / "model", model.eval(), parts,
        features=FEATURES, sampling=Sampling(), recipe={"name": "small", "command": "instruct"},
    )  # fmt: skip
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def asking(world: Path, *slides: str, **given: Any) -> AskConfig:
    stores = tuple(str(world / "stores" / f"{name}.zarr") for name in slides)
    return AskConfig.of(slides=stores, model=world / "model", device="cpu", **given)


def test_questions_are_answered_slide_by_slide(world: Path, tmp_path: Path) -> None:
    done = ask(asking(world, "s1", "s2", "s4", question=(QUESTION,), output=tmp_path, blind=True))
    assert done.exit_code == 0
    said = {row["slide"]: row["answers"][0] for row in done.report["slides"]}
    # Slide s4 was not trained on; it is of the organ of s0.
    assert [said[name]["answer"] for name in said] == ["The lung.", "The kidney.", "The colon."]
    assert len({row["answer_blind"] for row in said.values()}) == 1
    kept = json.loads((tmp_path / "answers.json").read_text())
    assert kept == done.report
    assert kept["model"]["language"]["kind"] == "tiny"
    assert len(kept["model"]["sha256"]) == 64
    assert kept["features"]["dim"] == DIM
    assert kept["slides"][0]["patches"] == 6
    table = read(tmp_path / "answers.csv")
    assert [row["answer"] for row in table] == [said[name]["answer"] for name in said]


def test_options_are_compared(world: Path) -> None:
    choice = tuple(reversed(ORGANS))
    done = ask(asking(world, "s1", "s3", question=("Choose the organ.",), choice=ORGANS))
    for row, organ in zip(done.report["slides"], ("lung", "skin"), strict=True):
        answer = row["answers"][0]
        assert answer["answer"] == organ
        shares = [one["probability"] for one in answer["choices"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    assert done.files == {}
    with pytest.raises(ConfigError, match="two different choices"):
        asking(world, "s1", question=("?",), choice=choice[:1])
    with pytest.raises(ConfigError, match="belong to a question"):
        asking(world, "s1", choice=choice)


def test_a_conversation_goes_on(world: Path) -> None:
    alone = ask(asking(world, "s1", question=(QUESTION, QUESTION))).report["slides"][0]["answers"]
    assert alone[0] == alone[1]
    chat = open_chat(asking(world, "s2"))
    assert chat.case == "s2"
    assert chat.view.patches == 6
    assert chat.say(QUESTION) == "The kidney."
    assert [turn.role for turn in chat.turns] == ["user", "assistant"]
    second = chat.say(QUESTION)
    told = ask(asking(world, "s2", question=(QUESTION, QUESTION), follow_up=True))
    assert [row["answer"] for row in told.report["slides"][0]["answers"]] == ["The kidney.", second]
    chat.forget()
    assert chat.say(QUESTION) == "The kidney."


def test_a_case_is_asked_about_as_one(world: Path) -> None:
    done = ask(asking(world, "s1", "s5", question=(QUESTION,), together=True))
    (row,) = done.report["slides"]
    assert row["slide"] == "s1 + s5"
    assert (row["patches"], row["embeddings"]) == (12, 12)
    assert row["answers"][0]["answer"] == "The lung."
    with pytest.raises(ConfigError, match="there are 2 slides"):
        open_chat(asking(world, "s1", "s5"))
    assert open_chat(asking(world, "s1", "s5", together=True)).case == "s1 + s5"


def test_of_a_case_one_slide_with_tissue_is_enough(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "stores" / "s1.zarr", tmp_path / "s1.zarr")
    write_store(tmp_path, "blank", cells=np.empty((0, 2), int), vectors=np.empty((0, DIM)))
    given = {"model": world / "model", "device": "cpu", "question": (QUESTION,)}
    both = (str(tmp_path / "s1.zarr"), str(tmp_path / "blank.zarr"))
    (row,) = ask(AskConfig.of(slides=both, together=True, **given)).report["slides"]
    assert (row["patches"], row["answers"][0]["answer"]) == (6, "The lung.")
    done = ask(AskConfig.of(slides=both[1:], **given))
    assert done.exit_code == 1
    assert "no patch with features" in done.rows[0].reason


def test_captions(world: Path, tmp_path: Path) -> None:
    stores = (str(world / "stores"),)
    cfg = CaptionConfig.of(
        slides=stores, model=world / "model", device="cpu", output=tmp_path, blind=True
    )
    done = caption(cfg)
    said = [row["captions"][0]["caption"] for row in done.report["slides"]]
    assert said == [f"Tissue of {ORGANS[k % 4]}." for k in range(6)]
    assert (tmp_path / "captions.csv").read_text().startswith("slide,caption,caption_blind\n")


def test_a_slide_that_fails_does_not_keep_others_from_it(world: Path, tmp_path: Path) -> None:
    cells = np.argwhere(np.ones((2, 3), bool))
    write_store(tmp_path, "other", cells=cells, vectors=vectors(0), stride_px=128)
    paths = (str(tmp_path / "other.zarr"), str(world / "stores" / "s0.zarr"))
    cfg = AskConfig.of(slides=paths, model=world / "model", device="cpu", question=(QUESTION,))
    done = ask(cfg)
    assert done.exit_code == 1
    assert [row["slide"] for row in done.report["slides"]] == ["s0"]
    assert "stride_px is 256 px in the checkpoint" in done.report["failed"][0]["reason"]
    with pytest.raises(StoreMismatchError, match="stride_px"):
        open_chat(AskConfig.of(slides=paths[:1], model=world / "model", device="cpu"))


def test_what_is_missing_is_said(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        ask(AskConfig.of(slides=("a.svs",), model=world / "model", question=(QUESTION,)))
    with pytest.raises(ConfigError, match="no question"):
        ask(asking(world, "s1"))
    gone = asking(world, "nowhere", question=(QUESTION,), together=True)
    assert ask(gone).exit_code == 1
    with pytest.raises(StoreCorruptError, match="nowhere"):
        open_chat(gone)


def test_fewer_patches_may_be_shown(world: Path) -> None:
    done = ask(asking(world, "s1", question=(QUESTION,), max_patches=3))
    assert done.report["slides"][0]["patches"] == 3
    assert done.report["sampling"]["max_patches"] == 3


def test_an_evaluation_shows_what_a_question_is_shown(world: Path, tmp_path: Path) -> None:
    ask_cfg = asking(world, "s1", question=(QUESTION,), max_patches=3)
    asked = load_asked(ask_cfg.model, ask_cfg.answers)
    store = world / "stores" / "s1.zarr"
    view = asked.view([EmbeddedSlide("s1", store)])
    data = questions(world, tmp_path)
    cfg = EvaluateVqaConfig.of(**evaluation(world, tmp_path, data))
    # Named otherwise, as manifests do that have several samples of a slide.
    renamed = [Sample(**{**_fields(one), "id": f"x{k}"}) for k, one in enumerate(samples(2))]
    cases = open_cases(asked, renamed, cfg.samples)
    assert renamed[1].slides == ("s1",)
    shown = [found for rows, found in case_runs(asked, cases, lambda _: None) if 1 in rows]
    torch.testing.assert_close(shown[0], view.shown, rtol=0, atol=0)
    other = asked.look(sample(cases.patches(1), asked.sampling, seed=0, epoch=0, slide_id="x1"))
    assert not torch.equal(other, view.shown)


def test_straight_from_the_pixels(small_slide: Path, tmp_path: Path) -> None:
    features = Fingerprint("test", "", 3, 0.5, 256, 256, False)
    parts = AssistantParts.model_validate(RECIPE["model"])
    torch.manual_seed(1)
    model = make_assistant(parts, features.dim, train_bpe(["a b c"], vocab_size=300))
    (tmp_path / "model").mkdir()
    save_assistant(
        tmp_path / "model", model, parts, features=features, sampling=Sampling(), recipe={}
    )
    given: dict[str, Any] = {
        "slides": (str(small_slide),), "model": tmp_path / "model", "device": "cpu",
        "output": tmp_path / "out", "max_new_tokens": 4, "question": (QUESTION,),
    }  # fmt: skip
    done = ask(AskConfig.of(**given))
    assert done.exit_code == 0
    (row,) = done.report["slides"]
    assert row["patches"] == row["embeddings"] > 1
    (store,) = (tmp_path / "out").glob("*.zarr")
    assert row["stores"] == [str(store)]
    # Asked again, of the store alone, it says the same.
    again = ask(AskConfig.of(**{**given, "slides": (str(store),), "output": None}))
    assert again.report["slides"][0]["answers"] == row["answers"]


def manifest(folder: Path, what: list[Sample]) -> Path:
    write_manifest(folder / "data.jsonl", what)
    return folder / "data.jsonl"


def evaluation(world: Path, folder: Path, data: Path, **given: Any) -> dict[str, Any]:
    return {
        "data": data, "stores": world / "stores", "model": world / "model", "device": "cpu",
        "output": folder / "report", "resamples": 100, **given,
    }  # fmt: skip


def questions(world: Path, folder: Path) -> Path:
    """Six questions with options and two without; the truth of one of each is another."""
    closed = samples(6, "test")
    closed[5] = Sample(**{**_fields(closed[5]), "answer": "skin"})
    opened = [
        Sample(id=f"o{k}", slides=(f"s{k}",), patient_id=f"p{k}", question=QUESTION,
               answer=("The colon.", "The skin.")[k], split="test")
        for k in range(2)
    ]  # fmt: skip
    learned = Sample(id="t", slides=("s0",), question=QUESTION, answer="x", split="train")
    return manifest(folder, [*closed, *opened, learned])


def _fields(one: Sample) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_evaluate_vqa(world: Path, tmp_path: Path) -> None:
    data = questions(world, tmp_path)
    done = evaluate_vqa(EvaluateVqaConfig.of(**evaluation(world, tmp_path, data)))
    closed, opened = done.report["closed"], done.report["open"]
    assert (closed["n"], closed["n_patients"], opened["n"]) == (6, 6, 2)
    for name in ("accuracy_likelihood", "accuracy_likelihood_sum", "accuracy_generated"):
        assert closed["scores"][name]["value"] == pytest.approx(5 / 6, abs=1e-3)
        # Right answers are colon, lung, kidney, skin, colon, skin: two of the commonest.
        assert closed["baselines"]["majority"][name]["value"] == pytest.approx(2 / 6, abs=1e-3)
        assert closed["baselines"]["chance"][name]["value"] == pytest.approx(0.25)
        assert closed["baselines"]["blind"][name]["value"] <= 2 / 6 + 1e-3
    assert closed["scores"]["accuracy_likelihood"]["low"] < 5 / 6
    assert closed["n_unparsed"]["seeing"] == 0
    assert set(closed["by_group"]["task"]) == {"organ", "site"}
    assert opened["scores"]["exact_match"]["value"] == 0.5
    assert opened["baselines"]["majority"]["exact_match"]["value"] == 0.5
    assert 0 < opened["scores"]["wsi_p_offline"]["value"] <= 1
    # Said always: "The colon.", which is whole for one of the two.
    assert 0.5 <= opened["baselines"]["majority"]["wsi_p_offline"]["value"] < 1
    assert "wsi_r_offline" in opened["above"]["majority"]
    assert opened["claims_majority"]
    assert "wsi_p" not in opened["scores"]
    rows = read(tmp_path / "report" / "answers.csv")
    assert [row["likely"] for row in rows[:6]] == [ORGANS[k % 4] for k in range(6)]
    assert rows[0]["said"] == "A. colon"
    assert rows[6]["said"] == "The colon."
    assert json.loads((tmp_path / "report" / "vqa.json").read_text()) == done.report


def test_the_hash_is_of_the_data(world: Path, tmp_path: Path) -> None:
    data = questions(world, tmp_path)
    given = evaluation(world, tmp_path, data, blind=False, judge="none")
    one = evaluate_vqa(EvaluateVqaConfig.of(**given)).report
    assert "blind" not in one["closed"]["baselines"]
    assert set(one["open"]["scores"]) == {"exact_match"}
    fewer = evaluate_vqa(EvaluateVqaConfig.of(**given, most=3, max_new_tokens=8)).report
    assert fewer.get("closed", {}).get("n", 0) + fewer.get("open", {}).get("n", 0) == 3
    every = evaluate_vqa(EvaluateVqaConfig.of(**given, max_new_tokens=8)).report
    assert every["closed"]["data_sha256"] == one["closed"]["data_sha256"]
    only = evaluate_vqa(EvaluateVqaConfig.of(**given, tasks=("organ",))).report
    assert only["closed"]["n"] == 3
    assert only["closed"]["data_sha256"] != one["closed"]["data_sha256"]
    with pytest.raises(ManifestError, match="no sample of split val with a question"):
        evaluate_vqa(EvaluateVqaConfig.of(**given, split="val"))


def test_evaluate_caption(world: Path, tmp_path: Path) -> None:
    what = samples(6)
    what[5] = Sample(**{**_fields(what[5]), "caption": "Nothing of the sort is seen."})
    twice = Sample(id="again", slides=("s0",), patient_id="p0", caption="Colon tissue.")
    data = manifest(tmp_path, [*what, twice])
    done = evaluate_caption(EvaluateCaptionConfig.of(**evaluation(world, tmp_path, data)))
    report = done.report
    assert report["n"] == 6
    scores, beside = report["scores"], report["baselines"]
    # Five are word for word; the sixth shares "of": precision 1/3, recall 1/6.
    assert scores["rouge_l"]["value"] == pytest.approx((5 + 2 / 9) / 6, abs=1e-3)
    assert scores["bleu_1"]["value"] > 0.7
    for name in ("blind", "majority", "shuffled"):
        assert beside[name]["rouge_l"]["value"] < scores["rouge_l"]["value"]
    for name in ("blind", "majority"):
        assert scores["wsi_p_offline"]["value"] > beside[name]["wsi_p_offline"]["value"]
    rows = read(tmp_path / "report" / "captions.csv")
    assert rows[1]["caption"] == rows[1]["reference"] == "Tissue of lung."
    assert json.loads((tmp_path / "report" / "caption.json").read_text()) == report


@pytest.mark.parametrize(
    ("patients", "there"),
    [("aab", False), ("aabb", True), ("abcab", True), ("a", False), ("", False), ("abcd", True)],
)
def test_shuffled_captions_are_of_other_patients(patients: str, there: bool) -> None:
    found = other_patient(patients)
    assert (found is not None) == there
    if found is not None:
        assert sorted(found) == list(range(len(patients)))
        assert all(patients[a] != patients[b] for a, b in enumerate(found))


@pytest.mark.parametrize(
    ("judge", "options", "said"),
    [
        ("nobody", (), "no judge called 'nobody'"),
        ("http", (), "--judge-option url"),
        ("http", ("url",), "cannot be used"),
        ("offline", ("x=1",), "options of 'offline': none"),
    ],
)
def test_judges_are_checked_first(
    world: Path, tmp_path: Path, judge: str, options: tuple[str, ...], said: str
) -> None:
    data = questions(world, tmp_path)
    given = evaluation(world, tmp_path, data, judge=judge, judge_option=options)
    with pytest.raises(Exception, match=said):
        evaluate_vqa(EvaluateVqaConfig.of(**given))
    assert not (tmp_path / "report").exists()


def test_by_the_command_line(world: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    store = str(world / "stores" / "s1.zarr")
    model = ["-m", str(world / "model"), "--device", "cpu"]
    asked = runner.invoke(app, ["ask", store, *model, "-q", QUESTION])
    assert asked.exit_code == 0
    assert "The lung." in asked.stdout
    chat = runner.invoke(app, ["ask", store, *model], input=f"{QUESTION}\n/new\n{QUESTION}\n\n")
    assert chat.exit_code == 0
    assert chat.stdout.split("\n")[:2] == ["The lung."] * 2
    told = runner.invoke(app, ["caption", store, *model, "--json"])
    assert json.loads(told.stdout)["slides"][0]["captions"] == [{"caption": "Tissue of lung."}]
    data = questions(world, tmp_path)
    flags = ["--data", str(data), "--stores", str(world / "stores"), "-o", str(tmp_path / "out")]
    done = runner.invoke(app, ["evaluate", "vqa", *flags, *model, "--no-blind"])
    assert done.exit_code == 0
    assert "accuracy_likelihood" in done.stdout
    assert "majority 0.333" in done.stdout
    both = runner.invoke(app, ["evaluate", "caption", *flags, *model])
    assert both.exit_code == 0
    assert "rouge_l" in both.stdout
