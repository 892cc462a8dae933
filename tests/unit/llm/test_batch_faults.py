"""Promises of batches: whatever comes back, each request ends in one state, what was paid for is
kept, and no store ever has to be deleted.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_peer import CLAUDE, OPENAI, BatchPeer, bad, good, good_message, lines

import cancel_batches
from bezoar.errors import UserError
from bezoar.llm import batch_run, limits
from bezoar.llm.answer_store import Store
from bezoar.llm.budget import Ledger
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer

BOTH = pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["openai", "anthropic"])
LIMIT = "Enqueued token limit reached. Limit: 90,000 enqueued tokens."


@pytest.fixture
def peer() -> Iterator[BatchPeer]:
    running = BatchPeer()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _environment(peer: BatchPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.use(tmp_path, monkeypatch)
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(batch_run, "POLL_S", 0.01)


def ask(
    folder: Path,
    count: int = 6,
    mode: str = "batch",
    settings: dict[str, Any] = OPENAI,
    store: str = "s.sqlite",
) -> list[Answer]:
    texts = [str(i) for i in range(count)]
    with LLMClient.of(settings, folder / store, 2, None, mode) as client:
        return client.ask([[{"role": "user", "content": text}] for text in texts], texts)


def states(answers: list[Answer]) -> list[str]:
    return [answer.state for answer in answers]


def use(peer: BatchPeer, settings: dict[str, Any], texts: dict[int, str] | None = None) -> None:
    """Have every request answered, the i-th of a batch with `texts[i]`."""
    line = good_message if settings is CLAUDE else good
    peer.results = lambda keys, _: (
        lines(*(line(key, (texts or {}).get(i, "fine")) for i, key in enumerate(keys))),
        None,
    )


def at_rest(folder: Path) -> tuple[int, float]:
    """How many batches are open, and what is spent or reserved, in USD."""
    store, ledger = Store(folder / "s.sqlite"), Ledger(folder / "budget.db", None)
    found = len(store.open_batches()), ledger.total()
    store.close()
    ledger.close()
    return found


PRICE = (3 * 1 + 2 * 2) / 1e6 / 2  # of one answer
BOUND = ((1 + 2 * 16) * 1 + 9 * 2) / 1e6 / 2  # of one request


def leave_open(folder: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit a batch of six requests and end before it is collected."""
    with monkeypatch.context() as patch:
        patch.setattr(batch_run, "OUTAGE_TURNS", 2)
        peer.script = lambda what, turn: OUTAGES["503"] if what == "look" else None
        with pytest.raises(UserError, match="the next run collects what was submitted"):
            ask(folder)
        peer.script = lambda what, turn: None
    assert at_rest(folder) == (1, pytest.approx(6 * BOUND))


def test_an_open_batch_of_another_model_stays_open_at_its_own_price(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    leave_open(tmp_path, peer, monkeypatch)
    hundredfold = "{input: 100, output: 200, batch_share: 0.5}"
    ours = "{input: 1, output: 2, batch_share: 0.5}"
    (tmp_path / "prices.yaml").write_text(f"models:\n  m: {ours}\n  n: {hundredfold}\n")
    other = {**OPENAI, "model": "n", "reported_as": "m"}
    with LLMClient.of(other, tmp_path / "s.sqlite", 2, None, "batch") as client:
        for text in map(str, range(6)):
            assert states(client.ask([[{"role": "user", "content": text}]], [text])) == ["answered"]
    line = "batch b0 of openai chat m stays open: it is another model's"
    assert capsys.readouterr().out.count(line) == 1
    assert at_rest(tmp_path) == (1, pytest.approx(6 * BOUND + 600 * PRICE))
    assert states(ask(tmp_path)) == ["answered"] * 6 and len(peer.batches) == 7
    assert at_rest(tmp_path) == (0, pytest.approx(606 * PRICE))


def configure(results: Path, monkeypatch: pytest.MonkeyPatch, *models: dict[str, Any]) -> None:
    """Have `cancel_batches` find a configuration with these results and models."""
    config = {"pathvars": {"results": str(results)}}
    asked = [("judge", settings) for settings in models]
    monkeypatch.setattr(cancel_batches, "checked", lambda _: config)
    monkeypatch.setattr(cancel_batches, "models_asked", lambda _: asked)


def test_a_budget_that_another_jobs_open_batch_holds_is_not_called_spent(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_BUDGET_USD", f"{6.5 * BOUND:.8f}")
    leave_open(tmp_path, peer, monkeypatch)
    line = (
        r"0\.0002 spent or reserved, 0\.0002 of it reserved by other jobs\): 0 of 6 rows are done"
        " .*; run the same command again once those have ended, or raise it$"
    )
    with pytest.raises(UserError, match=line):
        ask(tmp_path, store="t.sqlite")
    assert states(ask(tmp_path)) == ["answered"] * 6
    assert states(ask(tmp_path, store="t.sqlite")) == ["answered"] * 6
    assert at_rest(tmp_path) == (0, pytest.approx(12 * PRICE))
    monkeypatch.setenv("BEZOAR_BUDGET_USD", f"{12.5 * PRICE:.8f}")
    with pytest.raises(UserError, match=r"spent or reserved\): .*; raise it and run again$"):
        ask(tmp_path, 7)


@BOTH
def test_a_batch_that_is_given_up_but_could_not_be_cancelled_is_named(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    peer.script = lambda what, turn: {"status": 401, "body": "{}"} if what == "look" else None
    with pytest.raises(UserError, match="PEER_KEY"):
        ask(tmp_path, settings=settings)
    (tmp_path / "store").mkdir()
    (tmp_path / "s.sqlite").rename(tmp_path / "store" / "s.sqlite")
    configure(tmp_path, monkeypatch, settings)
    peer.script = lambda what, turn: OUTAGES["503"] if what == "cancel" else None
    with pytest.raises(SystemExit) as ended:
        cancel_batches.main(["--give-up", "--config", "x"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and len(lines) == 1
    assert lines[0].startswith("s.sqlite: batch b0 could not be cancelled (503")
    assert lines[0].endswith("it may be running, and charged; cancel it in the provider's console")
    cancel_batches.main(["--config", "x"])
    assert capsys.readouterr().out == "no batch is open\n"


@BOTH
def test_separators_half_characters_and_controls_are_text(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any]
) -> None:
    texts = {
        0: "a\u2028b",
        1: "a\u0085b",
        2: "a\x0bb\x1c\x1eb",
        3: "cut \ud83d",
        4: "a\r\nb",
        5: "a\x00b",
    }
    use(peer, settings, texts)
    answers = ask(tmp_path, settings=settings)
    assert states(answers) == ["answered"] * 6
    whole = {text.replace("\ud83d", "\ufffd") for text in texts.values()}
    assert {answer.text for answer in answers} == whole
    assert states(ask(tmp_path, mode="replay", settings=settings)) == ["answered"] * 6


@BOTH
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
def test_order_blank_lines_strangers_repetitions_and_rubbish_do_no_harm(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], end: bytes
) -> None:
    line = good_message if settings is CLAUDE else good

    def results(keys: list[str], _: int) -> tuple[bytes, None]:
        rows = [line(key, f"text of {i}") for i, key in enumerate(keys)]
        rubbish = ["not JSON", "[]", "7", "{}", '{"custom_id": 7}', line("0" * 64)]
        twice = line(keys[0], "a second answer")
        return lines(*rubbish, *reversed(rows), twice).replace(b"\n", end), None

    peer.results = results
    answers = ask(tmp_path, settings=settings)
    assert states(answers) == ["answered"] * 6 and len(peer.batches) == 1
    assert "a second answer" not in [answer.text for answer in answers]
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


def test_of_an_error_and_a_success_for_one_request_the_success_counts(
    tmp_path: Path, peer: BatchPeer
) -> None:
    peer.results = lambda keys, _: (
        lines(*(bad(key, 500) for key in keys), *(good(key) for key in keys[:3])),
        lines(*(bad(key, 500) for key in keys[:3]), *(good(key) for key in keys[3:])),
    )
    assert states(ask(tmp_path)) == ["answered"] * 6 and len(peer.batches) == 1


@BOTH
def test_what_is_missing_from_the_results_is_handed_in_again(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any]
) -> None:
    line = good_message if settings is CLAUDE else good
    peer.results = lambda keys, number: (
        lines(*(line(key) for key in keys[:: 2 if number == 0 else 1])),
        None,
    )
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert [len(batch["keys"]) for batch in peer.batches] == [6, 3]
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_a_file_of_answers_that_comes_later_than_the_state_is_waited_for(
    tmp_path: Path, peer: BatchPeer, status: str
) -> None:
    late = {"status": status, "output_file_id": None}
    peer.record = lambda keys, _: late if peer.turns["look"] < looks else {}
    looks = 99
    with pytest.raises(UserError, match=r"6 answers, and no file of them yet.*run again later"):
        ask(tmp_path)
    looks = peer.turns["look"] + 4
    assert states(ask(tmp_path)) == ["answered"] * 6 and len(peer.batches) == 1
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_errors_alone_are_handed_in_again_and_given_up_in_the_end(
    tmp_path: Path, peer: BatchPeer, status: str
) -> None:
    peer.record = lambda keys, _: {"status": status}
    peer.results = lambda keys, number: (None, lines(*(bad(key, 500) for key in keys)))
    answers = ask(tmp_path)
    assert states(answers) == ["provider_error"] * 6 and len(peer.batches) == batch_run.TURNS
    assert at_rest(tmp_path) == (0, 0.0) and ask(tmp_path, mode="replay") == answers
    use(peer, OPENAI)
    assert states(ask(tmp_path)) == ["answered"] * 6


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (lambda key: bad(key, 400), "provider_error"),
        (lambda key: bad(key, 413), "provider_error"),
        (lambda key: bad(key, 400, code="content_filter"), "refused"),
        (
            lambda key: {**good(key), "response": None, "error": {"code": "batch_expired"}},
            "answered",
        ),
        (lambda key: {"custom_id": key, "response": "x"}, "answered"),
        (lambda key: {"custom_id": key}, "answered"),
        (lambda key: bad(key, 429), "answered"),
        (
            lambda key: {"custom_id": key, "response": {"status_code": "200", "body": "{}"}},
            "answered",
        ),
        (lambda key: good(key, ""), "unparsable"),
    ],
)
def test_each_request_ends_in_one_state(
    tmp_path: Path, peer: BatchPeer, line: Any, state: str
) -> None:
    """What may pass is handed in again, and then answered."""
    peer.results = lambda keys, number: (
        lines(*(good(key) for key in keys[1:]), *([] if number == 0 else [good(keys[0])])),
        lines(line(keys[0])) if number == 0 else None,
    )
    answers = ask(tmp_path)
    assert sorted(states(answers)) == sorted(["answered"] * 5 + [state])
    assert at_rest(tmp_path)[0] == 0
    assert ask(tmp_path, mode="replay") == answers


@pytest.mark.parametrize("kind", ["invalid_request_error", "errored"])
def test_a_batch_of_which_nothing_was_taken_refuses_the_settings(
    tmp_path: Path, peer: BatchPeer, kind: str
) -> None:
    peer.results = lambda keys, number: (None, lines(*(bad(key, 400) for key in keys)))
    with pytest.raises(UserError, match=r"no request with these settings was accepted"):
        ask(tmp_path)
    assert at_rest(tmp_path) == (0, 0.0)
    use(peer, OPENAI)
    assert states(ask(tmp_path)) == ["answered"] * 6


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_an_account_that_is_refused_within_a_batch_ends_the_stage_and_keeps_the_answers(
    tmp_path: Path, peer: BatchPeer, status: int
) -> None:
    peer.results = lambda keys, number: (
        lines(*(good(key) for key in keys[:4])),
        lines(*(bad(key, status) for key in keys[4:])),
    )
    with pytest.raises(UserError, match="PEER_"):
        ask(tmp_path)
    assert at_rest(tmp_path) == (0, pytest.approx(4 * PRICE))
    use(peer, OPENAI)
    assert states(ask(tmp_path)) == ["answered"] * 6
    assert [len(batch["keys"]) for batch in peer.batches] == [6, 2]


@pytest.mark.parametrize("kind", ["canceled", "expired", "errored", "something new"])
def test_anthropics_other_results_are_handed_in_again(
    tmp_path: Path, peer: BatchPeer, kind: str
) -> None:
    error = {"type": "error", "error": {"type": "api_error", "message": "x"}}
    peer.results = lambda keys, number: (
        lines(
            *(good_message(key) for key in keys[1:]),
            {"custom_id": keys[0], "result": {"type": kind, "error": error}}
            if number == 0
            else good_message(keys[0]),
        ),
        None,
    )
    assert states(ask(tmp_path, settings=CLAUDE)) == ["answered"] * 6
    assert len(peer.batches) == 2


@pytest.mark.parametrize("room", [1, 2, 5])
def test_a_batch_that_the_queue_has_no_room_for_is_handed_in_again_in_smaller_ones(
    tmp_path: Path, peer: BatchPeer, room: int
) -> None:
    error = {"code": "token_limit_exceeded", "message": LIMIT, "line": None}
    peer.record = lambda keys, _: (
        {"status": "failed", "errors": {"data": [error]}} if len(keys) > room else {}
    )
    assert states(ask(tmp_path)) == ["answered"] * 6
    taken = [len(batch["keys"]) for batch in peer.batches if len(batch["keys"]) <= room]
    assert sum(taken) == 6 and at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


def test_a_queue_without_any_room_is_one_line_and_the_next_run_begins_afresh(
    tmp_path: Path, peer: BatchPeer
) -> None:
    errors = {"data": [{"code": "token_limit_exceeded", "message": LIMIT, "line": None}]}
    peer.record = lambda keys, _: {"status": "failed", "errors": errors}
    with pytest.raises(
        UserError, match=r"Enqueued token limit.*run again later, or with MODE=online"
    ):
        ask(tmp_path)
    assert at_rest(tmp_path) == (0, 0.0)
    assert states(ask(tmp_path, mode="online")) == ["answered"] * 6
    peer.record = lambda keys, _: {}
    assert states(ask(tmp_path, 8)) == ["answered"] * 8


@pytest.mark.parametrize(
    "errors",
    [None, {}, {"data": None}, {"data": [{"code": "model_not_found"}]}, {"data": ["x"]}, "x"],
)
def test_a_batch_that_failed_for_another_reason_is_one_line_and_closed(
    tmp_path: Path, peer: BatchPeer, errors: object
) -> None:
    peer.record = lambda keys, _: {"status": "failed", "errors": errors}
    with pytest.raises(UserError, match=r"batch b0 was refused: .*the batch is closed"):
        ask(tmp_path)
    assert at_rest(tmp_path) == (0, 0.0) and len(peer.batches) == 1
    peer.record = lambda keys, _: {}
    assert states(ask(tmp_path)) == ["answered"] * 6


def test_lines_at_fault_are_left_out_and_the_rest_is_handed_in_again(
    tmp_path: Path, peer: BatchPeer
) -> None:
    errors = {"data": [{"code": "invalid", "message": "too long", "line": 3}]}
    peer.record = lambda keys, number: {"status": "failed", "errors": errors} if number == 0 else {}
    answers = ask(tmp_path)
    assert sorted(states(answers)) == ["answered"] * 5 + ["provider_error"]
    assert [len(batch["keys"]) for batch in peer.batches] == [6, 5]
    assert ask(tmp_path, mode="replay") == answers


OUTAGES: dict[str, dict[str, Any]] = {
    "503": {"status": 503, "body": "<html><title>503 Service Unavailable</title></html>"},
    "429": {"status": 429, "body": "{}"},
    "reset": {"reset": True},
    "lost reply": {"reset": True, "after": True},
    "cut": {"cut": True},
    "HTML": {"status": 200, "body": "<html>sign in</html>"},
    "empty": {"status": 200, "body": "{}"},
}


# An empty result is a result.
MOMENTS = [
    (what, outage)
    for what in ("upload", "create", "look", "download")
    for outage in OUTAGES
    if (what, outage) != ("download", "empty")
]


@pytest.mark.parametrize(
    ("settings", "what", "outage"),
    [(OPENAI, *moment) for moment in MOMENTS]
    + [(CLAUDE, *moment) for moment in MOMENTS if moment[0] != "upload"],
)
def test_an_outage_while_a_batch_is_under_way_is_waited_out(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], what: str, outage: str
) -> None:
    use(peer, settings)
    peer.script = lambda now, turn: OUTAGES[outage] if now == what and turn < 2 else None
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert len(peer.batches) == 1, "none is handed in twice"
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@pytest.mark.parametrize(
    ("what", "outage"),
    [
        (what, outage)
        for what, outage in MOMENTS
        if (what, outage) not in (("create", "lost reply"), ("create", "cut"))  # found by its mark
    ],
)
def test_an_outage_that_lasts_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch, what: str, outage: str
) -> None:
    monkeypatch.setattr(limits, "RETRIES", 2)
    monkeypatch.setattr(batch_run, "OUTAGE_TURNS", 2)
    peer.script = lambda now, turn: OUTAGES[outage] if now == what else None
    with pytest.raises(UserError) as raised:
        ask(tmp_path)
    assert "\n" not in str(raised.value)
    peer.script = lambda now, turn: None
    assert states(ask(tmp_path)) == ["answered"] * 6
    assert len(peer.batches) <= 1 or outage == "429"
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@BOTH
def test_a_batch_that_is_too_large_is_halved(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any]
) -> None:
    use(peer, settings)
    first = "create" if settings is CLAUDE else "upload"
    peer.script = lambda what, turn: (
        {"status": 413, "body": "too large"} if (what, turn) == (first, 0) else None
    )
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert [len(batch["keys"]) for batch in peer.batches] == [3, 3]
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@BOTH
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429])
def test_an_account_that_may_not_hand_in_is_one_line_and_nothing_stays_reserved(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], status: int
) -> None:
    use(peer, settings)
    body = json.dumps({"error": {"message": "no", "code": "insufficient_quota"}})
    peer.script = lambda what, turn: {"status": status, "body": body} if what == "create" else None
    with pytest.raises(UserError, match="PEER_KEY"):
        ask(tmp_path, settings=settings)
    assert peer.turns["create"] == 1 and at_rest(tmp_path) == (0, 0.0)
    peer.script = lambda what, turn: None
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6


@BOTH
@pytest.mark.parametrize("status", [403, 404, 429])
def test_a_batch_that_may_have_been_accepted_stays_open_where_it_cannot_be_looked_for(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    status: int,
) -> None:
    monkeypatch.setattr(limits, "RETRIES", 2)
    use(peer, settings)
    peer.script = lambda what, turn: (
        OUTAGES["lost reply"]
        if (what, turn) == ("create", 0)
        else {"status": status, "body": "{}"}
        if what == "list"
        else None
    )
    with pytest.raises(UserError, match="the next run collects"):
        ask(tmp_path, settings=settings)
    if settings is OPENAI:
        with (
            LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "batch") as client,
            pytest.raises(UserError, match=f"{status}"),
        ):
            client.model.cancel()  # type: ignore[attr-defined]
    assert at_rest(tmp_path)[0] == 1
    peer.script = lambda what, turn: None
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert len(peer.batches) == 1 and at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@BOTH
@pytest.mark.parametrize("status", [400, 402, 413])
def test_a_batch_whose_reply_was_lost_is_not_closed_by_a_later_refusal(
    tmp_path: Path, peer: BatchPeer, settings: dict[str, Any], status: int
) -> None:
    """A list of batches may lag behind."""
    late = {"status": 200, "body": '{"data": [], "has_more": false}'}
    no = {"status": status, "body": '{"error": {"message": "no"}}'}

    def script(what: str, turn: int) -> dict[str, Any] | None:
        if what == "create":
            return OUTAGES["lost reply"] if turn == 0 else no
        return late if (what, turn) == ("list", 0) else None

    use(peer, settings)
    peer.script = script
    if status != 413:  # after which the run itself looks once more
        with pytest.raises(UserError, match=f"{status} no"):
            ask(tmp_path, settings=settings)
        assert at_rest(tmp_path)[0] == 1
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert len(peer.batches) == 1 and at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@BOTH
def test_what_a_batch_gives_back_of_the_budget_is_there_for_the_rest(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    bound = ((1 + 2 * 16) * 1 + 9 * 2) / 1e6 / 2  # of one request, seven times what it takes
    use(peer, settings)
    monkeypatch.setenv("BEZOAR_BUDGET_USD", f"{3.01 * bound:.9f}")
    assert states(ask(tmp_path, settings=settings)) == ["answered"] * 6
    assert [len(batch["keys"]) for batch in peer.batches] == [3, 2, 1]
    monkeypatch.setenv("BEZOAR_BUDGET_USD", f"{1.5 * bound:.9f}")
    with pytest.raises(UserError, match=r"is used up .*: 6 of 7 rows are done"):
        ask(tmp_path, 7, settings=settings)
    assert len(peer.batches) == 3 and at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


def test_rows_without_room_in_the_budget_end_with_it_though_another_row_fails_again_and_again(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = ((1 + 2 * 16) * 1 + 9 * 2) / 1e6 / 2
    monkeypatch.setenv("BEZOAR_BUDGET_USD", f"{1.5 * bound:.9f}")
    peer.results = lambda keys, _: (None, lines(*(bad(key, 500) for key in keys)))
    texts = ["0", *(f"{i} " * 500 for i in range(3))]
    with (
        LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "batch") as client,
        pytest.raises(UserError, match="is used up"),
    ):
        client.ask([[{"role": "user", "content": text}] for text in texts], texts)
    assert [len(batch["keys"]) for batch in peer.batches] == [1] * batch_run.TURNS


def test_batches_of_several_providers_in_one_store_are_each_cancelled_with_its_own(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after a model of the configuration was replaced while its batch was under way."""
    other, store = {**OPENAI, "model": "n"}, tmp_path / "store"
    store.mkdir()
    monkeypatch.setattr(batch_run, "OUTAGE_TURNS", 1)
    for settings in (OPENAI, CLAUDE):
        peer.script = lambda what, turn: OUTAGES["503"] if what == "look" else None
        with pytest.raises(UserError, match="the next run collects"):
            ask(store, settings=settings)
    peer.script = lambda what, turn: None

    def cancelled(*models: dict[str, Any]) -> str:
        configure(tmp_path, monkeypatch, *models)
        cancel_batches.main(["--config", "x"])
        return capsys.readouterr().out

    with pytest.raises(UserError, match="has a batch of anthropic messages m, which the config"):
        cancelled(OPENAI, other)
    assert "s.sqlite: batch b0 cancelled\n" in capsys.readouterr().out
    for settings, left in ((other, 2), (OPENAI, 1)):
        with LLMClient.of(settings, store / "s.sqlite", 2, None, "batch") as client:
            client.model.cancel(give_up=True)  # type: ignore[attr-defined]
        assert at_rest(store)[0] == left
    assert "s.sqlite: batch b1 cancelled" in cancelled(OPENAI, other, CLAUDE)


@pytest.mark.parametrize("status", [404, 410])
def test_a_batch_that_the_provider_does_not_know_is_given_up_only_where_that_is_said(
    tmp_path: Path, peer: BatchPeer, status: int
) -> None:
    """It may be another project's key, or another address."""
    gone = {"status": status, "body": '{"error": {"message": "No batch found"}}'}
    line = r"batch b0: .*use the ones it was submitted with, or give it up with .* GIVE_UP=1`$"
    peer.script = lambda what, turn: gone if what == "look" else None
    with pytest.raises(UserError, match=line):
        ask(tmp_path)
    assert at_rest(tmp_path)[0] == 1
    peer.script = lambda what, turn: gone if what == "cancel" else None
    with LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "batch") as client:
        with pytest.raises(UserError, match=line):
            client.model.cancel()  # type: ignore[attr-defined]
        assert len(client.model.store.open_batches()) == 1  # type: ignore[attr-defined]
        cancelled, unsure = client.model.cancel(give_up=True)  # type: ignore[attr-defined]
    assert cancelled == [] and "it may be running, and charged" in unsure[0]
    assert at_rest(tmp_path) == (0, pytest.approx(6 * BOUND))
    assert states(ask(tmp_path)) == ["answered"] * 6 and len(peer.batches) == 2


@pytest.mark.parametrize("more", [[], ["--give-up"]])
def test_a_batch_that_has_ended_is_not_cancelled_and_that_is_said(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    monkeypatch.setattr(batch_run, "OUTAGE_TURNS", 1)
    peer.script = lambda what, turn: OUTAGES["503"] if what == "look" else None
    with pytest.raises(UserError, match="the next run collects"):
        ask(tmp_path / "store")
    over = {"status": 409, "body": '{"error": {"message": "Batch is already completed"}}'}
    peer.script = lambda what, turn: over if what == "cancel" else None
    configure(tmp_path, monkeypatch, OPENAI)
    cancel_batches.main([*more, "--config", "x"])
    to_do = "" if more else "; the next run collects its answers"
    assert capsys.readouterr().out.endswith(f"s.sqlite: batch b0 had ended already{to_do}\n")
    assert states(ask(tmp_path / "store")) == ["answered"] * 6
    assert len(peer.batches) == (2 if more else 1)


def test_a_batch_that_was_never_accepted_gives_its_budget_back_when_it_is_given_up(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(limits, "RETRIES", 1)
        peer.script = lambda what, turn: OUTAGES["503"] if what == "create" else None
        with pytest.raises(UserError, match="503"):
            ask(tmp_path)
    assert at_rest(tmp_path) == (1, pytest.approx(6 * BOUND))
    with LLMClient.of(OPENAI, tmp_path / "s.sqlite", 2, None, "batch") as client:
        assert client.model.cancel(give_up=True) == ([], [])  # type: ignore[attr-defined]
    assert at_rest(tmp_path) == (0, 0.0)


def test_an_open_batch_is_collected_in_any_mode_and_whatever_the_setting(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "OUTAGE_TURNS", 1)
    peer.script = lambda what, turn: OUTAGES["503"] if what == "look" else None
    with pytest.raises(UserError, match="the next run collects"):
        ask(tmp_path)
    peer.script = lambda what, turn: None
    off = {**OPENAI, "use_batch_api": False}
    assert states(ask(tmp_path, 7, "online", off)) == ["answered"] * 7
    assert (len(peer.batches), peer.turns["ask"]) == (1, 1)


def test_somebody_elses_batch_of_the_same_size_is_passed_over(
    tmp_path: Path, peer: BatchPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill before its id was written down, Anthropic's batch is known by its size only."""
    use(peer, CLAUDE)
    monkeypatch.setattr(Store, "batch_named", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(BaseException):  # noqa: B017
        ask(tmp_path, settings=CLAUDE)
    monkeypatch.undo()
    _environment.__wrapped__(peer, tmp_path, monkeypatch)  # type: ignore[attr-defined]
    peer.batches.append({"id": "b1", "keys": ["f" * 64] * 6, "metadata": None})
    assert states(ask(tmp_path, settings=CLAUDE)) == ["answered"] * 6
    assert len(peer.batches) == 2 and at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))


@BOTH
def test_a_batch_whose_id_was_not_written_down_is_not_overlooked_by_cancelling(
    tmp_path: Path,
    peer: BatchPeer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    """OpenAI's is found by its mark; of Anthropic's somebody has to be told."""
    with monkeypatch.context() as patch:
        patch.setattr(Store, "batch_named", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(BaseException):  # noqa: B017
            ask(tmp_path, settings=settings)
    (tmp_path / "store").mkdir()
    (tmp_path / "s.sqlite").rename(tmp_path / "store" / "s.sqlite")
    configure(tmp_path, monkeypatch, settings)
    if settings is OPENAI:
        cancel_batches.main(["--config", "x"])
        assert "s.sqlite: batch b0 cancelled\n" in capsys.readouterr().out
        assert peer.turns["cancel"] == 1
        return
    for more in ([], ["--give-up"]):
        with pytest.raises(SystemExit) as ended:
            cancel_batches.main([*more, "--config", "x"])
        lines = capsys.readouterr().out.splitlines()
        assert ended.value.code == 1 and len(lines) == 1 and peer.turns["cancel"] == 0
        assert lines[0].startswith("s.sqlite: a batch of 6 requests to m, submitted at 20")
    cancel_batches.main(["--config", "x"])
    assert capsys.readouterr().out == "no batch is open\n"


@pytest.mark.parametrize("empty", [False, True])
def test_after_a_lost_reply_another_jobs_batch_of_the_same_size_is_not_taken_for_ours(
    tmp_path: Path, peer: BatchPeer, empty: bool
) -> None:
    """Each model's judging asks the same number of questions."""
    stranger = {"id": "b1", "keys": ["f" * 64] * 6, "metadata": None}

    def script(what: str, turn: int) -> dict[str, Any] | None:
        if what == "list" and stranger not in peer.batches:
            peer.batches.append(stranger)  # younger than ours
        return OUTAGES["lost reply"] if (what, turn) == ("create", 0) else None

    use(peer, CLAUDE)
    of_all, peer.script = peer.results, script
    peer.results = lambda keys, number: (b"", None) if (empty and number) else of_all(keys, number)
    assert states(ask(tmp_path, settings=CLAUDE)) == ["answered"] * 6
    assert [batch["id"] for batch in peer.batches] == ["b0", "b1"], "ours is handed in once"
    assert at_rest(tmp_path) == (0, pytest.approx(6 * PRICE))
    store = Store(tmp_path / "s.sqlite")
    assert store.batch_names() == {"b0"}
    store.close()


def test_an_answer_without_usage_is_charged_at_its_bound_for_batches(
    tmp_path: Path, peer: BatchPeer
) -> None:
    def without_usage(key: str) -> dict[str, Any]:
        line = good(key)
        del line["response"]["body"]["usage"]
        return line

    peer.results = lambda keys, _: (lines(*map(without_usage, keys)), None)
    ask(tmp_path, 1)
    assert at_rest(tmp_path) == (0, pytest.approx(((1 + 2 * 16) * 1 + 9 * 2) / 1e6 / 2))
