"""Promises of whom a refusal concerns: the row, the settings or the account; it decides what is
stored and what ends a stage.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import SETTINGS, Peer

from bezoar.errors import UserError
from bezoar.llm import limits
from bezoar.llm.answer_store import Store
from bezoar.llm.budget import Ledger
from bezoar.llm.client import LLMClient
from bezoar.llm.faults import error_of, message_of
from bezoar.llm.language_model import Answer

KEY = "canary-0123456789"
FINE = {"text": "fine"}


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


def ask(
    folder: Path, texts: list[str], concurrency: int = 2, mode: str = "online", **changes: Any
) -> list[Answer]:
    settings = {**SETTINGS, **changes}
    with LLMClient.of(settings, folder / "s.sqlite", concurrency, None, mode) as client:
        return client.ask([[{"role": "user", "content": text}] for text in texts], texts)


def stored(folder: Path) -> dict[str, str]:
    """State by prompt, of what is stored."""
    store = Store(folder / "s.sqlite")
    rows = [(json.loads(request), json.loads(answer)) for _, request, answer, *_ in store.rows()]
    store.close()
    return {request["messages"][0]["content"]: answer["state"] for request, answer in rows}


def error(status: int, body: object) -> dict[str, Any]:
    return {"status": status, "body": body if isinstance(body, str) else json.dumps(body)}


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


CREDIT = error(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "low"}})
LONG = error(400, {"error": {"message": "This model's maximum context length is 2048 tokens"}})

ACCOUNT = {
    "401": error(401, {"error": {"message": "Incorrect API key"}}),
    "403": error(403, {"error": {"message": "no access"}}),
    "402": error(402, {"error": {"message": "Insufficient Balance", "code": "invalid_request"}}),
    "402 HTML": error(402, "<html><title>Payment Required</title></html>"),
    "429 code": error(429, {"error": {"message": "quota", "code": "insufficient_quota"}}),
    "429 type": error(429, {"error": {"message": "quota", "type": "insufficient_quota"}}),
    "400 code": error(400, {"error": {"message": "limit", "code": "billing_hard_limit_reached"}}),
    "403 code": error(403, {"code": "Arrearage", "message": "not in good standing"}),
    "500 code": error(500, {"error": {"code": "insufficient_user_quota", "message": "x"}}),
    "403 beside a text": error(403, {"code": "permission-denied", "error": "Access is denied"}),
    "403 list": error(403, {"error": ["no access"]}),
    "429 spelt otherwise": error(429, {"error": {"message": "x", "code": "InsufficientQuota"}}),
    "400 beside a text": error(400, {"error": "no", "code": "billing-not-active"}),
    "400 wrapped": error(400, {"error": {"error": {"type": "credit_limit"}, "code": 400}}),
    "200 wrapped": {"body": json.dumps({"error": {"error": {"code": 402, "message": "x"}}})},
    "200 error": {"body": json.dumps({"choices": None, "error": {"code": 402, "message": "x"}})},
}


@pytest.mark.parametrize("act", ACCOUNT.values(), ids=ACCOUNT)
def test_an_account_that_is_refused_is_one_request_and_one_line_and_nothing_is_stored(
    tmp_path: Path, peer: Peer, act: dict[str, Any]
) -> None:
    peer.script = lambda prompt, turn: act
    with pytest.raises(UserError, match="PEER_KEY") as raised:
        ask(tmp_path, numbers(20), concurrency=8)
    assert "\n" not in str(raised.value) and len(peer.seen) == 1
    assert stored(tmp_path) == {}
    peer.script = lambda prompt, turn: FINE
    assert {answer.state for answer in ask(tmp_path, numbers(20))} == {"answered"}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_takes_nothing_refuses_the_settings_or_the_account(
    tmp_path: Path, peer: Peer, status: int
) -> None:
    peer.script = lambda prompt, turn: {**CREDIT, "status": status}
    with pytest.raises(UserError, match=r"no request with these settings was accepted.*PEER_KEY"):
        ask(tmp_path, numbers(3))
    assert stored(tmp_path) == {}
    with pytest.raises(UserError, match="no request with these settings"):
        ask(tmp_path, numbers(5000), concurrency=4)
    assert len(peer.seen) <= 3 + 16 + 4, "it is soon given up"


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported", "`max_tokens`"),
        ("temperature: Extra inputs are not permitted", "`temperature`"),
        ("'seed' is not allowed", "`seed`"),
        ("response_format is not supported", "`json_schema`"),
        ("anthropic-version: 2020-01-01 is not a valid version", "`api_version`"),
    ],
)
def test_a_parameter_that_is_refused_is_named_by_its_setting(
    tmp_path: Path, peer: Peer, message: str, setting: str
) -> None:
    peer.script = lambda prompt, turn: error(400, {"error": {"message": message}})
    with pytest.raises(UserError, match=f"change {setting}"):
        ask(tmp_path, ["a"])


@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_row_that_is_refused_by_itself_is_stored_wherever_it_stands(
    tmp_path: Path, peer: Peer, place: int
) -> None:
    peer.script = lambda prompt, turn: LONG if prompt == str(place) else FINE
    states = [answer.state for answer in ask(tmp_path, numbers(10))]
    assert states == ["provider_error" if i == place else "answered" for i in range(10)]
    assert peer.turns[str(place)] == 1
    before = len(peer.seen)
    assert [answer.state for answer in ask(tmp_path, numbers(10), mode="replay")] == states
    assert len(peer.seen) == before, "a replay agrees"


def test_a_row_that_a_proxy_finds_too_large_is_a_row(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: error(413, "<title>413 Request Entity Too Large</title>")
    assert [answer.state for answer in ask(tmp_path, ["a"])] == ["provider_error"]
    assert stored(tmp_path) == {"a": "provider_error"}


FIREWALL = error(
    403, "<!DOCTYPE html>\n<html><title>Attention Required! | Cloudflare</title></html>"
)


@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_row_that_a_firewall_dislikes_is_a_row(tmp_path: Path, peer: Peer, place: int) -> None:
    peer.script = lambda prompt, turn: FIREWALL if prompt == str(place) else FINE
    answers = ask(tmp_path, numbers(10))
    assert [answer.state == "answered" for answer in answers] == [i != place for i in range(10)]
    assert answers[place].error == "403 Attention Required! | Cloudflare"
    assert (peer.turns[str(place)], stored(tmp_path)[str(place)]) == (1, "provider_error")


@pytest.mark.parametrize("answered", [0, 5])
def test_a_firewall_that_refuses_everything_is_one_line(
    tmp_path: Path, peer: Peer, answered: int
) -> None:
    peer.script = lambda prompt, turn: FINE if len(peer.seen) <= answered else FIREWALL
    with pytest.raises(UserError, match=r"403 Attention Required.*no request.*PEER_KEY") as raised:
        ask(tmp_path, numbers(200), concurrency=1)
    assert "\n" not in str(raised.value) and len(peer.seen) <= answered + 16 + 1
    assert stored(tmp_path) == dict.fromkeys(numbers(answered), "answered")


def test_many_long_rows_in_a_row_are_still_rows(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: LONG if 0 < int(prompt) < 50 else FINE
    states = [answer.state for answer in ask(tmp_path, numbers(60))]
    assert states.count("provider_error") == 49 and states.count("answered") == 11


def test_the_last_row_of_all_can_be_refused_in_a_run_of_its_own(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: LONG if prompt == "3" else FINE
    ask(tmp_path, numbers(3))
    assert [answer.state for answer in ask(tmp_path, ["3"])] == ["provider_error"]
    assert stored(tmp_path)["3"] == "provider_error"


@pytest.mark.parametrize("answered", [1, 5])
def test_credit_that_ends_in_the_middle_is_nobodys_answer(
    tmp_path: Path, peer: Peer, answered: int
) -> None:
    peer.script = lambda prompt, turn: FINE if len(peer.seen) <= answered else CREDIT
    with pytest.raises(UserError, match="PEER_KEY"):
        ask(tmp_path, numbers(8), concurrency=1)
    assert set(stored(tmp_path).values()) == {"answered"}
    peer.script = lambda prompt, turn: CREDIT
    with pytest.raises(UserError, match="PEER_KEY"):
        ask(tmp_path, numbers(8))
    assert len(stored(tmp_path)) == answered
    peer.script = lambda prompt, turn: FINE
    assert {answer.state for answer in ask(tmp_path, numbers(8))} == {"answered"}


@pytest.mark.parametrize("status", [401, 402, 404])
def test_answers_under_way_are_kept_when_something_ends_the_stage(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Six requests: one answered, two slow, one refused, one that waits to be sent again for half
    a minute, one that is never sent.
    """

    def script(prompt: str, turn: int) -> dict[str, Any]:
        if prompt == "4":
            return {"status": 503, "headers": {"retry-after": "30"}}
        time.sleep({"0": 0.0, "3": 0.3}.get(prompt, 0.8))
        return error(status, {"error": {"message": "no"}}) if prompt == "3" else FINE

    prices = tmp_path / "p.yaml"
    prices.write_text("models: {m: {input: 1000.0, output: 2000.0, batch_share: 0.5}}\n")
    monkeypatch.setenv("BEZOAR_PRICES", str(prices))
    peer.script = script
    began = time.monotonic()
    with pytest.raises(UserError, match=f"{status} no"):
        ask(tmp_path, numbers(6), concurrency=4)
    assert time.monotonic() - began < 10, "nothing is waited for that was not sent"
    assert peer.turns == dict.fromkeys(numbers(5), 1)
    assert stored(tmp_path) == dict.fromkeys("012", "answered")
    ledger = Ledger(tmp_path / "budget.db", None)
    assert ledger.total() == pytest.approx(3 * (3 * 1000 + 2 * 2000) / 1e6)
    assert ledger.unsettled("s.sqlite") == {}
    ledger.close()


FILTERED = {
    "OpenAI": error(400, {"error": {"code": "content_policy_violation", "message": "no"}}),
    "Azure": error(
        400,
        {"error": {"code": "content_filter", "innererror": {"code": "x"}, "message": "filtered"}},
    ),
    "Azure's inner code": error(
        400,
        {
            "error": {
                "code": "BadRequest",
                "message": "no",
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    ),
    "OpenRouter": error(
        403, {"error": {"code": 403, "message": "no", "metadata": {"flagged_input": "x"}}}
    ),
    "DashScope": error(400, {"code": "DataInspectionFailed", "message": "no"}),
    "xAI": error(
        403,
        {
            "code": "permission-denied",
            "error": "Content violates usage guidelines. Failed check: x",
        },
    ),
    "DeepSeek": error(400, {"error": {"message": "Content Exists Risk", "code": "invalid"}}),
    "Anthropic, in words": error(
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "Output blocked by content filtering policy",
            }
        },
    ),
    "a finish reason": {"text": "The first", "finish": "content_filter"},
    "a refusal": {"text": None, "refusal": "I cannot help."},
}


@pytest.mark.parametrize("act", FILTERED.values(), ids=FILTERED)
def test_a_providers_content_filter_refuses_a_row(
    tmp_path: Path, peer: Peer, act: dict[str, Any]
) -> None:
    peer.script = lambda prompt, turn: act if prompt == "4" else FINE
    states = [answer.state for answer in ask(tmp_path, numbers(10))]
    assert states == ["refused" if i == 4 else "answered" for i in range(10)]
    assert stored(tmp_path)["4"] == "refused"


def test_an_account_that_contents_are_blamed_for_is_nobodys_answer(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: FILTERED["xAI"]
    with pytest.raises(UserError, match=r"no request with these settings was accepted.*PEER_KEY"):
        ask(tmp_path, numbers(3))
    assert stored(tmp_path) == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"object": "error", "message": {"detail": [{"msg": "Extra inputs"}]}}, "Extra inputs"),
        (
            {"error": {"error": {"message": "More credits", "code": 402}, "code": 402}},
            "More credits",
        ),
        ({"error": "Rate limited", "reasons": ["not-enough-credits"]}, "Rate limited"),
        ([{"error": {"code": 400, "message": "API key not valid"}}], "API key not valid"),
        ({"detail": [{"loc": ["body"], "msg": "Field required"}]}, "Field required"),
        ({"code": "x", "error": "in words"}, "in words"),
        ({"error": {"message": {"a": 1}, "code": 7}}, ""),
    ],
)
def test_the_message_of_an_error_is_found_in_any_form(body: object, message: str) -> None:
    assert message_of(error_of(body), "the text of the response") == (
        message or "the text of the response"
    )


@pytest.mark.parametrize(
    "act",
    [
        error(404, {"error": {"message": "no such model", "code": "model_not_found"}}),
        error(404, "<html><title>404 Not Found</title></html>"),
        error(410, {"error": {"message": "retired"}}),
        error(405, ""),
        error(400, {"error": {"message": "no such model", "code": "model_not_found"}}),
    ],
)
def test_a_model_or_an_address_that_is_not_there_is_one_line(
    tmp_path: Path, peer: Peer, act: dict[str, Any]
) -> None:
    peer.script = lambda prompt, turn: act
    with pytest.raises(UserError, match=r"check `model` and the address in PEER_URL"):
        ask(tmp_path, numbers(20), concurrency=8)
    assert len(peer.seen) == 1 and stored(tmp_path) == {}


@pytest.mark.parametrize(
    "body",
    [
        '["x"]',
        '"text"',
        "null",
        "{}",
        '{"error": 7}',
        '{"error": ["x"]}',
        '{"error": {"message": {"a": 1}, "code": 7}}',
        "\x00",
        "[" * 99999,
    ],
)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_an_error_of_any_form_is_one_line_or_a_state(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, status: int, body: str
) -> None:
    monkeypatch.setattr(limits, "RETRIES", 2)
    peer.script = lambda prompt, turn: error(status, body)
    try:
        assert {answer.state for answer in ask(tmp_path, ["a"])} == {"provider_error"}
    except UserError as line:
        assert "\n" not in str(line) and "\x00" not in str(line)


@pytest.mark.parametrize("status", [401, 400, 200])
def test_a_key_that_a_server_echoes_is_nowhere(tmp_path: Path, peer: Peer, status: int) -> None:
    echo = {
        "model": "m",
        "choices": [{"message": {"content": f"Your key is {KEY}"}, "finish_reason": "stop"}],
    }
    peer.script = lambda prompt, turn: error(
        status, echo if status == 200 else {"error": {"message": f"bad {KEY}"}}
    )
    try:
        assert ask(tmp_path, ["a"])[0].text == "Your key is ***"
    except UserError as line:
        assert KEY not in str(line) and "***" in str(line)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PEER_KEY", "ke\u00e9y"),
        ("PEER_KEY", "two words"),
        ("PEER_KEY", "line\nbreak"),
        ("PEER_KEY", " "),
        ("PEER_URL", "localhost:8000"),
        ("PEER_URL", "http://"),
        ("PEER_URL", "http://[half"),
        ("PEER_URL", "http://host:notaport/v1"),
    ],
)
def test_a_variable_that_cannot_be_is_one_line_before_anything_is_sent(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable}: ") as raised:
        ask(tmp_path, ["a"])
    assert not value.strip() or value not in str(raised.value)
    assert peer.seen == []


def test_a_key_with_a_line_break_at_its_end_is_taken(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_KEY", f"{KEY}\n")
    peer.script = lambda prompt, turn: FINE
    assert ask(tmp_path, ["a"])[0].text == "fine"
    assert peer.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_a_version_goes_along_as_a_header_or_in_the_address(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.script = lambda prompt, turn: FINE
    ask(tmp_path, ["a"], api_version="2024-10-21")
    assert peer.seen[-1]["path"] == "/v1/chat/completions?api-version=2024-10-21"
    monkeypatch.setenv("PEER_URL", peer.url)
    ask(tmp_path, ["a"], api_version="2023-06-01", provider="anthropic", api="messages")
    assert peer.seen[-1]["headers"]["anthropic-version"] == "2023-06-01"
    assert peer.seen[-1]["temperature"] == 0.5


def test_half_a_character_in_a_row_names_the_row(tmp_path: Path, peer: Peer) -> None:
    with pytest.raises(UserError, match=r"^a\\ud83d: half a character"):
        settings = SETTINGS
        with LLMClient.of(settings, tmp_path / "s.sqlite", 1, None, "online") as client:
            client.ask([[{"role": "user", "content": "a\ud83d"}]], [r"a\ud83d"])


def test_a_request_of_other_settings_proves_nothing(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: FINE if "effort" in peer.seen[-1] else LONG
    ask(tmp_path, numbers(3), concurrency=1, extra={"effort": "low"})
    with pytest.raises(UserError, match="no request with these settings was accepted"):
        ask(tmp_path, numbers(3), concurrency=1)
    assert len(stored(tmp_path)) == 3 and set(stored(tmp_path).values()) == {"answered"}


def test_credit_that_ends_while_refusals_are_proven_is_one_line(tmp_path: Path, peer: Peer) -> None:
    """While the request that was taken before is sent again, another one is taken, and the
    refusals are the rows' own.
    """

    def script(prompt: str, turn: int) -> dict[str, Any]:
        if prompt == "0" and turn:
            time.sleep(0.5)
            return error(401, {"error": {"message": "no credit"}})
        return LONG if 0 < int(prompt) <= 16 else FINE

    peer.script = script
    with pytest.raises(UserError, match=r"401 no credit.*PEER_KEY"):
        ask(tmp_path, numbers(30))
    assert list(stored(tmp_path).values()).count("provider_error") == 16


def test_credit_that_ends_while_a_refusal_is_still_held_back_is_what_is_said(
    tmp_path: Path, peer: Peer
) -> None:
    def script(prompt: str, turn: int) -> dict[str, Any]:
        if prompt == "0" and turn:
            return error(401, {"error": {"message": "no credit"}})
        return FINE if prompt == "0" else LONG

    peer.script = script
    with pytest.raises(UserError, match=r"401 no credit.*PEER_KEY"):
        ask(tmp_path, numbers(2), concurrency=1)
    assert "provider_error" not in stored(tmp_path).values()


@pytest.mark.parametrize("lost", [1, 2])
def test_each_try_of_a_proof_that_may_have_been_charged_stays_reserved(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    def script(prompt: str, turn: int) -> dict[str, Any]:
        if prompt == "1":
            return LONG
        return {"reset": True} if 0 < turn <= lost else FINE

    (tmp_path / "p.yaml").write_text("models: {m: {input: 1000, output: 2000, batch_share: 1}}\n")
    monkeypatch.setenv("BEZOAR_PRICES", str(tmp_path / "p.yaml"))
    monkeypatch.setattr(limits, "RETRIES", 2)
    peer.script = script
    answers = ask(tmp_path, numbers(2), concurrency=1)
    assert [answer.state for answer in answers] == ["answered", "provider_error"]
    ledger = Ledger(tmp_path / "budget.db", None)
    paid, bound = (3 * 1000 + 2 * 2000) / 1e6, (33 * 1000 + 9 * 2000) / 1e6
    assert ledger.total() == pytest.approx((3 - lost) * paid + lost * bound)
    ledger.close()


def test_usage_that_is_unknown_is_charged_at_its_bound(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.yaml").write_text(
        "models: {m: {input: 1000.0, output: 2000.0, batch_share: 0.5}}\n"
    )
    monkeypatch.setenv("BEZOAR_PRICES", str(tmp_path / "p.yaml"))
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    for usage, tokens_in, tokens_out in (
        (None, 33, 9),
        ({"prompt_tokens": 5, "completion_tokens": None}, 5, 9),
        ({"prompt_tokens": 5, "completion_tokens": 2}, 5, 2),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 33, 9),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 13}, 5, 8),
    ):
        body = {"model": "m", "choices": [choice], "usage": usage}
        peer.script = lambda prompt, turn, body=body: error(200, body)  # type: ignore[misc]
        folder = tmp_path / str(usage)
        with LLMClient.of(SETTINGS, folder / "s.sqlite", 1, None, "online") as client:
            client.ask([[{"role": "user", "content": "a"}]], ["a"])
        assert client.usd == pytest.approx((tokens_in * 1000 + tokens_out * 2000) / 1e6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[{"error": {"code": 400, "message": "API key not valid."}}]', "API key not valid."),
        ('{"detail": [{"loc": ["body", "seed"], "msg": "Not permitted"}]}', "Not permitted"),
    ],
)
def test_an_error_in_a_list_is_shown_as_its_message(
    tmp_path: Path, peer: Peer, body: str, message: str
) -> None:
    peer.script = lambda prompt, turn: error(400, body)
    with pytest.raises(UserError, match=f"model m: 400 {re.escape(message)}; no request"):
        ask(tmp_path, ["a"])
