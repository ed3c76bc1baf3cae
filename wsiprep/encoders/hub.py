"""Files of the Hugging Face hub: from the cache when they are there, else downloaded."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from wsiprep.core.errors import UnknownPluginError, WeightsError

__all__ = ["fetch"]

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def fetch(repo: str, files: Sequence[str]) -> Path:
    """Path of the first of some files that the repository has.

    A file in the cache is taken without asking the hub, so that what ran once runs offline.

    Args:
        repo: `owner/name` or `owner/name@revision`.
        files: File names, best first.

    Raises:
        UnknownPluginError: `repo` is not of that form.
        WeightsError: the repository is gated, unknown, out of reach, or has none of the files.
            The access token appears in no message.
    """
    if not _NAME.fullmatch(repo):
        raise _no_repository(repo)
    repo_id, _, revision = repo.partition("@")
    for name in files:
        try:
            cached = huggingface_hub.try_to_load_from_cache(
                repo_id, name, revision=revision or None
            )
        except HFValidationError as err:
            raise _no_repository(repo) from err
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise _failed(repo, "is not in the hub cache, and HF_HUB_OFFLINE is set", "Unset it once")
    if not _resolves(constants.ENDPOINT):
        raise _failed(repo, "is not in the hub cache, and the hub is out of reach", "Go online")
    for name in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repo_id, name, revision=revision or None))
        except GatedRepoError as err:
            raise WeightsError(
                f"hub repository '{repo_id}' is gated, and this machine has no access to it.",
                stage="encoder",
                hint=f"Accept its terms at {constants.ENDPOINT}/{repo_id}, then set HF_TOKEN or "
                "run `hf auth login`; or give a downloaded file with --weights PATH.",
            ) from err
        except RepositoryNotFoundError as err:
            raise WeightsError(
                f"the hub has no repository '{repo_id}', or this machine may not see it.",
                stage="encoder",
                hint="Check the name; for a private one set HF_TOKEN.",
            ) from err
        except LocalEntryNotFoundError as err:
            raise _failed(repo, "is not in the hub cache, and the hub is out of reach") from err
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as err:
            raise _failed(repo, f"cannot be downloaded ({type(err).__name__})") from err
    raise _failed(repo, f"has none of the files {', '.join(files)}")


def _resolves(endpoint: str) -> bool:
    """Whether the hub's name resolves; without this the client retries for half a minute."""
    if urllib.request.getproxies():
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True


def _no_repository(repo: str) -> UnknownPluginError:
    return UnknownPluginError(
        f"'{repo}' is no hub repository.", stage="encoder", hint="Write hf-hub:owner/name."
    )


def _failed(repo: str, what: str, first: str = "Go online") -> WeightsError:
    return WeightsError(
        f"hub repository '{repo}' {what}.",
        stage="encoder",
        hint=f"{first} to download it (HF_HOME says where the cache is), or give a downloaded "
        "file with --weights PATH.",
    )
