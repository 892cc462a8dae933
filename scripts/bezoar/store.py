"""An append-only SQLite file of requests to language models and their answers, looked up by content."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import canonical, sha256_text

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, answer_sha256 TEXT NOT NULL, seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON answers BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


def key_of(request: dict[str, Any]) -> str:
    """Return the sha256 of the canonical request: the same question to the same model with the same settings and attempt."""
    return sha256_text(canonical(request))


class Store:
    """One job's answers. Values are raw: text, finish reason, usage and model as the server reported them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self.connection = sqlite3.connect(path)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot be used as a store ({error}); move it away or restore it from an export") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the stored answer, checked against its hash, or None."""
        found = self.connection.execute("SELECT answer, answer_sha256 FROM answers WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        if sha256_text(found[0]) != found[1]:
            raise UserError(f"{self.path}: answer {key[:12]}… does not match its hash; restore the store from an export")
        return json.loads(found[0])

    def put(self, entries: list[tuple[str, dict[str, Any], dict[str, Any], float]]) -> None:
        """Append (key, request, answer, seconds) entries in one transaction."""
        rows = []
        for key, request, answer, seconds in entries:
            text = canonical(answer)
            rows.append((key, canonical(request), text, sha256_text(text), seconds))
        try:
            with self.connection:
                self.connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: cannot be written ({error}); free space and run again, what is stored is kept") from None

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that the file alone is the store."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
