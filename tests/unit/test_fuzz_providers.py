"""Whatever a provider sends, each request ends in one state or the stage in one line, nothing that
was paid for is lost, and the next run goes on without a deleted store.

The real client and the official SDKs talk to a server on this machine.
"""

import json
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batch_peer import BatchPeer, bad, good, good_message, lines
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, PIECES, VALUES, damaged, ended, examples
from peer import SETTINGS, Peer
from raw_peer import RawPeer, http

from bezoar.errors import UserError
from bezoar.llm import batch_run, limits
from bezoar.llm.answer_store import Store, key_of
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import STATES
from bezoar.llm.settings import request_of

KEY = "canary-0123456789"
CHAT: dict[str, Any] = {**SETTINGS, "use_batch_api": True, "timeout_s": 60}
CLAUDE = {**CHAT, "provider": "anthropic", "api": "messages", "base_url_env": "PEER_ROOT"}
APIS = {"chat": CHAT, "completions": {**CHAT, "api": "completions"}, "messages": CLAUDE}
ROWS = ["0", "1", "2"]
STATUSES = [
    *(200, 200, 200, 200, 200, 200, 200, 103, 201, 204, 206, 301, 304, 400, 400, 401, 402, 403),
    *(404, 405, 408, 409, 413, 418, 422, 429, 429, 451, 500, 502, 503, 504, 529, 599, 999),
]
ERRORS: list[Any] = [
    {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}},
    {"error": {"message": "no", "code": "insufficient_quota"}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"error": {"message": f"key {KEY} is wrong", "code": "invalid_api_key"}},
    {"error": {"code": "content_filter", "innererror": {"code": "x", "content_filter_result": 1}}},
    {"error": {"error": {"error": "x"}, "metadata": {"flagged": True}}},
    {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]},
    {"error": "model_not_found"},
    {"message": "no", "code": 429},
    *(
        [],
        None,
        "no",
        7,
        {},
        {"error": None},
        {"error": []},
        {"error": {}},
        {"error": {"code": 503}},
    ),
]
TIMES = [
    *("0", "1", "-1", "1.5", "1e9", "99999999999999999999", "1s", "6m0s", "12ms", "9d9d", "soon"),
    *("", "\u00b2", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 99999 99:99:99 GMT", "NaN"),
    *("0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "2026-11-26T00:00:00Z", "inf", "1,5"),
]
HEADERS: dict[str, list[str]] = {
    "retry-after": TIMES,
    "retry-after-ms": TIMES,
    "date": TIMES,
    "x-ratelimit-remaining-requests": TIMES,
    "x-ratelimit-reset-requests": TIMES,
    "x-ratelimit-remaining-tokens": TIMES,
    "x-ratelimit-reset-tokens": TIMES,
    "anthropic-ratelimit-tokens-remaining": TIMES,
    "anthropic-ratelimit-tokens-reset": TIMES,
    "content-type": [
        *("", "text/html", "text/event-stream", "application/json; charset=utf-16"),
        *("x; charset=idna", "x; charset=rot13", 'x; charset="', "x; charset=unicode_escape"),
    ],
    "content-encoding": ["gzip", "br", "deflate", "zstd", "x", "gzip, gzip"],
    "content-length": ["0", "5", "99999", "-1", "x"],
    "transfer-encoding": ["chunked", "identity"],
    "location": ["/v1/chat/completions", "http://[::1", "ftp://x/", "//", "", "mailto:x"],
    "x-should-retry": ["true", "false"],
}
WORDS = [
    *("stop", "length", "content_filter", "error", "tool_calls", "end_turn", "refusal", "STOP"),
    *("text", "thinking", "redacted_thinking", "<think>x</think>y", "<think>x", "assistant"),
    *({"type": "text", "text": "x"}, [{"type": "text", "text": "x"}], [{"type": "tool_use"}]),
    *("in_progress", "completed", "COMPLETED", "failed", "expired", "cancelled", "ended", "paused"),
    *("succeeded", "errored", "canceled", 200, 400, 401, 429, 500, "200", "400", 10**300, 1e308),
]
ANY = (*VALUES, *WORDS, *WORDS)


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    prices.write_text("models: {m: {input: 1, output: 2, batch_share: 0.5}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEER_KEY", KEY)
        patch.setenv("BEZOAR_PRICES", str(prices))
        patch.delenv("BEZOAR_BUDGET_USD", raising=False)
        patch.setattr(limits, "FIRST_PAUSE_S", 0.0001)
        patch.setattr(limits, "LONGEST_S", 0.0005)
        patch.setattr(batch_run, "POLL_S", 0.0005)
        yield


@pytest.fixture(scope="module")
def peer() -> Iterator[RawPeer]:
    running = RawPeer()
    yield running
    running.stop()


@contextmanager
def client_of(folder: Path, settings: dict[str, Any], url: str, mode: str) -> Iterator[LLMClient]:
    """A client whose provider is at `url`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEER_URL", f"{url}/v1")
        patch.setenv("PEER_ROOT", url)
        with LLMClient.of(settings, folder / "s.sqlite", 2, None, mode) as client:
            yield client


def ask(folder: Path, settings: dict[str, Any], url: str, mode: str) -> dict[str, str] | str:
    """Ask all rows; return their states, or the line that the stage ended with."""
    try:
        with client_of(folder, settings, url, mode) as client:
            answers = client.ask([[{"role": "user", "content": row}] for row in ROWS], ROWS)
    except UserError as error:
        line = str(error)
        assert "\n" not in line and re.search(r"model m\b|batch \S+", line), line
        assert KEY not in line
        return line
    assert len(answers) == len(ROWS)
    assert {answer.state for answer in answers} <= set(STATES)
    for answer in answers:
        assert answer.text or answer.state != "answered"
        json.dumps([answer.text, answer.reasoning, answer.error], ensure_ascii=False).encode()
    return {row: answer.state for row, answer in zip(ROWS, answers, strict=True)}


def stored(folder: Path, settings: dict[str, Any]) -> tuple[set[str], int]:
    """Return the rows whose answers are for good, and how many batches are open."""
    store = Store(folder / "s.sqlite")
    keys = {row: key_of(request_of(settings, [{"role": "user", "content": row}])) for row in ROWS}
    found = store.get_many(keys.values())
    assert KEY not in "".join(response for _, _, _, response, *_ in store.rows())
    batches = len(store.open_batches())
    store.close()
    return {row for row, key in keys.items() if key in found}, batches


STAY = ("answered", "truncated")  # states of an answer with a text


def goes_on(
    folder: Path, settings: dict[str, Any], url: str, mode: str, first: dict[str, str] | str
) -> None:
    """Check that a run after the trouble is over keeps the texts that are stored and asks for the
    rest.
    """
    kept, _ = stored(folder, settings)
    second = ask(folder, settings, url, mode)
    if isinstance(second, str) and "cancel-batches" in second:
        with client_of(folder, settings, url, mode) as client:
            client.model.cancel(give_up=True)  # type: ignore[attr-defined]
        second = ask(folder, settings, url, mode)
    assert isinstance(second, dict), (first, second)
    for row in ROWS:
        if row not in kept or (isinstance(first, dict) and first[row] not in STAY):
            assert second[row] == "answered", (row, first, second)
        elif isinstance(first, dict):
            assert second[row] in (first[row], "answered")  # cut before the first word: asked again
    assert stored(folder, settings) == (set(ROWS), 0)


def good_body(api: str) -> bytes:
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
    found = Peer.response(path.get(api, "/v1/messages"), "m", {"text": "fine"})
    return json.dumps(found).encode()


def odd_response(api: str, rng: random.Random) -> bytes:
    """Return a response with a damaged body, status, headers, or all of them."""
    status = rng.choice(STATUSES)
    body = good_body(api) if status < 300 else json.dumps(rng.choice(ERRORS)).encode()
    if rng.random() < 0.2:
        body = json.dumps(rng.choice(ERRORS)).encode()
    if rng.random() < 0.7:
        body = damaged(body, rng, rng.randrange(1, 4), ANY)
    names = rng.sample(list(HEADERS), rng.choice((0, 0, 1, 3)))
    whole = http(status, body, {name: rng.choice(HEADERS[name]) for name in names})
    if rng.random() < 0.1:
        place = rng.randrange(len(whole))
        whole = rng.choice((whole[:place], whole[:place] + rng.choice(PIECES) + whole[place:]))
    return whole


@pytest.mark.parametrize("api", APIS)
@examples(EXAMPLES)
@given(seed=st.integers(0, 2**32))
def test_whatever_a_response_is_each_request_ends_in_one_state(
    api: str, seed: int, peer: RawPeer
) -> None:
    rng = random.Random(seed)
    fine, odd = http(200, good_body(api)), odd_response(api, rng)
    concerned = rng.choice((["0"], ["2"], ["0", "1"], ROWS))
    left = {row: rng.choice((1, 2, 99)) for row in concerned}

    def script(method: str, path: str, body: bytes) -> bytes:
        request = json.loads(body) if body else {"prompt": "0"}
        row = request["prompt"] if "prompt" in request else request["messages"][-1]["content"]
        if left.get(row, 0) > 0:
            left[row] -= 1
            return odd
        return fine

    peer.script = script
    with tempfile.TemporaryDirectory() as place:
        first = ask(Path(place), APIS[api], peer.url, "online")
        if isinstance(first, dict):
            assert all(first[row] == "answered" for row in ROWS if row not in concerned)
        peer.script = lambda method, path, body: fine
        goes_on(Path(place), APIS[api], peer.url, "online", first)
    ended(f"online {api}", "one line" if isinstance(first, str) else "one state each")


class OddBatchPeer(BatchPeer):
    """Damages what it sends as long as `damage` says so."""

    damage: Any = None

    def work(self, what: str, path: str, content: bytes, headers: Any) -> bytes:
        body = super().work(what, path, content, headers)
        return self.damage(what, body) if self.damage else body


def odd_results(api: str, keys: list[str], rng: random.Random) -> tuple[bytes, bytes | None]:
    """Return the files of a batch's results, damaged."""
    line = good_message if api == "messages" else good
    output = [line(key) for key in keys if rng.random() < 0.8]
    if api == "messages":
        kind = rng.choice(("errored", "expired", "canceled"))
        error = {"type": "error", "error": rng.choice(ERRORS)}
        output += [{"custom_id": key, "result": {"type": kind, "error": error}} for key in keys[:1]]
        return damaged(lines(*output), rng, rng.randrange(4), ANY), None
    errors = [bad(key, rng.choice(STATUSES)) for key in keys if rng.random() < 0.3]
    files = [damaged(lines(*rows), rng, rng.randrange(3), ANY) for rows in (output, errors)]
    return files[0], files[1] if errors else None


@pytest.mark.parametrize("api", ["chat", "messages"])
@examples(EXAMPLES)
@given(seed=st.integers(0, 2**32))
def test_whatever_a_batch_brings_back_each_request_ends_in_one_state(api: str, seed: int) -> None:
    rng, settings = random.Random(seed), APIS[api]
    peer = OddBatchPeer()
    line = good_message if api == "messages" else good
    fine = peer.results = lambda keys, _: (lines(*(line(key) for key in keys)), None)
    if rng.random() < 0.5:
        peer.results = lambda keys, number: odd_results(api, keys, random.Random(seed + number))
    left = {
        what: rng.choice((0, 0, 1, 2, 99 if what == "download" else 3))
        for what in ("upload", "create", "list", "look", "download")
    }
    statuses = {what: rng.choice(STATUSES) for what in left}

    def damage(what: str, body: bytes) -> bytes:
        if left.get(what, 0) <= 0:
            return body
        left[what] -= 1
        return damaged(body, rng, rng.randrange(1, 3), ANY)

    def script(what: str, turn: int) -> dict[str, Any] | None:
        if turn > 2 or rng.random() < 0.8 or what not in statuses:
            return None
        status = statuses[what]
        if status < 400:
            return {"reset": True, "after": rng.random() < 0.5}
        return {"status": status, "body": json.dumps(rng.choice(ERRORS))}

    peer.damage, peer.script = damage, script
    try:
        with tempfile.TemporaryDirectory() as place:
            first = ask(Path(place), settings, peer.url, "batch")
            _, batches = stored(Path(place), settings)
            assert isinstance(first, str) or not batches
            peer.damage, peer.results = None, fine
            peer.script = lambda what, turn: None
            goes_on(Path(place), settings, peer.url, "batch", first)
    finally:
        peer.stop()
    ended(f"batches {api}", "one line" if isinstance(first, str) else "one state each")
