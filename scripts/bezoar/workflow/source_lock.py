"""Fetched sources: config/sources.lock holds the hash or revision that the first fetch found where
none is published.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import NO_LOCKS, UNLOCKABLE, write_json
from bezoar.provenance.fingerprint import pin, recorded

LOCK = Path("config/sources.lock")


def pinned(entry: dict[str, Any], lock: Path) -> dict[str, Any]:
    """Return a hub repository's entry with its commit, if that is known."""
    return {**entry, "revision": pin(entry, lock)}


@contextmanager
def locked(lock: Path) -> Iterator[dict[str, Any]]:
    """Yield the lock file's content for change; one process at a time."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock.with_suffix(".lock.guard"), "w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
            raise UserError(f"{lock.parent}: {error.strerror}; {NO_LOCKS}") from None
        content = recorded(lock)
        before = json.dumps(content, sort_keys=True)
        yield content
        if json.dumps(content, sort_keys=True) != before:
            write_json(lock, dict(sorted(content.items())))


def require(identifier: str, what: str, found: str, published: str | None, lock: Path) -> None:
    """Raise `UserError` unless `found` is the published value, or the one the first fetch
    recorded.
    """
    with locked(lock) as content:
        expected = published or content.get(identifier)
        if expected is None:
            content[identifier] = found
            print(f"{identifier}: no published {what}; recorded {found} in {lock}", flush=True)
        elif expected != found:
            raise UserError(
                f"{identifier}: expected {what} {expected}, found {found}; fetch it again, or ask"
                " why the source changed"
            )
