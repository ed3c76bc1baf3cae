from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from tests.encoders.conftest import PutRepo
from wsiprep.core.errors import UnknownPluginError, WeightsError
from wsiprep.encoders import hub

FILES = ("model.safetensors", "pytorch_model.bin")
TOKEN = "hf_" + "secret" * 5


@pytest.fixture
def online(hub_cache: PutRepo, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if the hub could be reached; what it answers is up to the test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_resolves", lambda endpoint: True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return monkeypatch


def error(kind: type[Exception]) -> Exception:
    made: Exception = kind.__new__(kind)  # its constructor wants an HTTP response
    return made


def test_cached_files_need_no_hub(hub_cache: PutRepo) -> None:
    hub_cache("acme/one", {"pytorch_model.bin": b"1"})
    hub_cache("acme/two", {"pytorch_model.bin": b"1", "model.safetensors": b"2"})
    assert hub.fetch("acme/one", FILES).read_bytes() == b"1"
    assert hub.fetch("acme/two", FILES).read_bytes() == b"2"  # the better one
    assert hub.fetch(f"acme/two@{'0' * 40}", FILES).read_bytes() == b"2"
    with pytest.raises(WeightsError):
        hub.fetch(f"acme/two@{'1' * 40}", FILES)


@pytest.mark.parametrize("repo", ["acme", "acme/one/two", "../one", "acme/", "a b/c", "acme/x@"])
def test_not_a_repository(repo: str) -> None:
    with pytest.raises(UnknownPluginError, match="no hub repository"):
        hub.fetch(repo, FILES)


def test_offline(hub_cache: PutRepo) -> None:
    with pytest.raises(WeightsError, match=r"'acme/one' is not in the hub cache.*HF_HUB_OFFLINE"):
        hub.fetch("acme/one", FILES)


def test_out_of_reach_is_seen_before_anything_is_asked_for(
    hub_cache: PutRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library tries again and again, for minutes."""
    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, *_, **__: asked.append(repo)
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with pytest.raises(WeightsError, match=r"out of reach.*--weights PATH"):
        hub.fetch("acme/one", FILES)
    assert asked == []


def test_a_proxy_resolves_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert hub._resolves("https://hub.invalid")


def test_gated(online: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise error(GatedRepoError)

    online.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"'acme/one' is gated.*HF_TOKEN.*--weights") as caught:
        hub.fetch("acme/one@main", FILES)
    assert TOKEN not in str(caught.value)


def test_unknown_repository(online: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise error(RepositoryNotFoundError)

    online.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsError, match="no repository 'acme/one'"):
        hub.fetch("acme/one", FILES)


def test_the_next_file_is_tried(online: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def only_bin(repo: str, name: str, *, revision: str | None) -> str:
        asked.append((repo, name, revision))
        if name.endswith(".safetensors"):
            raise error(EntryNotFoundError)
        return str(tmp_path / name)

    online.setattr(huggingface_hub, "hf_hub_download", only_bin)
    assert hub.fetch("acme/one@v2", FILES) == tmp_path / "pytorch_model.bin"
    assert asked == [("acme/one", name, "v2") for name in FILES]
    with pytest.raises(WeightsError, match="has none of the files model"):
        hub.fetch("acme/one", FILES[:1])


def test_other_failures_do_not_tell_the_token(online: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise OSError(f"403 for a request with Bearer {TOKEN}")

    online.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
        hub.fetch("acme/one", FILES)
    assert TOKEN not in str(caught.value)


def test_offline_by_environment(tmp_path: Path) -> None:
    code = (
        "from wsiprep.encoders import load_encoder\n"
        "from wsiprep.core.errors import WeightsError\n"
        "for name in ('timm:resnet10t', 'timm:hf-hub:MahmoodLab/UNI', 'timm:hf-hub:acme/one'):\n"
        "    try: load_encoder(name, device='cpu')\n"
        "    except WeightsError as err: print(err)\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, repo in zip(
        lines, ("timm/resnet10t.c3_in1k", "MahmoodLab/UNI", "acme/one"), strict=True
    ):
        assert f"'{repo}' is not in the hub cache" in line
        assert "--weights PATH" in line
    assert TOKEN not in done.stdout + done.stderr
