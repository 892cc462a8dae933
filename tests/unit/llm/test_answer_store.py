"""Promises of the store of answers: append-only, checked on reading, whole after a kill."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar.errors import UserError
from bezoar.llm import answer_store
from bezoar.llm.answer_store import Entry, Store, key_of

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "שלום\u2028"}], "attempt": 0}


def test_a_key_depends_on_content_not_on_the_order_of_fields() -> None:
    assert key_of(REQUEST) == key_of(dict(reversed(REQUEST.items())))
    assert (
        len(
            {
                key_of({**REQUEST, name: value})
                for name, value in [("model", "n"), ("attempt", 1), ("messages", [])]
            }
            | {key_of(REQUEST)}
        )
        == 4
    )


def test_an_answer_comes_back_as_it_was_put_and_the_first_one_stays(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "s.sqlite"), key_of(REQUEST)
    answer = {"state": "answered", "text": "a\tb\r\n\U0001f600", "usage": {"input": 1}}
    store.put([Entry(key, REQUEST, answer, '{"raw": 1}', 1.0, 0.1, 0.5)])
    store.put([Entry(key, REQUEST, {"state": "answered", "text": "later"})])
    store.close()
    again = Store(tmp_path / "s.sqlite")
    assert again.get(key) == answer
    assert again.get("0" * 64) is None
    again.close()


@pytest.mark.parametrize("statement", ["UPDATE answers SET answer = '{}'", "DELETE FROM answers"])
def test_nothing_stored_can_be_changed_or_removed(tmp_path: Path, statement: str) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put([Entry("k", REQUEST, {"text": "x"}, "raw")])
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.connection.execute(statement)
    store.connection.rollback()
    assert store.get("k") == {"text": "x"}
    store.close()


@pytest.mark.parametrize("change", ['answer = \'{"text":"y"}\'', "response = 'other'"])
def test_a_tampered_answer_is_refused_with_the_way_out(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put([Entry("k", REQUEST, {"text": "x"}, "raw")])
    store.connection.executescript(f"DROP TRIGGER no_update; UPDATE answers SET {change}")
    for read in (lambda: store.get("k"), lambda: list(store.rows())):
        with pytest.raises(UserError, match=r"s\.sqlite: answer k… does not match its hash; rest"):
            read()
    store.close()


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, but long enough to be taken for a header of one " * 20)
    with pytest.raises(UserError, match=r"s\.sqlite: cannot be used as a store"):
        Store(path)
    with pytest.raises(UserError, match="cannot be used as a store"):
        Store(tmp_path)


def test_what_only_reads_a_store_leaves_it_and_its_log_as_they_are(tmp_path: Path) -> None:
    """It may be on another machine than the job that writes, and has no part in its memory."""
    path = tmp_path / "live" / "s.sqlite"
    writer = Store(path)
    for number in range(9):
        writer.put([Entry(f"{number}", {}, {"text": "x"})])
        before = {found.name: found.read_bytes() for found in path.parent.iterdir()}
        assert before["s.sqlite-wal"]
        reader = Store(path, to_read=True)
        writer.put([Entry("later", {}, {"text": "y"})])
        writer.forget(["later"])
        during = {found.name: found.read_bytes() for found in path.parent.iterdir()}
        assert [row[0] for row in reader.rows()] == [f"{i}" for i in range(number + 1)]
        with pytest.raises(UserError, match="readonly"):
            reader.put([Entry("mine", {}, {"text": "x"})])
        reader.close()
        after = {found.name: found.read_bytes() for found in path.parent.iterdir()}
        assert before.keys() == after.keys() and during == after
    writer.close()
    quiet = path.read_bytes()
    reader = Store(path, to_read=True)
    assert len(list(reader.rows())) == 9
    reader.close()
    assert [found.name for found in path.parent.iterdir()] == ["s.sqlite"]
    assert path.read_bytes() == quiet


def test_a_log_that_begins_anew_while_it_is_copied_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copyfile, turns = tmp_path / "s.sqlite", shutil.copyfile, 0
    writer = Store(path)
    writer.put([Entry("1", {}, {"text": "x"})])

    def copy(source: Path, target: Path) -> None:
        nonlocal turns
        copyfile(source, target)
        turns += 1
        if turns == 1:  # the file is copied, its log is not
            writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            writer.put([Entry("2", {}, {"text": "x"})])

    monkeypatch.setattr(shutil, "copyfile", copy)
    reader = Store(path, to_read=True)
    assert ([row[0] for row in reader.rows()], turns) == (["1", "2"], 4)
    reader.close()
    monkeypatch.setattr(answer_store, "COPIES", 0)
    with pytest.raises(UserError, match=r"s\.sqlite: is written faster than it can be copied"):
        Store(path, to_read=True)
    writer.close()


@pytest.mark.parametrize("statement", ["", "PRAGMA journal_mode=WAL"])
def test_a_store_without_its_table_yet_is_read_as_empty(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "s.sqlite"
    path.touch()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.close()
    store = Store(path, to_read=True)
    assert list(store.rows()) == []
    store.close()


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    program = (
        "import os, signal, sys; from pathlib import Path; from bezoar.llm.answer_store import"
        f" Entry, Store\nstore = Store(Path({str(path)!r}))\nfor i in range(50):"
        " store.put([Entry(str(i), {}, {'text': str(i)})])\nos.kill(os.getpid(),"
        " signal.SIGKILL)"
    )
    scripts = str(Path(__file__).parents[3] / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": scripts}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    store = Store(path)
    assert [store.get(str(i)) for i in range(50)] == [{"text": str(i)} for i in range(50)]
    store.close()
