import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import ValidationError

from wsiprep.core.errors import ConfigError, EnvironmentProblem
from wsiprep.metrics.claims import Item, judge_item
from wsiprep.metrics.judge import CachedJudge, ClaimScore, Unscored
from wsiprep.metrics.judges.http import Config, create

BEARER = "sk-very-secret-0123"
NAMED = {"token_env": "MY_TOKEN"}
SCORES = [{"number": 1, "score": 0.7, "why": "nearly"}, {"number": 2, "score": 0}]


class Endpoint(ThreadingHTTPServer):
    """Answers with what it is given, one after another; the last again and again."""

    daemon_threads = True

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.requests.append((self.path, dict(self.headers), body))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        status, headers, content = answer
        if status == 0:  # hang up
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def says(content, end="stop"):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": end}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def fails(status, text="", **headers):
    return status, headers, text.encode()


@contextmanager
def endpoint(*answers, **options):
    server = Endpoint(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        how = {"retries": 2, "wait_s": 0.0, "timeout_s": 10.0, "model": "m", **options}
        yield server, create(Config(url=server.url, **how))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_sent_and_what_comes_back(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", BEARER)
    with endpoint(says('["a", "b"]'), says(json.dumps(SCORES)), **NAMED) as (
        server,
        j,
    ):
        assert j.extract("Which grade?", "Grade 2, with necrosis.") == ("a", "b")
        assert j.score(["a", "b"], "the response", "precision") == (
            ClaimScore("a", 0.7, "nearly"),
            ClaimScore("b", 0.0, ""),
        )
    (path, headers, body), (_, _, second) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {BEARER}"
    assert (body["model"], body["temperature"], body["seed"], body["stream"]) == ("m", 0, 0, False)
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert "Which grade?" in body["messages"][1]["content"]
    assert "1. a\n2. b" in second["messages"][1]["content"]
    assert "the response" in second["messages"][1]["content"]


def test_no_token_is_sent_where_none_is_named():
    with endpoint(says("[]")) as (server, judge):
        assert judge.extract("q", "a") == ()
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    "content",
    ['["a"]', '```json\n["a"]\n```', '<think>Hm: ["x"]?</think>\n["a"]', ' ["a", " a "]\n'],
)
def test_what_is_read_as_json(content):
    with endpoint(says(content)) as (_, judge):
        assert judge.extract("q", "a") == ("a",)


@pytest.mark.parametrize("content", ["a", 'Sure: ["a"]', '{"a": 1}', "[1]", '["a"', '[""]', "null"])
def test_bad_claims_are_asked_for_again_and_then_given_up(content):
    with endpoint(says(content)) as (server, judge):
        assert isinstance(judge.extract("q", "a"), Unscored)
    assert len(server.requests) == 2
    again = server.requests[1][2]["messages"]
    assert [one["role"] for one in again] == ["system", "user", "assistant", "user"]
    assert again[2]["content"] == content
    with endpoint(says(content), says('["a"]')) as (_, judge):
        assert judge.extract("q", "a") == ("a",)


@pytest.mark.parametrize(
    "rows",
    [
        SCORES[:1],
        [*SCORES, {"number": 3, "score": 1}],
        SCORES[::-1],
        [SCORES[0], {"number": 2, "score": 0.5}],
        [SCORES[0], {"number": 2, "score": "1"}],
        [SCORES[0], {"number": 2, "score": True}],
        [SCORES[0], {"number": 2}],
        [SCORES[0], 1],
    ],
)
def test_bad_scores_are_no_scores(rows):
    with endpoint(says(json.dumps(rows)), again=0) as (server, judge):
        assert isinstance(judge.score(["a", "b"], "t", "relevance"), Unscored)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_failures_that_pass_are_tried_again(status):
    with endpoint(fails(status), fails(status), says('["a"]')) as (server, judge):
        assert judge.extract("q", "a") == ("a",)
    assert len(server.requests) == 3


def test_failures_that_do_not_pass_end_the_run():
    with (
        endpoint(fails(503, "busy")) as (server, judge),
        pytest.raises(EnvironmentProblem, match=r"503.*busy.*3 times"),
    ):
        judge.extract("q", "a")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_not_tried_again(status):
    with (
        endpoint(fails(status, "go away")) as (server, judge),
        pytest.raises(EnvironmentProblem, match=f"{status}.*go away"),
    ):
        judge.extract("q", "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_cannot_be_answered_leaves_its_item_unscored(status):
    with endpoint(fails(status, "too long")) as (server, judge):
        found = judge.extract("q", "a")
    assert isinstance(found, Unscored)
    assert "too long" in found.reason
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        says('["a"]', end="length"),
        says(None),
        (200, {}, b"no json"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b"[]"),
        (200, {}, b"[" * 100_000),
    ],
)
def test_replies_without_a_text_leave_the_item_unscored(answer):
    with endpoint(answer) as (_, judge):
        assert isinstance(judge.extract("q", "a"), Unscored)


def test_the_server_may_name_the_pause(monkeypatch):
    pauses = []
    monkeypatch.setattr("wsiprep.metrics.judges.http.time.sleep", pauses.append)
    named = fails(429, **{"Retry-After": "7"})
    odd = fails(429, **{"Retry-After": "tomorrow"})
    with endpoint(named, odd, says("[]"), wait_s=0.5) as (_, judge):
        judge.extract("q", "a")
    assert pauses == [7, 1.0]


def test_the_token_is_nowhere(monkeypatch, tmp_path, caplog, capfd):
    monkeypatch.setenv("MY_TOKEN", BEARER)
    caplog.set_level(0)
    said = []
    for answer in (fails(401, f"bad key {BEARER}"), fails(400, f"bad key {BEARER}"),
                   fails(500, BEARER), says('["a"]')):  # fmt: skip
        with endpoint(answer, **NAMED) as (_, judge):
            cached = CachedJudge(judge, tmp_path / "cache")
            said += [judge.id, repr(judge), repr(vars(judge))]
            try:
                said.append(repr(cached.extract("q", "a")))
            except EnvironmentProblem as err:
                said += [str(err), repr(err), repr(err.__cause__), err.hint]
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert len(kept) == 1
    everything = "\n".join([*said, *kept, caplog.text, *capfd.readouterr()])
    assert "bad key ***" in everything
    assert BEARER not in everything


def test_redirects_are_not_followed(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", BEARER)
    with endpoint(says('["a"]')) as (other, _):
        away = fails(307, Location=f"{other.url}/chat/completions")
        with (
            endpoint(away, **NAMED) as (_, judge),
            pytest.raises(EnvironmentProblem, match="307"),
        ):
            judge.extract("q", "a")
        assert other.requests == []


@pytest.mark.parametrize("value", [None, "", "two words", "line\nbreak", "ключ"])
def test_a_token_that_is_none(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("MY_TOKEN", raising=False)
    else:
        monkeypatch.setenv("MY_TOKEN", value)
    with (
        endpoint(says("[]"), **NAMED) as (server, judge),
        pytest.raises(ConfigError, match="MY_TOKEN") as caught,
    ):
        judge.extract("q", "a")
    assert not value or value not in str(caught.value)
    assert server.requests == []


def test_nobody_there():
    with endpoint(says("[]")) as (server, _):
        url = server.url
    judge = create(Config(url=url, model="m", retries=1, wait_s=0))
    with pytest.raises(EnvironmentProblem, match="2 times"):
        judge.extract("q", "a")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "file:///etc/passwd", "http://", "http://u:p@h/v1"]
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ValidationError):
        Config(url=url, model="m")


def test_what_makes_another_judge():
    one = Config(url="http://h/v1/", model="m")
    same = Config(url="http://h/v1", model="m", timeout_s=5, retries=0, **NAMED)
    assert one.identity == same.identity
    for other in ({"model": "n"}, {"temperature": 1.0}, {"seed": 3}, {"url": "http://h/v2"}):
        assert Config(**{"url": "http://h/v1", "model": "m", **other}).identity != one.identity


def test_an_item_from_end_to_end(tmp_path):
    answers = [says('["a", "b"]'), says(json.dumps(SCORES)), says('["c"]'),
               says('[{"number": 1, "score": 1}]')]  # fmt: skip
    item = Item("1", "q", "reference", "response")
    with endpoint(*answers) as (server, judge):
        first = judge_item(CachedJudge(judge, tmp_path), item)
        again = judge_item(CachedJudge(judge, tmp_path), item)
    assert (first[0].value, first[1].value) == (0.35, 1.0)
    assert again == first
    assert len(server.requests) == 4
