"""Promises that a store is never a dead end: what a new server, SDK or account could answer
differently is asked again, and one command forgets failures of a kind, or a whole store.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import SETTINGS, Peer

import exchange_answers
import forget_failures
from bezoar.errors import UserError
from bezoar.llm import limits
from bezoar.llm.answer_store import Entry, Store, key_of
from bezoar.llm.budget import Ledger
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.shards import gather
from bezoar.provenance import staleness
from bezoar.provenance.fingerprint import Hashes, recorded_command
from bezoar.provenance.receipt import Receipt
from bezoar.provenance.snakemake_patch import one_run

SHARD = ".shard-1-of-2.sqlite"
TEXTS = [str(i) for i in range(6)]
FINE = {"text": "fine"}
LONG = json.dumps({"error": {"message": "This model's maximum context length is 2048 tokens"}})
FILTERED = json.dumps({"error": {"code": "content_filter", "message": "no"}})
OTHER = {"model": "other", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "a prompt beyond this server's context": ("provider_error", {"status": 400, "body": LONG}),
    "an account's content filter": ("refused", {"status": 400, "body": FILTERED}),
    "a filter while answering": ("refused", {"text": "", "finish": "content_filter"}),
    "a refusal": ("refused", {"text": None, "refusal": "I cannot."}),
    "nothing in it": ("unparsable", {"text": ""}),
    "a call of a tool": ("unparsable", {"text": "x", "finish": "tool_calls"}),
    "reasoning without an end": ("truncated", {"text": "<think>Hm", "finish": "length"}),
    "another model": ("provider_error", {"body": json.dumps(OTHER)}),
}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    running = Peer()
    monkeypatch.setenv("PEER_URL", f"{running.url}/v1")
    monkeypatch.setenv("PEER_KEY", "canary-0123456789")
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.001)
    yield running
    running.stop()


def ask(
    folder: Path,
    mode: str = "online",
    store: str = "s.sqlite",
    texts: list[str] = TEXTS,
    **more: Any,
) -> list[Answer]:
    with LLMClient.of({**SETTINGS, **more}, folder / "store" / store, 2, None, mode) as client:
        return client.ask([[{"role": "user", "content": text}] for text in texts], texts)


def states(answers: list[Answer]) -> list[str]:
    return [answer.state for answer in answers]


@pytest.mark.parametrize(("state", "act"), FAILURES.values(), ids=FAILURES)
def test_what_failed_is_replayed_and_asked_again_by_the_next_run(
    tmp_path: Path, peer: Peer, state: str, act: dict[str, Any]
) -> None:
    peer.script = lambda prompt, turn: act if prompt == "3" else FINE
    failed = ["answered"] * 3 + [state] + ["answered"] * 2
    assert states(ask(tmp_path)) == failed
    before = len(peer.seen)
    assert states(ask(tmp_path, "replay")) == failed and len(peer.seen) == before
    assert states(ask(tmp_path)) == failed, "the same server fails again"
    peer.script = lambda prompt, turn: FINE
    before = len(peer.seen)
    assert states(ask(tmp_path)) == ["answered"] * 6
    assert [row["messages"][-1]["content"] for row in peer.seen[before:]] == ["3"]
    before = len(peer.seen)
    assert states(ask(tmp_path)) == states(ask(tmp_path, "replay")) == ["answered"] * 6
    assert len(peer.seen) == before, "an answer is asked for once"


def test_a_failure_is_asked_again_once_a_run(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: {"text": ""} if prompt == "3" else FINE
    ask(tmp_path)
    with LLMClient.of(SETTINGS, tmp_path / "store" / "s.sqlite", 2, None, "online") as client:
        for _ in range(3):
            client.ask([[{"role": "user", "content": "3"}]], ["3"])
    assert client.sent == 1


def test_an_answer_of_another_model_can_still_be_accepted_without_paying_again(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: FAILURES["another model"][1]
    ask(tmp_path)
    before = len(peer.seen)
    assert states(ask(tmp_path, reported_as="other")) == ["answered"] * 6
    assert len(peer.seen) == before


def test_an_outage_leaves_what_was_stored(tmp_path: Path, peer: Peer) -> None:
    peer.script = lambda prompt, turn: {"text": ""} if prompt == "3" else FINE
    first = ask(tmp_path)
    peer.script = lambda prompt, turn: {"status": 500}
    assert ask(tmp_path) == ask(tmp_path, "replay") == first


@pytest.mark.parametrize("act", [{"status": 503}, {"reset": True}])
def test_a_row_that_failed_at_every_try_is_replayed_and_asked_again_by_the_next_run(
    tmp_path: Path, peer: Peer, act: dict[str, Any]
) -> None:
    peer.script = lambda prompt, turn: act if prompt == "3" else FINE
    first = ask(tmp_path)
    assert states(first) == ["answered"] * 3 + ["provider_error"] + ["answered"] * 2
    before = len(peer.seen)
    assert ask(tmp_path, "replay") == first and len(peer.seen) == before
    peer.script = lambda prompt, turn: FINE
    assert states(ask(tmp_path)) == states(ask(tmp_path, "replay")) == ["answered"] * 6
    assert len(peer.seen) == before + 1


def test_what_a_failed_row_may_have_cost_stays_reserved(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices.yaml").write_text("models: {m: {input: 1, output: 2, batch_share: 0.5}}\n")
    monkeypatch.setenv("BEZOAR_PRICES", str(tmp_path / "prices.yaml"))
    monkeypatch.setattr(limits, "RETRIES", 2)
    peer.script = lambda prompt, turn: {"reset": True} if prompt == "3" else FINE
    bound = (33 * 1 + 9 * 2) / 1e6
    for _ in range(2):  # the second only replays, and settles what the first left
        ask(tmp_path, texts=["1", "3"] if not peer.seen else ["1"])
        ledger = Ledger(tmp_path / "store" / "budget.db", None)
        assert ledger.total() == pytest.approx((3 * 1 + 2 * 2) / 1e6 + 2 * bound)
        ledger.close()


def test_an_answer_takes_the_place_of_a_failure_in_a_job_and_its_shards(tmp_path: Path) -> None:
    failed = Entry("k", {"model": "m"}, {"state": "refused", "text": "", "model": ""})
    answer = Entry("k", {"model": "m"}, {"state": "answered", "text": "x", "model": "m"}, "{}")
    job, shard = tmp_path / "job.sqlite", tmp_path / "job.shard-1-of-2.sqlite"
    for path, entry in ((job, failed), (shard, answer)):
        store = Store(path)
        store.put([entry])
        store.close()
    for _ in range(2):
        gather(job)
        store = Store(job)
        assert store.get("k") == answer.answer
        store.put([failed])
        assert store.get("k") == answer.answer, "and not the other way round"
        store.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("answered", [0, 5])
def test_an_outage_does_not_go_through_all_rows(
    tmp_path: Path, peer: Peer, answered: int, status: int
) -> None:
    texts = [str(i) for i in range(100)]
    peer.script = lambda *_: FINE if len(peer.seen) <= answered else {"status": status}
    with pytest.raises(UserError, match=f"m: {status}.*run again later; answers are kept"):
        ask(tmp_path, texts=texts)
    assert len(peer.seen) < 20 * limits.RETRIES and stored(tmp_path, "s.sqlite") == answered
    before = len(peer.seen)
    peer.script = lambda *_: FINE
    assert states(ask(tmp_path, texts=texts)) == ["answered"] * 100
    assert len(peer.seen) - before == 100 - answered


def test_rows_that_make_a_server_fail_are_no_outage(tmp_path: Path, peer: Peer) -> None:
    texts = [str(i) for i in range(40)]
    peer.script = lambda prompt, turn: FINE if int(prompt) < 5 else {"status": 500}
    answers = ask(tmp_path, texts=texts)
    assert states(answers) == ["answered"] * 5 + ["provider_error"] * 35
    assert sum(peer.turns[text] for text in texts[:5]) == 7, "an accepted one is sent twice more"


def test_a_store_of_an_earlier_version_is_no_dead_end(tmp_path: Path, peer: Peer) -> None:
    """It had a trigger that kept failures for ever."""
    peer.script = lambda prompt, turn: {"text": ""} if prompt == "3" else FINE
    ask(tmp_path)
    with sqlite3.connect(tmp_path / "store" / "s.sqlite") as connection:
        connection.executescript(
            "DROP TRIGGER no_delete_of_answers; CREATE TRIGGER no_delete BEFORE DELETE ON answers"
            " BEGIN SELECT RAISE(ABORT, 'append-only'); END;"
        )
    connection.close()
    peer.script = lambda prompt, turn: FINE
    assert states(ask(tmp_path)) == ["answered"] * 6


@pytest.fixture
def failures(tmp_path: Path, peer: Peer) -> str:
    """The configuration of a run with one stored failure of each kind."""
    kinds = dict(enumerate(act for _, act in FAILURES.values()))
    peer.script = lambda prompt, turn: kinds.get(int(prompt), FINE)
    texts = [str(i) for i in range(len(kinds) + 1)]
    for name in ("a.sqlite", "b.sqlite"):
        with LLMClient.of(SETTINGS, tmp_path / "store" / name, 1, None, "online") as client:
            client.ask([[{"role": "user", "content": text}] for text in texts[::-1]], texts)
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"pathvars": {"results": str(tmp_path)}}))
    return str(path)


def copy_to_a_shard(folder: Path) -> None:
    """Give a shard's store the answers of the job's own."""
    store, part = (Store(folder / "store" / f"a{name}") for name in (".sqlite", SHARD))
    part.put_rows(list(store.rows()))
    for each in (store, part):
        each.close()


def stored(folder: Path, name: str = "a.sqlite") -> int:
    store = Store(folder / "store" / name)
    count = len(list(store.rows()))
    store.close()
    return count


@pytest.mark.parametrize(
    ("kind", "count"),
    {
        "refused": 3,
        "unparsable": 2,
        "truncated": 1,
        "provider_error": 1,
        "other_model": 1,
        "all": 8,
    }.items(),
)
def test_one_command_forgets_failures_of_a_kind(
    tmp_path: Path, failures: str, capsys: pytest.CaptureFixture[str], kind: str, count: int
) -> None:
    before = stored(tmp_path)
    forget_failures.main(["--config", failures, "--kind", kind, "--dry-run"])
    assert f"{2 * count} failures would be forgotten" in capsys.readouterr().out
    assert stored(tmp_path) == before
    forget_failures.main(["--config", failures, "--kind", kind])
    assert f"{2 * count} failures forgotten" in capsys.readouterr().out
    assert stored(tmp_path) == before - count
    forget_failures.main(["--config", failures, "--kind", kind])
    assert "no failure of these kinds is stored" in capsys.readouterr().out


def test_nothing_is_forgotten_or_taken_in_while_a_run_is_at_work(
    tmp_path: Path, failures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run holds its answers in memory, and its receipt would name a store without them."""
    before, file = stored(tmp_path), str(tmp_path / "x.xz")
    exchange_answers.main(["export", "--config", failures, "--file", file])
    with one_run():
        for command in (
            lambda: forget_failures.main(["--config", failures, "--kind", "all"]),
            lambda: exchange_answers.main(["import", "--config", failures, "--file", file]),
        ):
            with pytest.raises(SystemExit) as ended:
                command()
            line = capsys.readouterr().err
            assert ended.value.code == 2
            assert line.startswith("error: another run is at work in this directory (process ")
        forget_failures.main(["--config", failures, "--kind", "all", "--dry-run"])
    assert stored(tmp_path) == before


def test_a_failure_that_a_shards_store_holds_too_is_counted_once(
    tmp_path: Path, failures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_to_a_shard(tmp_path)
    forget_failures.main(["--config", failures, "--kind", "truncated"])
    assert capsys.readouterr().out.splitlines() == [
        "a.sqlite: 1 truncated",
        "b.sqlite: 1 truncated",
        "2 failures forgotten; the next run asks again",
    ]
    assert stored(tmp_path, f"a{SHARD}") == stored(tmp_path) == stored(tmp_path, "b.sqlite")


@pytest.mark.parametrize("named", [False, True])
def test_what_is_forgotten_makes_exactly_its_stages_stale(
    tmp_path: Path, failures: str, named: bool
) -> None:
    hashes, stages = Hashes(), {"filter": ("a", "{}"), "other": ("c", "[]")}
    Store(tmp_path / "store" / "c.sqlite").close()  # without a failure
    for stage, (name, text) in stages.items():
        output = tmp_path / f"{stage}.json"
        output.write_text(text)
        with Receipt(
            tmp_path / "receipts" / output.name,
            stage=stage,
            recipe={},
            code="0",
            inputs={},
            outputs={"rows": output, "store": tmp_path / "store" / f"{name}.sqlite"},
        ):
            pass

    def stale(stage: str) -> list[str]:
        return staleness.reasons(
            tmp_path / "receipts" / f"{stage}.json",
            inputs=[],
            outputs=[str(tmp_path / f"{stage}.json")],
            recipe="{}",
            code="0",
            command=recorded_command(),
            hashes=hashes,
        )

    store = os.path.relpath(tmp_path / "store/a.sqlite")
    which = ["--store", store] if named else ["--kind", "all"]
    forget_failures.main(["--config", failures, *which, "--dry-run"])
    assert (stale("filter"), stale("other")) == ([], [])
    forget_failures.main(["--config", failures, *which])
    assert (stale("filter"), stale("other")) == ([staleness.NEVER], [])


def test_an_answer_is_never_forgotten(tmp_path: Path, failures: str) -> None:
    forget_failures.main(["--config", failures, "--kind", "all"])
    store = Store(tmp_path / "store" / "a.sqlite")
    assert [json.loads(row[2])["text"] for row in store.rows()] == ["fine"]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.connection.execute("DELETE FROM answers")
    store.connection.rollback()
    store.close()


def test_a_named_store_is_emptied_of_texts_too_with_its_shards(
    tmp_path: Path, failures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_to_a_shard(tmp_path)
    command = ["--config", failures, "--store", str(tmp_path / "store" / "a.sqlite")]
    forget_failures.main([*command, "--dry-run"])
    assert "9 answers would be forgotten" in capsys.readouterr().out and stored(tmp_path) == 9
    forget_failures.main(command)
    printed = capsys.readouterr().out.splitlines()
    assert "a.sqlite: 2 answered" in printed, "that of another model is one"
    assert printed[-1] == "9 answers forgotten; the next run asks again"
    assert stored(tmp_path, f"a{SHARD}") == stored(tmp_path) == 0 < stored(tmp_path, "b.sqlite")
    forget_failures.main(command)
    assert capsys.readouterr().out == f"{command[-1]}: no answer is stored\n"


def test_a_store_that_is_not_there_is_one_line_that_names_those_that_are(
    tmp_path: Path, failures: str
) -> None:
    with pytest.raises(UserError, match=r"no such store; name one of a\.sqlite, b\.sqlite$"):
        forget_failures.main(["--config", failures, "--store", f"{tmp_path}/store/c.sqlite"])


def test_a_kind_and_a_store_are_not_mixed(failures: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        store = f"{tmp_path}/store/a.sqlite"
        forget_failures.main(["--config", failures, "--kind", "refused", "--store", store])
    assert stored(tmp_path) == 9


def test_what_is_in_an_open_batch_is_not_forgotten(tmp_path: Path, failures: str) -> None:
    store = Store(tmp_path / "store" / "a.sqlite")
    store.batch_asked({key_of({"model": "m"}): {"model": "m"}})
    store.close()
    with pytest.raises(UserError, match=r"a\.sqlite: has an open batch"):
        forget_failures.main(["--config", failures, "--kind", "all"])
