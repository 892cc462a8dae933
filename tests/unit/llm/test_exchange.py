"""Promises of an export: one deterministic file, checked line by line, from which a run without
keys is replayed.
"""

import asyncio
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pytest
from simulated import SETTINGS, names, questions, simulated

import cancel_batches
import exchange_answers
import publish_trial
from bezoar.errors import UserError
from bezoar.llm.answer_store import Entry, Store, digest, key_of
from bezoar.llm.batches import batch_api
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import request_of
from bezoar.provenance import audit
from bezoar.provenance.receipt import Receipt


def config(folder: Path, results: str) -> str:
    path = folder / f"{results}.yaml"
    path.write_text(
        json.dumps({"pathvars": {"results": str(folder / results)}, "filter": {"rater": SETTINGS}})
    )
    return str(path)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """Answers in two stores below mine/."""
    with simulated(tmp_path) as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        answers = []
        for store, count in (("a", 20), ("b", 30)):
            with LLMClient.of(
                SETTINGS, tmp_path / "mine" / "store" / f"{store}.sqlite", 4, None
            ) as client:
                answers = client.ask(questions(count), names(count))
    monkeypatch.delenv("PEER_KEY")
    return answers


def test_an_export_is_deterministic_and_its_import_replays_without_a_key(
    tmp_path: Path, asked: list[Answer]
) -> None:
    for name in ("one.xz", "two.xz"):
        exchange_answers.main(
            ["export", "--config", config(tmp_path, "mine"), "--file", str(tmp_path / name)]
        )
    assert (tmp_path / "one.xz").read_bytes() == (tmp_path / "two.xz").read_bytes()
    exchange_answers.main(
        ["import", "--config", config(tmp_path, "yours"), "--file", str(tmp_path / "one.xz")]
    )
    with LLMClient.of(
        SETTINGS, tmp_path / "yours" / "store" / "b.sqlite", 4, None, "replay"
    ) as client:
        assert client.ask(questions(30), names(30)) == asked
        with pytest.raises(UserError, match="no stored answer for row 30"):
            client.ask(questions(31), names(31))
    assert not (tmp_path / "yours" / "store" / "budget.db").exists(), (
        "what somebody else paid is not counted"
    )
    exchange_answers.main(
        ["export", "--config", config(tmp_path, "yours"), "--file", str(tmp_path / "back.xz")]
    )
    assert (tmp_path / "back.xz").read_bytes() == (tmp_path / "one.xz").read_bytes()


FINE = {"state": "answered", "text": "x", "usage": {}, "model": "m"}


def answered(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A line of an export with another answer, whose hash is right."""
    text = json.dumps(answer)
    return row | {"answer": text, "sha256": digest(text, row["response"])}


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda rows: [
                rows[0],
                rows[1] | {"answer": rows[1]["answer"].replace("answered", "refused")},
            ],
            2,
        ),
        (lambda rows: [rows[0] | {"request": rows[0]["request"].replace('"m"', '"n"')}], 1),
        (lambda rows: [*rows[:3], {"store": "a.sqlite"}], 4),
        (lambda rows: [rows[0] | {"store": "../../a.sqlite"}], 1),
        (lambda rows: [answered(rows[0], {"text": "x"})], 1),
        (lambda rows: [rows[0], answered(rows[1], {**FINE, "state": "fine"})], 2),
        (lambda rows: [answered(rows[0], {**FINE, "usage": {"input": "3"}})], 1),
        (lambda rows: [answered(rows[0], {**FINE, "more": 1})], 1),
        (lambda rows: [rows[0] | {"usd": "free"}], 1),
    ],
    ids="answer request columns path unread state usage more price".split(),
)
def test_a_damaged_line_is_named_and_nothing_is_imported(
    tmp_path: Path, asked: list[Answer], damage: object, line: int
) -> None:
    file = tmp_path / "x.xz"
    exchange_answers.export(tmp_path / "mine" / "store", file)
    rows = [row for _, row in exchange_answers.lines(file)]
    with lzma.open(file, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in damage(rows))  # type: ignore[operator]
    with pytest.raises(UserError, match=rf"x\.xz:{line}: "):
        exchange_answers.take_in(tmp_path / "yours", file)
    assert not (tmp_path / "yours").exists()


def test_an_import_never_replaces_an_answer(tmp_path: Path, asked: list[Answer]) -> None:
    file = tmp_path / "x.xz"
    exchange_answers.export(tmp_path / "mine" / "store", file)
    path = tmp_path / "mine" / "store" / "b.sqlite"
    store = Store(path)
    key, request, answer, *_ = next(store.rows())
    store.close()
    path.unlink()
    store = Store(path)
    store.put([Entry(key, json.loads(request), json.loads(answer) | {"text": "other"})])
    store.close()
    (tmp_path / "mine" / "store" / "a.sqlite").unlink()
    with pytest.raises(UserError, match=r"b\.sqlite: already has another answer"):
        exchange_answers.take_in(tmp_path / "mine" / "store", file)
    assert not (tmp_path / "mine" / "store" / "a.sqlite").exists(), "no store is written before"


def test_an_import_takes_away_the_receipts_of_the_stores_that_grow(
    tmp_path: Path, asked: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the store's hash, which an audit compares, though no longer store makes a stage
    stale.
    """
    results, file = tmp_path / "mine", tmp_path / "x.xz"
    monkeypatch.setattr(sys, "argv", ["filter_rows.py"])
    for name in ("a", "b"):
        store = results / "store" / f"{name}.sqlite"
        receipt = results / "receipts" / f"{name}.json"
        with Receipt(receipt, stage=name, recipe={}, code="", inputs={}, outputs={"store": store}):
            pass
    exchange_answers.export(results / "store", file)
    receipts = sorted((results / "receipts").iterdir())
    assert exchange_answers.take_in(results / "store", file) == (50, 0)
    assert sorted((results / "receipts").iterdir()) == receipts
    assert audit.hashes(audit.finished(results)) == []
    rows = [row for _, row in exchange_answers.lines(file)]
    held = {row["key"] for row in rows if row["store"] == "a.sqlite"}
    with lzma.open(file, "wt") as stream:
        for row in rows:
            if row["key"] not in held:
                stream.write(json.dumps(row | {"store": "a.sqlite"}) + "\n")
    assert exchange_answers.take_in(results / "store", file) == (10, 10)
    assert sorted((results / "receipts").iterdir()) == [results / "receipts" / "b.json"]
    assert audit.hashes(audit.finished(results)) == []


def test_a_file_that_is_no_export_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.xz").write_text("hello")
    with pytest.raises(UserError, match=r"x\.xz:1: expected one JSON object a line"):
        exchange_answers.take_in(tmp_path, tmp_path / "x.xz")
    with pytest.raises(UserError, match="no such file"):
        exchange_answers.take_in(tmp_path, tmp_path / "y.xz")


def test_open_batches_are_cancelled_by_one_command(
    tmp_path: Path,
    asked: list[Answer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with simulated(tmp_path, batch_s="60") as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        with LLMClient.of(
            SETTINGS, tmp_path / "mine" / "store" / "c.sqlite", 4, None, "batch"
        ) as client:
            request, connection = request_of(SETTINGS, questions(1)[0]), client.model.connection
            number, _ = client.model.store.batch_asked({key_of(request): request})

            async def submit() -> str:
                async with connection.client() as sdk_client:
                    api = batch_api("chat", connection.transport(sdk_client))
                    return await api.submit({key_of(request): request}, "mark")

            client.model.store.batch_named(number, asyncio.run(submit()))
        cancel_batches.main(["--config", config(tmp_path, "mine")])
        assert "c.sqlite: batch batch_0 cancelled" in capsys.readouterr().out
        with LLMClient.of(SETTINGS, tmp_path / "mine" / "store" / "c.sqlite", 4, None) as client:
            assert client.ask(questions(1), names(1))[0].state == "answered"


def test_what_a_trial_does_not_publish_is_never_beside_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, results = tmp_path / "published", tmp_path / "mine"
    for path in ("generate/lamini.jsonl", *(f"filter/{s}.jsonl" for s in ("lamini", "orca"))):
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).touch()
    lines = [json.dumps({"request": text}) + "\n" for text in ("a", publish_trial.JUDGED, "b")]

    def export(command: list[str], check: bool) -> None:
        assert not Path(command[-1]).is_relative_to(place)
        with lzma.open(command[-1], "wt", encoding="utf-8") as stream:
            stream.writelines(lines)

    monkeypatch.setattr(publish_trial, "PLACE", place)
    monkeypatch.setattr(publish_trial.subprocess, "run", export)
    arguments = ["--config", config(tmp_path, "mine")]
    with pytest.raises(UserError, match="no rated rows of evol; run `make trial`"):
        publish_trial.main(arguments)
    (results / "filter/evol.jsonl").touch()
    publish_trial.main(arguments)
    before = {path: path.read_bytes() for path in place.iterdir()}
    with lzma.open(place / "answers.jsonl.xz", "rt", encoding="utf-8") as stream:
        assert stream.readlines() == [lines[0], lines[2]]
    lines.append("damaged")
    with pytest.raises(json.JSONDecodeError):
        publish_trial.main(arguments)
    assert {path: path.read_bytes() for path in place.iterdir()} == before
