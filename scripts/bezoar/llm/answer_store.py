"""An append-only SQLite file of requests to language models and their answers, looked up by
content.

What an auditor needs: `<results>/store/*.sqlite`, one file per job, each readable with the
`sqlite3` of any system.
    answers.key           sha256 of `request`
    answers.request       canonical JSON of `bezoar.llm.settings.request_of`: model, revision,
      messages, decoding, attempt; no address, key or time
    answers.answer        canonical JSON of what was read from the response: state, text, usage
      (tokens in and out), model, finish, error
    answers.response      the response's JSON as it came; empty for a request that the server
      refused to take
    answers.sha256        sha256 of answer, a line feed, response; checked whenever an answer is
      read
    answers.sent_unix_s, seconds, usd, via   when it was sent, how long it took, its price (null: no
      price known), and online or batch
    batches               what was submitted to a batch API: its id, the requests in it by key, and
      whether it was collected
`Store.get(key_of(request_of(settings, messages, attempt)))` is the stored answer or None. An answer
with a text stays until its store is named to `make forget`. What has none (a refusal, nothing, a
cut before the first word, an error) is kept for a replay, and gives way as soon as there is
another: a new server, SDK or account may answer. Each job has a store of its own, so that jobs on
several machines never share a writer; `exchange_answers.py` combines them into one file,
`forget_failures.py` removes failures, or all of a named store.
"""

import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import canonical, same_json, sha256_text
from bezoar.readers import parse_json

# Of a row (of the table, or OLD): whether its answer has a text that a stage can go on with.
USABLE = (
    "(json_extract({0}answer, '$.text') <> '' AND"
    " coalesce(json_extract({0}answer, '$.state'), 'answered') IN ('answered', 'truncated'))"
)
STAY = f"""
CREATE TRIGGER IF NOT EXISTS no_delete_of_answers BEFORE DELETE ON answers
    WHEN {USABLE.format("OLD.")} BEGIN SELECT RAISE(ABORT, 'append-only'); END
"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, response TEXT NOT NULL,
    sha256 TEXT NOT NULL, sent_unix_s REAL NOT NULL, seconds REAL NOT NULL, usd REAL,
    via TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT, asked_unix_s REAL NOT NULL, requests TEXT NOT NULL,
    collected INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON answers
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
DROP TRIGGER IF EXISTS no_delete;
{STAY};
"""
REMOVE_FAILURE = f"DELETE FROM answers WHERE key = ? AND NOT {USABLE.format('')}"
Step = tuple[str, list[tuple[Any, ...]] | None]  # a statement, and the values of each execution
COLUMNS = ("key", "request", "answer", "response", "sha256", "sent_unix_s", "seconds", "usd", "via")
INSERT = f"INSERT OR IGNORE INTO answers VALUES ({','.join('?' * len(COLUMNS))})"
DISK_ERRORS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
AT_ONCE = 500  # keys a query; SQLite's oldest limit on variables is 999
BUSY_S = 60  # how long to wait for another process that holds the file
LOG_HEADER = 32  # bytes at the start of a write-ahead log, others each time it begins anew
COPIES = 9  # attempts to copy a file with its log while the log is not restarted


@dataclass(frozen=True)
class Entry:
    """One answer on its way into the store."""

    key: str
    request: dict[str, Any]
    answer: dict[str, Any]
    response: str = ""
    sent_unix_s: float = 0.0
    seconds: float = 0.0
    usd: float | None = None
    via: str = "online"

    def row(self) -> tuple[Any, ...]:
        """Return the columns in order."""
        answer = canonical(self.answer)
        return (
            self.key,
            canonical(self.request),
            answer,
            self.response,
            digest(answer, self.response),
            self.sent_unix_s,
            self.seconds,
            self.usd,
            self.via,
        )


def key_of(request: dict[str, Any]) -> str:
    """Return the sha256 of the canonical request: the same question to the same model with the same
    settings and attempt.
    """
    return sha256_text(canonical(request))


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two requests differ in nothing but messages and attempt."""
    apart = ("messages", "attempt")
    first, second = ({k: v for k, v in r.items() if k not in apart} for r in (one, other))
    return same_json(first, second)


def usable(answer: Mapping[str, Any]) -> bool:
    """Say whether a stored answer has a text that a stage can go on with, as `USABLE` does."""
    return bool(answer["text"]) and answer.get("state", "answered") in ("answered", "truncated")


def stores_of(results: str | Path) -> list[Path]:
    """Return the stores of a run, sorted."""
    return sorted(Path(results, "store").glob("*.sqlite"))


def is_shard(store: Path) -> bool:
    """Whether a store holds one shard's answers, as `bezoar.llm.shards` names it."""
    return ".shard-" in store.name


def job_of(store: Path) -> str:
    """Return the name of a job's own store, also for the store of one of its shards."""
    return re.sub(r"\.shard-\d+-of-\d+", "", store.name)


def _removal(keys: list[tuple[Any, ...]]) -> list[Step]:
    """Return the steps that remove answers which otherwise stay."""
    return [
        ("DROP TRIGGER no_delete_of_answers", None),
        ("DELETE FROM answers WHERE key = ?", keys),
        (STAY, None),
    ]


def digest(answer: str, response: str) -> str:
    """Return the hash that an answer is checked against."""
    return sha256_text(f"{answer}\n{response}")


def _connect_still(path: Path) -> sqlite3.Connection:
    """Connect to a store that nobody writes meanwhile, without a lock and without a log."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)


def _log_of(path: Path) -> Path:
    """Return the write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def _log_header(path: Path) -> bytes:
    """Return how a store's log begins; nothing if it holds nothing."""
    try:
        with _log_of(path).open("rb") as log:
            return log.read(LOG_HEADER)
    except FileNotFoundError:
        return b""


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect to a store that another process may write, on whatever machine, without a lock, and
    without a write to it or to its log. What the log holds is read from a copy.
    """
    for _ in range(COPIES):
        header = _log_header(path)
        if not header:
            return _connect_still(path)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, path.name)
            shutil.copyfile(path, copy)  # first: the log has whatever is moved here meanwhile
            with suppress(FileNotFoundError):
                shutil.copyfile(_log_of(path), _log_of(copy))
            if _log_header(copy) == _log_header(path) == header:
                with closing(sqlite3.connect(copy)) as whole:
                    whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return _connect_still(copy)  # its file goes with the connection
    raise UserError(f"{path}: is written faster than it can be copied; try again later")


def edited(path: Path) -> list[str]:
    """Return what is wrong with a store's rows, which nothing but an edit by hand explains: a
    request that is not its key's, an answer that is not its hash's. The file is only read.
    """
    found = []
    try:
        with closing(_connect_still(path)) as held:
            for key, request, answer, response, sha256 in held.execute(
                "SELECT key, request, answer, response, sha256 FROM answers ORDER BY key"
            ):
                if sha256_text(request) != key:
                    found.append(f"request {key[:12]}… does not match its key")
                if digest(answer, response) != sha256:
                    found.append(f"answer {key[:12]}… does not match its hash")
    except sqlite3.Error as error:
        found.append(f"cannot be read as a store ({error})")
    return found


class Store:
    """One job's answers.

    A shard's store has SQLite's rollback journal: shards on other machines read it, and a
    write-ahead log needs memory that all its readers share. The others have that log, which takes
    half the time; opened `to_read`, they are left as they are, whoever writes them.
    """

    def __init__(self, path: Path, to_read: bool = False) -> None:
        self.path = path
        try:
            if to_read and not is_shard(path):
                self.connection = _connect_to_read(path)
                table = "SELECT 1 FROM sqlite_master WHERE name = 'answers'"
                if not self.connection.execute(table).fetchone():  # not made yet, or killed before
                    self.connection = sqlite3.connect(":memory:")
                    self.connection.executescript(SCHEMA)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.connection = sqlite3.connect(path, timeout=BUSY_S)
                if not is_shard(path):
                    self.connection.execute("PRAGMA journal_mode=WAL")
                self.connection.execute("PRAGMA synchronous=FULL")
                self.connection.executescript(SCHEMA)
            self.connection.execute(f"SELECT {','.join(COLUMNS)} FROM answers LIMIT 1")
        except (sqlite3.Error, OSError) as error:
            kind = str(getattr(error, "sqlite_errorname", ""))
            if isinstance(error, OSError) or kind.startswith(DISK_ERRORS):
                advice = "free space, or name a place that can be written"
            else:
                advice = "move it away or restore it from an export"
            raise UserError(f"{path}: cannot be used as a store ({error}); {advice}") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the stored answer, checked against its hash, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return key -> stored answer, for those that are there."""
        wanted, found = sorted(keys), {}  # in the file's order, so that each page is read once
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            query = (
                "SELECT key, answer, response, sha256 FROM answers WHERE key IN"
                f" ({','.join('?' * len(part))})"
            )
            for key, answer, response, sha256 in self._read(query, part):
                self._require_hash(key, answer, response, sha256)
                found[key] = self._object(answer, f"answer {key[:12]}…")
        return found

    def put(self, entries: Iterable[Entry], instead: Collection[str] = ()) -> None:
        """Append entries in one transaction. The first answer with a text to a request stays, but
        for the keys in `instead`; a failure gives way.
        """
        rows = [entry.row() for entry in entries]
        if not rows:
            return
        replaced = [(row[0],) for row in rows if row[0] in instead]
        steps: list[Step] = [(REMOVE_FAILURE, [(row[0],) for row in rows]), (INSERT, rows)]
        self._write_all([*_removal(replaced), *steps] if replaced else steps)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield every answer's columns in the order of keys, checked against its hash."""
        for row in self._read(f"SELECT {','.join(COLUMNS)} FROM answers ORDER BY key", ()):
            key, _, answer, response, sha256, *_ = row
            self._require_hash(key, answer, response, sha256)
            yield row

    def _require_hash(self, key: str, answer: str, response: str, sha256: str) -> None:
        if digest(answer, response) != sha256:
            raise UserError(
                f"{self.path}: answer {key[:12]}… does not match its hash; restore the store from"
                " an export"
            )

    def put_rows(self, rows: list[tuple[Any, ...]]) -> int:
        """Append rows of another store; return how many were new. One with a text takes the place
        of a failure.
        """
        good = [(row[0],) for row in rows if usable(self._object(row[2], f"answer {row[0][:12]}…"))]
        return self._write_all([(REMOVE_FAILURE, good), (INSERT, rows)])

    def forget(self, keys: Iterable[str]) -> None:
        """Remove answers, whatever they are, so that they are asked for again."""
        self._write_all(_removal([(key,) for key in keys]))

    def prices(self, keys: Iterable[str]) -> dict[str, float]:
        """Return key -> USD of the answers whose price is known."""
        query = "SELECT usd FROM answers WHERE key = ? AND usd IS NOT NULL"
        found = ((key, self._read(query, (key,))) for key in keys)
        return {key: rows[0][0] for key, rows in found if rows}

    def example(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """Return a request with the settings of `like` that was answered, or None."""
        query = (
            "SELECT request FROM answers WHERE json_extract(request, '$.model') = ?"
            " AND json_extract(answer, '$.state') IN ('answered', 'truncated') LIMIT 1000"
        )
        for (request,) in self._read(query, (like["model"],)):
            known = self._object(request, "a request")
            if same_settings(known, like):
                return known
        return None

    def batch_asked(self, requests: dict[str, dict[str, Any]]) -> tuple[int, float]:
        """Record that a batch of requests is about to be submitted; return its number here and the
        time.
        """
        now = time.time()
        self._write(
            "INSERT INTO batches (asked_unix_s, requests, collected) VALUES (?, ?, 0)",
            [(now, canonical(requests))],
        )
        return self._read("SELECT max(number) FROM batches", ())[0][0], now

    def batch_named(self, number: int, name: str) -> None:
        """Record the provider's id of a batch."""
        self._write("UPDATE batches SET id = ? WHERE number = ?", [(name, number)])

    def batch_collected(self, number: int) -> None:
        """Record that everything a batch returned has been stored."""
        self._write("UPDATE batches SET collected = 1 WHERE number = ?", [(number,)])

    def open_batches(self) -> list[tuple[int, str | None, float, dict[str, dict[str, Any]]]]:
        """Return (number, id or None, when it was asked, requests by key) of batches not yet
        collected.
        """
        query = (
            "SELECT number, id, asked_unix_s, requests FROM batches WHERE NOT collected ORDER BY"
            " number"
        )
        return [
            (number, name, asked, self._requests(number, requests))
            for number, name, asked, requests in self._read(query, ())
        ]

    def _requests(self, number: int, text: object) -> dict[str, dict[str, Any]]:
        """Return the requests of a batch by key, each checked against its key."""
        requests = self._object(text, f"batch {number}")
        for key, request in requests.items():
            if not isinstance(request, dict) or key_of(request) != key:
                raise UserError(
                    f"{self.path}: batch {number}: request {key[:12]}… does not match its key;"
                    " restore the store from an export"
                )
        return requests

    def _object(self, text: object, what: str) -> dict[str, Any]:
        """Return an object that was stored as JSON."""
        try:
            value = parse_json(text if isinstance(text, str) else "", what)
        except UserError:
            value = None
        if not isinstance(value, dict):
            raise UserError(
                f"{self.path}: {what}: expected a JSON object; restore the store from an export"
            )
        return value

    def batch_names(self) -> set[str]:
        """Return the provider's ids of all batches that were ever submitted."""
        found = self._read("SELECT id FROM batches WHERE id IS NOT NULL", ())
        return {name for (name,) in found}

    def _read(self, query: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be read ({error}); restore the store from an export"
            ) from None

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._write_all([(statement, rows)])

    def _write_all(self, steps: "list[Step]") -> int:
        """Do all steps in one transaction; return how many rows the last of them changed."""
        changed = 0
        try:
            with self.connection:
                self.connection.execute("BEGIN IMMEDIATE")
                for statement, rows in steps:
                    if rows is None:
                        changed = self.connection.execute(statement).rowcount
                    else:
                        changed = self.connection.executemany(statement, rows).rowcount
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be written ({error}); free space and run again, what is"
                " stored is kept"
            ) from None
        return changed

    def close(self) -> None:
        """Fold a write-ahead log into the file, so that the file alone is the store."""
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be written ({error}); free space and run again, what is"
                " stored is kept"
            ) from None
        finally:
            self.connection.close()
