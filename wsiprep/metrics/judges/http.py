"""Judge behind a chat endpoint that speaks the OpenAI protocol, at a URL that you name.

It may be a server of your own (vLLM, llama.cpp, Ollama) or a service. Questions, answers and
reports are sent there: do not name one that may not see them. The token, where one is needed, is
read from an environment variable that you name, at every request, and is written nowhere: not into
messages, not into the cache, and not to another host by a redirect.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from wsiprep.core.config import Settings, digest
from wsiprep.core.errors import ConfigError, EnvironmentProblem
from wsiprep.metrics.judge import Judge, Unscored
from wsiprep.metrics.judges._chat import ChatJudge, Message

__all__ = ["Config", "Endpoint", "create"]

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""
UNUSABLE = frozenset({400, 413, 422})
"""Statuses that are about this one request: too long, or refused by a filter."""
LARGEST_REPLY = 1 << 22
LONGEST_WAIT_S = 60.0


class Config(Settings):
    """Options of the judge `http`."""

    url: str
    """Address of the API up to its version, as http://localhost:8000/v1; `/chat/completions` is
    added."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    token_env: str | None = None
    """Name of the environment variable that holds the token; none where no token is needed."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """Sampling temperature; none leaves it to the server (some models take no other)."""
    seed: int | None = 0
    """Seed sent to the server; none sends none."""
    max_tokens: int = Field(default=2048, ge=16)
    """Longest reply."""
    again: int = Field(default=1, ge=0, le=5)
    """How often a reply that cannot be read is asked for again."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for a reply."""
    retries: int = Field(default=4, ge=0, le=20)
    """How often a request is sent again after a failure that may pass."""
    wait_s: float = Field(default=1.0, ge=0, le=60)
    """Seconds before the first of them; doubled each time, unless the server names a time."""

    @field_validator("url")
    @classmethod
    def _web(cls, value: str) -> str:
        parts = urllib.parse.urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL that begins with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL without user and password; name a variable with token_env")
        return value.rstrip("/")

    @property
    def identity(self) -> str:
        """Model and host, and a digest of what else may change the answers."""
        parts = urllib.parse.urlsplit(self.url)
        place = f"{parts.scheme}://{parts.netloc}{parts.path}"
        how = [place, self.model, self.temperature, self.seed, self.max_tokens, self.again]
        return f"http:{self.model}@{parts.netloc}:{digest(how)[:12]}"


def create(cfg: Config) -> Judge:
    """Make the judge; nothing is sent before it is asked."""
    return ChatJudge(cfg.identity, Endpoint(cfg).ask, cfg.again)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the caller sees the status."""
        return


class Endpoint:
    """Sends conversations and gets replies.

    Args:
        cfg: Where to, and how.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: Sequence[Message]) -> str | Unscored:
        """One reply.

        Returns:
            The text; or why this conversation gets none (too long, cut, refused).

        Raises:
            ConfigError: the variable of the token is not set, or is no token.
            EnvironmentProblem: the endpoint is not there, refuses the token, knows no such model,
                redirects, or still fails after all retries.
        """
        token = self._token()
        failure = ""
        for attempt in range(self.cfg.retries + 1):
            pause = min(self.cfg.wait_s * 2**attempt, LONGEST_WAIT_S)
            try:
                with self._opener.open(
                    self._request(messages, token), timeout=self.cfg.timeout_s
                ) as reply:
                    body = reply.read(LARGEST_REPLY + 1)
                return _content(body)
            except urllib.error.HTTPError as err:
                failure = f"status {err.code} ({self._said(err, token)})"
                if err.code in UNUSABLE:
                    return Unscored(f"the endpoint answered {failure}")
                if err.code not in RETRIED:
                    raise self._problem(failure) from err
                pause = _named_pause(err, pause)
            except (OSError, http.client.HTTPException) as err:
                failure = _hide(str(getattr(err, "reason", err)) or type(err).__name__, token)
            if attempt < self.cfg.retries:
                time.sleep(pause)
        raise self._problem(f"{failure}, {self.cfg.retries + 1} times")

    def _token(self) -> str | None:
        if self.cfg.token_env is None:
            return None
        name = self.cfg.token_env
        token = os.environ.get(name, "").strip()
        if not token:
            raise ConfigError(f"the variable {name} of the judge's token is not set.")
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise ConfigError(f"what the variable {name} holds is no token: it has odd characters.")
        return token

    def _request(self, messages: Sequence[Message], token: str | None) -> urllib.request.Request:
        parts = urllib.parse.urlsplit(self.cfg.url)
        target = parts._replace(path=parts.path.rstrip("/") + "/chat/completions").geturl()
        body = {
            "model": self.cfg.model,
            "messages": list(messages),
            "max_tokens": self.cfg.max_tokens,
            "temperature": self.cfg.temperature,
            "seed": self.cfg.seed,
            "stream": False,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked by Config
            target, json.dumps(sent).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        if token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        return request

    def _said(self, err: urllib.error.HTTPError, token: str | None) -> str:
        """What the server says of its refusal, short, without the token."""
        try:
            with err:
                text = err.read(4096).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        return _hide(" ".join(text.split()) or str(err.reason), token)[:300]

    def _problem(self, failure: str) -> EnvironmentProblem:
        host = urllib.parse.urlsplit(self.cfg.url).netloc
        return EnvironmentProblem(
            f"the judge's endpoint {host} failed: {failure}.",
            stage="judge",
            hint="Check --judge-option url, model and token_env; answers so far are in the cache.",
        )


def _hide(text: str, token: str | None) -> str:
    return text if token is None else text.replace(token, "***")


def _named_pause(err: urllib.error.HTTPError, pause: float) -> float:
    """The time the server names in `Retry-After` (seconds), or `pause`."""
    named = err.headers.get("Retry-After", "") if err.headers else ""
    try:
        return min(max(float(named), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return pause


def _content(body: bytes) -> str | Unscored:
    """The text of a completion."""
    if len(body) > LARGEST_REPLY:
        return Unscored("the endpoint's reply is too large")
    try:
        choice = json.loads(body)["choices"][0]
        content, end = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Unscored("the endpoint's reply is no chat completion")
    if end == "length":
        return Unscored("the reply was cut at max_tokens")
    if not isinstance(content, str):
        return Unscored("the endpoint's reply has no text")
    return content
