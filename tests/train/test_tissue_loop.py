"""Training of tissue segmenters: it learns, it resumes to the bit, it loses no other training."""

from __future__ import annotations

import csv
import shutil
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from tests.train.tissue_pairs import pictures, table
from wsiprep.cli.main import app
from wsiprep.core.errors import ConfigError, ManifestError, WeightsError
from wsiprep.synth.thumbnails import CLASSES
from wsiprep.tissue.network import load_network, read_network
from wsiprep.tissue.segmenters.net import Config as NetConfig
from wsiprep.train.tissue import TissueTraining, train_tissue
from wsiprep.train.tissue.net import NetStudent

pytestmark = pytest.mark.usefixtures("one_thread")


def shipped():
    return NetConfig().network_file()


@pytest.fixture(autouse=True)
def _few_to_validate(monkeypatch):
    monkeypatch.setattr("wsiprep.train.tissue.validate.VALIDATION_COUNT", {"net": 4, "sam": 4})


def config(folder, **own):
    settings = {"steps": 6, "batch_size": 2, "crop_px": 64, "validate_every": 3, "workers": 0,
                "device": "cpu", "leave_out": ("silver",)}  # fmt: skip
    return TissueTraining(output=folder, **{**settings, **own})


# -- the loop ---------------------------------------------------------------------------------


def test_it_learns_and_leaves_what_it_says(tmp_path):
    seen = []
    done = train_tissue(config(tmp_path, steps=30, batch_size=4), seen.append)
    rows = list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < 0.97 * float(rows[0]["loss"])
    assert seen[-1].step == seen[-1].steps == 30
    assert seen[-1].scores == done.scores
    assert {"drawn/tissue", "unseen/tissue"} <= set(done.scores)
    _, words = load_network(done.network)
    assert words["settings"]["seed"] == 1
    assert all(picture.stat().st_size > 10_000 for picture in done.pictures)
    assert str(done.network) in done.use


def test_resumed_it_ends_with_the_same_network_to_the_bit(tmp_path):
    whole = train_tissue(config(tmp_path / "a"))

    class Stopped(Exception):
        pass

    def stop(step):
        if step.scores is not None and step.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_tissue(config(tmp_path / "b"), stop)
    again = train_tissue(config(tmp_path / "b", resume=True))
    assert again.network.read_bytes() == whole.network.read_bytes()
    assert again.scores == whole.scores


def test_it_begins_where_another_ended(tmp_path):
    first = train_tissue(config(tmp_path / "a", steps=30, batch_size=4))
    more = train_tissue(config(tmp_path / "b", steps=1, checkpoint=first.network, seed=5))
    from_nothing = train_tissue(config(tmp_path / "c", steps=1, seed=5))
    losses = [
        float(list(csv.DictReader((done.network.parent / "training.csv").read_text().splitlines()))[
            -1]["loss"]) for done in (more, from_nothing)
    ]  # fmt: skip
    assert losses[0] < losses[1]
    (tmp_path / "d").mkdir()
    bad = tmp_path / "d" / "x.safetensors"
    bad.write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be used"):
        train_tissue(config(tmp_path / "e", checkpoint=bad))


def test_a_wider_network_answers_as_the_narrow_one_until_it_learns(tmp_path):
    narrow = read_network(shipped())[0].eval()
    more = (3, 0, 5, 1, 8)
    widths = tuple(n + k for n, k in zip(narrow.widths, more, strict=True))
    student = NetStudent(torch.device("cpu"), 64, shipped(), widths)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(student.module.eval()(pixels), narrow(pixels))
    done = train_tissue(config(tmp_path / "a", checkpoint=shipped(), widths=widths, steps=2))
    wide = read_network(done.network)[0]
    assert wide.widths == widths
    heard = [wide.narrow[0].conv.weight[:, narrow.widths[1] :],
             wide.mix[0].conv.weight[: narrow.widths[0], narrow.widths[0] :]]  # fmt: skip
    assert sum(float(part.detach().abs().sum()) for part in heard) > 0
    with pytest.raises(WeightsError, match="cannot be made 8, 24"):
        train_tissue(config(tmp_path / "b", checkpoint=shipped(), widths=(8, 24, 48, 96, 160)))
    with pytest.raises(ValidationError, match="five numbers"):
        config(tmp_path, widths=(8, 16))


def test_resume_asks_for_a_checkpoint_of_the_same_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*checkpoint\.pt to go on from"):
        train_tissue(config(tmp_path, resume=True))
    train_tissue(config(tmp_path))
    with pytest.raises(ConfigError, match="other settings"):
        train_tissue(config(tmp_path, resume=True, seed=2))


def test_a_training_is_not_lost_to_the_same_command(tmp_path):
    done = train_tissue(config(tmp_path))
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="holds a training") as err:
        train_tissue(config(tmp_path, seed=2))
    assert "--resume" in err.value.hint
    assert "--overwrite" in err.value.hint
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    with pytest.raises(ConfigError, match="begins it anew"):
        train_tissue(config(tmp_path, resume=True, overwrite=True))
    train_tissue(config(tmp_path, seed=2, overwrite=True))
    assert done.network.read_bytes() != kept[done.network]


def test_what_is_replaced_is_not_gone_on_with(tmp_path):
    train_tissue(config(tmp_path))

    def stop(step):
        raise KeyboardInterrupt

    # Stopped before a checkpoint of its own.
    with pytest.raises(KeyboardInterrupt):
        train_tissue(config(tmp_path, overwrite=True, steps=25, validate_every=30), stop)
    with pytest.raises(ConfigError, match=r"there is no .*checkpoint\.pt to go on from"):
        train_tissue(config(tmp_path, resume=True))


@pytest.mark.parametrize(("validate_every", "says"), [(3, "with --resume"), (30, "begins anew")])
def test_ctrl_c_says_how_this_training_goes_on(tmp_path, monkeypatch, validate_every, says):
    @contextmanager
    def interrupted(console):
        def stop(step):
            raise KeyboardInterrupt

        yield stop

    monkeypatch.setattr("wsiprep.cli._steps.show_steps", interrupted)
    args = ["train", "tissue", "-o", str(tmp_path / "o"), "--steps", "25", "--batch-size", "1",
            "--crop-px", "64", "--workers", "0", "--device", "cpu",
            "--validate-every", str(validate_every)]  # fmt: skip
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 130
    assert says in " ".join(done.output.split())
    monkeypatch.undo()
    monkeypatch.setattr("wsiprep.train.tissue.validate.VALIDATION_COUNT", {"net": 4})
    more = ["--resume"] if validate_every == 3 else []
    assert CliRunner().invoke(app, [*args, *more]).exit_code == 0
    assert (tmp_path / "o" / "network.safetensors").is_file()


def given_files(folder):
    """Settings that name files of each kind, in a folder that is made."""
    (folder / "textures").mkdir(parents=True)
    pictures(folder)
    shutil.copy(folder / "a.png", folder / "textures" / "t.png")
    shutil.copy(shipped(), folder / "start.safetensors")
    listed = table(folder, {"image": "a.png", "tissue": "t.png", "pen": "p.png"})
    return {"data": listed, "textures": folder / "textures", "real_share": 0.5,
            "checkpoint": folder / "start.safetensors"}  # fmt: skip


def test_files_are_the_same_wherever_they_lie(tmp_path, monkeypatch):
    out = tmp_path / "out"
    train_tissue(config(out, **given_files(tmp_path / "a")))
    moved = given_files(tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    spelled = {k: v.relative_to(tmp_path) for k, v in moved.items() if isinstance(v, Path)}
    assert train_tissue(config(out, **{**moved, **spelled}, resume=True)).network.is_file()


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ("a.png", "--data"),
        ("p.png", "--data"),
        ("textures/t.png", "--textures"),
        ("start.safetensors", "--checkpoint"),
    ],
)
def test_files_that_have_changed_are_not_gone_on_with(tmp_path, changed, flag):
    out, own = tmp_path / "out", given_files(tmp_path / "a")
    train_tissue(config(out, **own))
    path = tmp_path / "a" / changed
    if path.suffix == ".png":
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    else:
        path.write_bytes(train_tissue(config(tmp_path / "other")).network.read_bytes())
    with pytest.raises(ConfigError, match=rf"something else in {flag}\."):
        train_tissue(config(out, **own, resume=True))


def test_a_table_that_has_changed_is_not_gone_on_with(tmp_path):
    out, own = tmp_path / "out", given_files(tmp_path / "a")
    train_tissue(config(out, **own))
    table(tmp_path / "a", {"image": "a.png", "tissue": "t.png"})
    with pytest.raises(ConfigError, match=r"something else in --data\."):
        train_tissue(config(out, **own, resume=True))


@pytest.mark.parametrize("before", [{}, {"learning": 1}])
def test_checkpoints_of_what_learnt_otherwise_are_refused(tmp_path, before):
    cfg = config(tmp_path)
    train_tissue(cfg)
    state = torch.load(cfg.state_file, weights_only=True)
    del state["learning"]
    torch.save({**state, **before}, cfg.state_file)
    with pytest.raises(ConfigError, match="another version of wsiprep"):
        train_tissue(config(tmp_path, resume=True))


def test_a_training_that_cannot_go_on_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*checkpoint\.pt to go on from"):
        train_tissue(config(tmp_path / "new", resume=True))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("row", [{"tissue": "t.png", "split": "val"}, {"ignore": "p.png"}])
def test_a_table_of_nothing_to_train_on_is_told(tmp_path, row):
    pictures(tmp_path)
    listed = table(tmp_path, {"image": "a.png", **row})
    notes = []
    train_tissue(config(tmp_path / "o", data=listed), on_note=notes.append)
    assert len(notes) == 1
    assert "only drawn thumbnails" in notes[0]
    assert str(listed) in notes[0]
    train_tissue(config(tmp_path / "p", data=listed, real_share=0), on_note=notes.append)
    assert len(notes) == 1
    with pytest.raises(ManifestError, match="only real thumbnails") as err:
        train_tissue(config(tmp_path / "q", data=listed, real_share=1))
    assert "--real-share" in err.value.hint
    assert not (tmp_path / "q").exists()


def test_the_command_tells_notes(tmp_path):
    pictures(tmp_path)
    listed = table(tmp_path, {"image": "a.png", "tissue": "t.png", "split": "val"})
    args = ["train", "tissue", "-o", tmp_path / "o", "--data", listed, "--steps", 1, "--workers", 0,
            "--batch-size", 1, "--crop-px", 64, "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0
    assert "only drawn thumbnails are trained on" in " ".join(done.stderr.split())


def test_stains_that_there_are_not(tmp_path):
    with pytest.raises(ConfigError, match="no stain ink"):
        train_tissue(config(tmp_path, leave_out=("ink",)))
    from wsiprep.synth.thumbnails.stains import STAINS

    with pytest.raises(ConfigError, match="no stain to draw"):
        train_tissue(config(tmp_path, leave_out=tuple(STAINS)))


def test_sam_needs_weights(tmp_path):
    with pytest.raises(ConfigError, match="weights that exist"):
        train_tissue(config(tmp_path, model="sam"))


def test_classes_are_those_of_the_network():
    from wsiprep.tissue import network

    assert network.CLASSES == CLASSES


def test_the_goes_of_the_network_that_ships_are_settings_of_training():
    root = Path(__file__).parents[2]
    goes = yaml.safe_load((root / "examples/train_tissue/net.yaml").read_text())["goes"]
    names = [go["name"] for go in goes]
    assert names[-1] == "shipped"
    for at, go in enumerate(goes):
        for before in (*go.get("mean_of", ()), *([go["from"]] if "from" in go else ())):
            assert before in names[:at]
        if "settings" in go:
            TissueTraining(output="o", **go["settings"])
    shipped = root / "wsiprep/tissue/weights/net.safetensors"
    words = read_network(shipped)[1]
    said = [made["settings"] for made in words.get("mean_of", [words])]
    of = {go["name"]: go.get("settings", {}) for go in goes}
    for settings, name in zip(said, goes[-1].get("mean_of", ["shipped"]), strict=True):
        assert settings.items() >= of[name].items()
