"""Promises of the client to language models, against a peer that fails on command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import SETTINGS, Peer

from bezoar import network
from bezoar.errors import UserError
from bezoar.llm import limits, transport
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer

KEY = "canary-0123456789"


@pytest.fixture
def peer() -> Iterator[Peer]:
    running = Peer()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _environment(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_URL", f"{peer.url}/v1")
    monkeypatch.setenv("PEER_KEY", KEY)
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.01)


def connect(folder: Path, mode: str = "online", concurrency: int = 8, **settings: Any) -> LLMClient:
    return LLMClient.of({**SETTINGS, **settings}, folder / "s.sqlite", concurrency, None, mode)


def chat(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def ask(folder: Path, texts: list[str], **more: Any) -> list[Answer]:
    with connect(folder, **more) as opened:
        return opened.ask(chat(texts), texts)


def test_answers_keep_the_order_of_the_questions_and_concurrency_is_bounded(
    tmp_path: Path, peer: Peer
) -> None:
    def slow_start(prompt: str, turn: int) -> dict[str, Any]:
        time.sleep(0.05 if int(prompt) < 5 else 0.005)
        return {"text": f"echo {prompt}"}

    peer.script = slow_start
    texts = [str(i) for i in range(40)]
    assert [answer.text for answer in ask(tmp_path, texts, concurrency=4)] == [
        f"echo {text}" for text in texts
    ]
    assert 1 < peer.most_active <= 4


def test_a_second_run_sends_nothing_and_says_the_same(tmp_path: Path, peer: Peer) -> None:
    first = ask(tmp_path, ["a", "b", "a"])
    assert len(peer.seen) == 2
    assert ask(tmp_path, ["a", "b", "a"]) == first
    assert ask(tmp_path, ["b", "a"], mode="replay") == [first[1], first[0]]
    assert len(peer.seen) == 2


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.6}, {"model": "n"}, {"max_tokens": 8}, {"revision": "abc"}, {"stop": ["x"]}],
)
def test_another_model_or_decoding_is_another_question(
    tmp_path: Path, peer: Peer, change: dict[str, Any]
) -> None:
    ask(tmp_path, ["a"])
    ask(tmp_path, ["a"], **change)
    assert len(peer.seen) == 2


def test_replay_names_the_missing_row_and_sends_nothing(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(tmp_path, ["a"])
    monkeypatch.delenv("PEER_KEY")
    with pytest.raises(UserError, match=r"no stored answer for b"):
        ask(tmp_path, ["a", "b"], mode="replay")
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    ("api", "path", "base"),
    [
        ("chat", "/v1/chat/completions", "/v1"),
        ("chat", "/v1/chat/completions", "/v1//"),
        ("completions", "/v1/completions", "/v1"),
        *(("messages", "/v1/messages", base) for base in ("", "/", "/v1", "/v1/")),
        ("messages", "/anthropic/v1/messages", "/anthropic"),
    ],
)
def test_each_protocol_is_spoken_with_its_own_fields(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, api: str, path: str, base: str
) -> None:
    monkeypatch.setenv("PEER_URL", peer.url + base)
    settings = {
        **SETTINGS,
        "api": api,
        "prompt_form": "<p>%s<a>" if api == "completions" else None,
        "stop": ["END"],
    }
    messages = [{"role": "system", "content": "be {kind}"}, {"role": "user", "content": "hi"}]
    with LLMClient.of(settings, tmp_path / "s.sqlite", 1, None) as opened:
        answer = opened.ask([messages], ["row"])[0]
    sent = peer.seen[0]
    assert (sent["path"], sent["model"], sent["temperature"], sent["max_tokens"]) == (
        path,
        "m",
        0.5,
        9,
    )
    assert sent.get("stop_sequences" if api == "messages" else "stop") == ["END"]
    if api == "completions":
        assert sent["prompt"] == "<p>be {kind}\n\nhi<a>"
    elif api == "messages":
        assert (sent["system"], sent["messages"]) == ("be {kind}", messages[1:])
    else:
        assert sent["messages"] == messages
    assert (answer.state, answer.model, answer.usage) == (
        "answered",
        "m",
        {"input": 3, "output": 2},
    )


PASSING = {
    **{str(status): {"status": status} for status in (408, 409, 425, 502, 503, 504, 520)},
    "invalid UTF-8 HTML": {"body": "<html>\xff</html>"},
    "broken off": {"text": "The lar", "finish": "error"},
    "a number for a text": {"text": 7},
    "a rate limit with status 200": {"body": '{"choices": null, "error": {"code": 429}}'},
    "Retry-After that is rubbish": {"status": 503, "headers": {"retry-after": "-1"}},
    "429 with Retry-After": {"status": 429, "headers": {"retry-after": "0.05"}},
    "429 without": {"status": 429},
    "500": {"status": 500},
    "529": {"status": 529},
    "reset": {"reset": True},
    "truncated body": {"body": '{"id": "1", "choi', "headers": {"content-length": "500"}},
    "invalid JSON": {"body": '{"id": "1", "choi'},
    "a page of HTML": {"body": "<html>busy</html>", "headers": {"content-type": "text/html"}},
    "no choices": {"choices": []},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_waited_out(tmp_path: Path, peer: Peer, fault: dict[str, Any]) -> None:
    peer.script = lambda prompt, turn: fault if turn == 0 and prompt == "b" else {"text": "fine"}
    assert [(answer.state, answer.text) for answer in ask(tmp_path, ["a", "b", "c"])] == [
        ("answered", "fine")
    ] * 3
    assert peer.turns == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize(("model", "unnamed"), [({}, 1), ({"model": None}, 1), ({"model": "m"}, 0)])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_or_no_name_of_a_model_costs_no_answer(
    tmp_path: Path, peer: Peer, model: dict[str, str], unnamed: int, mark: str
) -> None:
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], **model}
    peer.script = lambda prompt, turn: {"body": f"{mark}{json.dumps(body)}"}
    with connect(tmp_path) as opened:
        answer = opened.ask(chat(["a"]), ["a"])[0]
        facts = opened.facts_for_receipt()
    assert (answer.state, answer.text, answer.model) == ("answered", "x", model.get("model") or "")
    assert (len(peer.seen), facts.get("unnamed", 0)) == (1, unnamed)
    assert ask(tmp_path, ["a"]) == [answer] and len(peer.seen) == 1


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.400000001s"}
QUOTA = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "x"}, RETRY_INFO]}


@pytest.mark.parametrize(
    "wait",
    [{"headers": {"Retry-After": "0.4"}}, {"body": json.dumps([{"error": QUOTA}])}],
    ids=["in a header", "in the body alone, as Gemini says it"],
)
def test_retry_after_is_honoured(tmp_path: Path, peer: Peer, wait: dict[str, Any]) -> None:
    times: list[float] = []

    def script(prompt: str, turn: int) -> dict[str, Any]:
        times.append(time.monotonic())
        return {"status": 429, **wait} if turn == 0 else {"text": "fine"}

    peer.script = script
    ask(tmp_path, ["a"])
    assert times[1] - times[0] >= 0.4


def test_a_stall_past_the_timeout_is_asked_again(tmp_path: Path, peer: Peer) -> None:
    def script(prompt: str, turn: int) -> dict[str, Any]:
        time.sleep(0.6 if turn == 0 else 0)
        return {"text": "fine"}

    peer.script = script
    assert ask(tmp_path, ["a"], timeout_s=0.3)[0].text == "fine"


def test_a_server_that_trickles_blank_lines_is_asked_again(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SLACK_S", 0.1)
    peer.script = lambda prompt, turn: {
        "text": "late" if turn == 0 else "fine",
        "trickle": 2 - turn,
    }
    assert ask(tmp_path, ["a"], timeout_s=1.3)[0].text == "fine"
    monkeypatch.setattr(limits, "RETRIES", 1)
    peer.script = lambda prompt, turn: {"text": "late", "trickle": 2}
    answer = ask(tmp_path, ["b"], timeout_s=0.3)[0]
    assert (answer.state, answer.error) == (
        "provider_error",
        "no whole response within 0.3 s (`timeout_s`)",
    )


STATES: dict[str, dict[str, Any]] = {
    "answered": {"text": "x"},
    "truncated": {"text": "x", "finish": "length"},
    "refused": {"text": "", "refusal": "I will not"},
    "unparsable": {"text": " \n"},
    "provider_error": {"status": 500},
}


def test_every_request_ends_in_exactly_one_state_and_they_are_counted(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: STATES[prompt]
    with connect(tmp_path) as opened:
        answers = opened.ask(chat(list(STATES)), list(STATES))
        assert [answer.state for answer in answers] == list(STATES)
        assert opened.states == dict.fromkeys(STATES, 1)


def test_a_row_the_server_cannot_take_does_not_stop_the_others(tmp_path: Path, peer: Peer) -> None:
    """A prompt beyond the context is a 400 of one row: at the teacher's 2,048 tokens some rows will
    meet it.
    """
    too_long: dict[str, Any] = {
        "status": 400,
        "body": '{"error": {"message": "maximum context length is 2048 tokens"}}',
    }
    peer.script = lambda prompt, turn: too_long if prompt == "b" else {"text": "fine"}
    answers = ask(tmp_path, ["a", "b", "c"])
    assert [answer.state for answer in answers] == ["answered", "provider_error", "answered"]
    assert "context length" in answers[1].error
    assert peer.turns["b"] == 1
    assert ask(tmp_path, ["a", "b", "c"], mode="replay") == answers


@pytest.mark.parametrize(("status", "hint"), [(401, "PEER_KEY"), (403, "PEER_KEY"), (404, "model")])
def test_a_wrong_key_or_model_is_one_line_without_the_key(
    tmp_path: Path, peer: Peer, status: int, hint: str
) -> None:
    peer.script = lambda prompt, turn: {
        "status": status,
        "body": f'{{"error": {{"message": "no\\nto {KEY}"}}}}',
    }
    with pytest.raises(UserError, match=hint) as raised:
        ask(tmp_path, [str(i) for i in range(20)])
    assert KEY not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("variable", ["PEER_KEY", "PEER_URL"])
def test_a_missing_variable_is_named_before_anything_is_sent(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Without its address a client would send the key to its maker's own server."""
    monkeypatch.delenv(variable)
    with pytest.raises(UserError, match=f"{variable}: not set"):
        ask(tmp_path, ["a"])
    assert peer.seen == []


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_server_that_needs_no_key_is_asked_without_one(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.delenv("PEER_KEY")
    assert ask(tmp_path, ["a"], api=api, api_key_env=None)[0].text == "echo a"
    peer.script = lambda prompt, turn: {"status": 401, "body": '{"error": {"message": "none"}}'}
    with pytest.raises(UserError, match=r"401 none; check the key in `api_key_env`"):
        ask(tmp_path, ["b"], api=api, api_key_env=None)
    with pytest.raises(UserError, match="`api_key_env` of m: expected the name of a variable"):
        ask(tmp_path, ["c"], api=api, api_key_env=None, base_url_env=None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://user:secret@127.0.0.1:3128"),
        ("HTTP_PROXY", "http://user:secret@127.0.0.1:port"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_one_line_that_names_the_variable(
    tmp_path: Path,
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str,
    value: str,
) -> None:
    unset_proxies(monkeypatch)
    others = {"http_proxy": "proxy:3128", "NO_PROXY": "x", "SSL_CERT_DIR": str(tmp_path)}
    for name, other in others.items():
        if name.upper() != variable:
            monkeypatch.setenv(name, other)
    monkeypatch.setenv(variable, value)
    wrong = f"{variable} and SSL_CERT_DIR" if variable == "SSL_CERT_FILE" else variable
    with pytest.raises(UserError, match=f"; correct or unset {wrong}$") as raised:
        ask(tmp_path, ["a"])
    assert "secret" not in str(raised.value)
    assert (peer.seen, capfd.readouterr().err) == ([], "")


def unset_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_does_not_answer_is_named_and_no_other_variable(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    unset_proxies(monkeypatch)
    monkeypatch.setattr(network, "exempt_this_machine", lambda environ: None)  # the peer is here
    monkeypatch.setenv(variable, "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"; check the proxy in {variable}$") as raised:
        ask(tmp_path, ["a"])
    assert "secret" not in str(raised.value) and not peer.seen
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert ask(tmp_path, ["b"])[0].text == "echo b"
    monkeypatch.setenv("PEER_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"nothing answers there, check the address in PEER_URL$"):
        ask(tmp_path, ["c"])


def test_an_address_where_nobody_listens_is_one_line_not_a_row_of_errors(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="PEER_URL"):
        ask(tmp_path, [str(i) for i in range(50)])


def test_the_key_is_written_nowhere(
    tmp_path: Path, peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    peer.script = lambda prompt, turn: STATES[prompt]
    ask(tmp_path, list(STATES))
    assert peer.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in "".join(capfd.readouterr())


def test_after_a_kill_only_the_missing_answers_are_asked_for(tmp_path: Path, peer: Peer) -> None:
    """Answers come 40 a second; the store must keep nearly all of them however slowly they come."""

    def script(prompt: str, turn: int) -> dict[str, Any]:
        time.sleep(0.05)
        return {"text": f"echo {prompt}"}

    peer.script = script
    program = (
        f"from test_client import *; from pathlib import Path\nask(Path({str(tmp_path)!r}), [str(i)"
        " for i in range(400)], concurrency=2)"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), str(here.parents[2] / "scripts")])
    child = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}
    )
    while len(peer.seen) < 100 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and len(peer.seen) >= 100
    before = len(peer.seen)
    texts = [str(i) for i in range(before)]
    peer.script = lambda prompt, turn: {"text": f"echo {prompt}"}
    assert [answer.text for answer in ask(tmp_path, texts)] == [f"echo {text}" for text in texts]
    assert len(peer.seen) - before <= 40  # at most about a second's answers were not yet stored


def test_a_server_that_ignores_stop_texts_brings_the_same_answer(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: {"text": "Yes.END and on", "finish": "length"}
    answer = ask(tmp_path, ["a"], stop=["END"])[0]
    assert (answer.state, answer.text) == ("answered", "Yes.")


def test_half_a_character_does_not_end_the_stage(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: {"text": "smile \ud83d\ude00 cut \ud83d"}
    first = ask(tmp_path, ["a"])
    assert first[0].text == "smile \U0001f600 cut \ufffd"
    assert ask(tmp_path, ["a"], mode="replay") == first


def test_an_unparsable_answer_is_asked_again_with_another_attempt_up_to_the_bound(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: {"text": "7" if turn == int(prompt) else "mumble"}
    with connect(tmp_path) as opened:
        results = opened.ask_until(
            chat(["0", "2", "9"]),
            ["0", "2", "9"],
            lambda text: int(text) if text.isdigit() else None,
            4,
        )
    assert [parsed for parsed, _ in results] == [7, 7, None]
    assert peer.turns == {"0": 1, "2": 3, "9": 4}


@pytest.mark.parametrize(
    "act", [{"status": 500}, {"reset": True}, {"text": "x", "finish": "error"}]
)
def test_a_row_that_the_provider_failed_is_not_asked_under_another_attempt(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, act: dict[str, Any]
) -> None:
    """Six calls, not six for each attempt; the next run asks it again, and then a replay agrees."""
    peer.script = lambda prompt, turn: act if prompt == "1" else {"text": "7"}
    with connect(tmp_path) as opened:
        results = opened.ask_until(chat(["0", "1"]), ["0", "1"], int, 4)
    assert [answer.state for _, answer in results] == ["answered", "provider_error"]
    assert peer.turns["1"] == limits.RETRIES
    peer.script = lambda prompt, turn: {"text": "8"}
    for mode in ("online", "replay"):
        with connect(tmp_path, mode) as opened:
            results = opened.ask_until(chat(["0", "1"]), ["0", "1"], int, 4)
        assert [parsed for parsed, _ in results] == [7, 8]


def test_only_one_request_is_under_way_until_the_server_has_answered_once(
    tmp_path: Path, peer: Peer
) -> None:
    active: list[int] = []

    def script(prompt: str, turn: int) -> dict[str, Any]:
        active.append(peer.active)
        time.sleep(0.05)
        return {"text": "fine"}

    peer.script = script
    ask(tmp_path, [str(i) for i in range(9)], concurrency=4)
    assert active[0] == 1 and max(active) > 1


def test_a_receipt_has_the_price_of_all_answers_used_whichever_run_paid_for_them(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed and run again paid for what it found stored, too."""
    (tmp_path / "prices.yaml").write_text(
        "models: {m: {input: 1000, output: 2000, batch_share: 0.5}}\n"
    )
    monkeypatch.setenv("BEZOAR_PRICES", str(tmp_path / "prices.yaml"))
    peer.script = lambda prompt, turn: {"text": "fine"}

    def facts(texts: list[str], mode: str = "online") -> dict[str, Any]:
        with connect(tmp_path, mode) as opened:
            opened.ask(chat(texts), texts)
            return opened.facts_for_receipt()

    whole = facts(["a", "b"])["usd"]
    assert whole > 0
    again = facts(["a", "b", "c", "c"])
    assert (again["sent"], again["usd"]) == (1, pytest.approx(whole / 2))
    used = {"answers": 3, "stored": 2, "usd": pytest.approx(1.5 * whole)}
    assert again["answers_used"] == used
    assert facts(["a", "b", "c", "c"], "replay")["answers_used"] == {**used, "stored": 3}
    with connect(tmp_path) as first, connect(tmp_path) as second:  # as of a filter's two raters
        for opened, texts in ((first, ["a"]), (second, ["a", "b"])):
            opened.ask(chat(texts), texts)
        first.count_in(second)
        assert first.facts_for_receipt()["answers_used"] == {**used, "stored": 3}
    assert facts(["c"])["answers_used"] == {
        "answers": 1,
        "stored": 1,
        "usd": pytest.approx(whole / 2),
    }
