"""JSON of a provider, of a store or of a price list that is legal and makes no sense: each request
ends in one state or the stage in one line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_peer import CLAUDE, OPENAI, BatchPeer, good, lines
from peer import SETTINGS, Peer

from bezoar.errors import UserError
from bezoar.llm import batch_run, limits
from bezoar.llm.answer_store import Store, key_of
from bezoar.llm.budget import Ledger, price_of
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import ModelSpec, request_of

DEEP = '{"error": ' * 950 + "1" + "}" * 950


@pytest.fixture
def peer() -> Iterator[BatchPeer]:
    running = BatchPeer()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.use(tmp_path, monkeypatch)
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(batch_run, "POLL_S", 0.001)


def ask(
    folder: Path, mode: str = "batch", settings: dict[str, Any] = OPENAI, count: int = 3
) -> list[Answer]:
    texts = [str(i) for i in range(count)]
    with LLMClient.of(settings, folder / "s.sqlite", 2, None, mode) as client:
        return client.ask([[{"role": "user", "content": text}] for text in texts], texts)


def states(answers: list[Answer]) -> list[str]:
    return [answer.state for answer in answers]


# --- responses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_of_a_thousand_levels_is_a_fault_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    online = Peer()
    monkeypatch.setenv("PEER_URL", f"{online.url}/v1")
    online.script = lambda prompt, turn: (
        {"status": status, "body": DEEP} if prompt == "1" else {"text": "fine"}
    )
    found = states(ask(tmp_path, "online"))
    online.stop()
    assert found == ["answered", "provider_error", "answered"]


def test_a_log_probability_that_is_not_a_number_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = Peer()
    monkeypatch.setenv("PEER_URL", f"{online.url}/v1")
    whole = Peer.response("/v1/chat/completions", "m", {"text": "fine"})
    body = json.dumps(whole | {"logprobs": [float("nan"), float("-inf")], "created": None})
    online.script = lambda prompt, turn: {"body": body}
    found = ask(tmp_path, "online")
    online.stop()
    assert states(found) == ["answered"] * 3 and "NaN" in body


@pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["openai", "anthropic"])
@pytest.mark.parametrize("charset", ["rot13", "idna", "base64", "no-such-set", '"'])
def test_an_error_in_a_character_set_that_is_none_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], charset: str
) -> None:
    """The SDK reads the body of an error in the set that the header names."""
    online = Peer()
    monkeypatch.setenv("PEER_URL", f"{online.url}/v1")
    monkeypatch.setenv("PEER_ROOT", online.url)
    headers = {"content-type": f"application/json; charset={charset}"}
    online.script = lambda prompt, turn: (
        {"status": 500, "body": "{}", "headers": headers} if prompt == "1" else {"text": "fine"}
    )
    found = states(ask(tmp_path, "online", settings))
    online.stop()
    assert found == ["answered", "provider_error", "answered"]


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400, "NaN", '"x"', "[]", "true"])
def test_a_number_that_is_none_in_results_and_records_is_no_traceback(
    tmp_path: Path, peer: BatchPeer, number: str
) -> None:
    def results(keys: list[str], batch: int) -> tuple[bytes, None]:
        text = lines(*(good(key) for key in keys)).decode()
        return text.replace('"status_code": 200', f'"status_code": {number}', 1).encode(), None

    work = peer.work

    def odd(what: str, path: str, content: bytes, headers: Any) -> bytes:
        body = work(what, path, content, headers)
        return body.replace(b'"total": 3', f'"total": {number}'.encode()) if turns(what) else body

    asked: dict[str, int] = {}

    def turns(what: str) -> bool:
        asked[what] = asked.get(what, 0) + 1
        return what == "look" and asked[what] < 3

    peer.results, peer.work = results, odd  # type: ignore[method-assign]
    found = states(ask(tmp_path))
    assert set(found) <= {"answered", "provider_error"} and found.count("answered") >= 2


@pytest.mark.parametrize(("settings", "name"), [(OPENAI, "status"), (CLAUDE, "processing_status")])
def test_a_state_that_nobody_knows_is_not_waited_for_without_an_end(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], name: str
) -> None:
    peer.record = lambda keys, _: {name: "paused"}
    with pytest.raises(UserError, match=f"a known {name}, found 'paused'.*next run") as error:
        ask(tmp_path, settings=settings)
    assert "\n" not in str(error.value)
    store = Store(tmp_path / "s.sqlite")
    assert len(store.open_batches()) == 1, "what was handed in is collected later"
    store.close()


def test_a_state_counts_in_any_letters(tmp_path: Path, peer: BatchPeer) -> None:
    peer.record = lambda keys, _: {"status": "COMPLETED"}
    assert states(ask(tmp_path)) == ["answered"] * 3


@pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["openai", "anthropic"])
@pytest.mark.parametrize("rows", [7, "abc", None, [[]], [{"id": []}], [{"id": "x"}]])
def test_a_list_of_batches_that_never_ends_or_is_none_is_left(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], rows: Any
) -> None:
    page = json.dumps({"data": rows, "has_more": True})
    peer.script = lambda what, turn: (
        {"reset": True}
        if (what, turn) == ("create", 0)
        else {"status": 200, "body": page}
        if what == "list"
        else None
    )
    try:
        found = states(ask(tmp_path, settings=settings))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert set(found) <= {"answered", "provider_error"}
    assert peer.turns["list"] < 50


@pytest.mark.parametrize("file", [7, {"a": 1}, "../b", "b 0", ["b0.output"]])
def test_a_file_whose_id_is_none_leaves_the_batch_for_the_next_run(
    tmp_path: Path, peer: BatchPeer, file: Any
) -> None:
    peer.record = lambda keys, _: {"output_file_id": file}
    with pytest.raises(UserError, match="expected a record with output_file_id"):
        ask(tmp_path)
    peer.record = lambda keys, _: {}
    assert states(ask(tmp_path)) == ["answered"] * 3 and len(peer.batches) == 1


def test_why_a_batch_failed_is_one_line_however_it_is_written(
    tmp_path: Path, peer: BatchPeer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"message": "no\nroom \ud83d" + "x" * 999, "line": True}]
    peer.record = lambda keys, _: {"status": "failed", "errors": {"data": rows}}
    with pytest.raises(UserError, match=r"no room \ufffdx+; change"):
        ask(tmp_path)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_page_in_place_of_results_is_waited_out_and_can_be_given_up(
    tmp_path: Path, peer: BatchPeer
) -> None:
    """Neither a page nor an error in JSON says that what was paid for is lost."""
    for page in (b"<html>busy</html>", b'{"error": {"message": "busy"}}'):
        peer.results = lambda keys, _, page=page: (page, None)
        with pytest.raises(UserError, match=r"in place of the batch's results.*GIVE_UP=1"):
            ask(tmp_path)
    assert len(peer.batches) == 1
    with LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "batch") as client:
        client.model.cancel(give_up=True)  # type: ignore[attr-defined]
    peer.results = lambda keys, _: (lines(*(good(key) for key in keys)), None)
    assert states(ask(tmp_path)) == ["answered"] * 3 and len(peer.batches) == 2


# --- stores, ledgers, prices -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"k": []}', '{"k": {"model": "m"}}', '{"a": 1, "a": 2}', "[" * 5000]
)
def test_a_batch_that_its_store_holds_damaged_is_one_line(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.batch_asked({})
    with store.connection:
        store.connection.execute("UPDATE batches SET requests = ?", (text,))
    with pytest.raises(UserError, match=r"s\.sqlite: batch 1: .*; restore the store") as error:
        store.open_batches()
    assert "\n" not in str(error.value)
    store.close()


def test_an_example_has_the_very_settings_and_1_is_not_true(tmp_path: Path) -> None:
    spec = ModelSpec.of({**SETTINGS, "extra": {"think": 1}})
    request = request_of(spec, [{"role": "user", "content": "x"}])
    store = Store(tmp_path / "s.sqlite")
    answer = {"state": "answered", "text": "x", "usage": {}, "model": "m"}
    row = (key_of(request), json.dumps(request), json.dumps(answer), "", "", 0.0, 0.0, None, "x")
    store.put_rows([row])
    like = {name: request[name] for name in request.keys() - {"messages", "attempt"}}
    assert store.example(like) == request
    assert store.example(like | {"extra": {"think": True}}) is None
    assert store.example(like | {"schema": {"type": "object"}}) is None
    assert store.example({name: like[name] for name in like.keys() - {"extra"}}) is None
    store.close()


def test_false_is_no_temperature() -> None:
    with pytest.raises(UserError, match="`temperature`: expected 0 or more, or null, found False"):
        ModelSpec.of({**SETTINGS, "temperature": False})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "models: [m]",
        "models: {m: 3}",
        "models: {m: {input: '1', output: 2, batch_share: 1}}",
        "models: {m: {input: true, output: 2, batch_share: 1}}",
        "models: {m: {input: -1, output: 2, batch_share: 1}}",
        "models: {m: {input: 1, output: 2}}",
    ],
)
def test_a_price_that_is_none_is_one_line_before_anything_is_sent(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=r"p\.yaml: .*expected"):
        price_of("m", tmp_path / "p.yaml")


def full(ledger: Ledger) -> None:
    """Let a ledger's disk be full."""
    pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
    ledger.connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_ledger_on_a_full_disk_is_one_line_and_ends_its_transaction(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "budget.db", 9.0)
    full(ledger)
    many = {f"{number:064}": 0.001 for number in range(500)}
    with pytest.raises(UserError, match=r"budget\.db: cannot be .*full.*; free space"):
        ledger.reserve("s", many)
    assert ledger.total() == 0 and not ledger.connection.in_transaction
    ledger.close()


def test_a_client_whose_ledger_fails_ends_in_one_line_and_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_BUDGET_USD", "9")
    with (
        LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "online") as client,
        pytest.raises(UserError, match=r"budget\.db: cannot be read or written \(no such table"),
    ):
        client.model.ledger.execute("DROP TABLE spent")  # type: ignore[attr-defined]
        client.ask([[{"role": "user", "content": "x"}]], ["x"])
