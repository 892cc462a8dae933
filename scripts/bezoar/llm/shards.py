"""One stage's requests in several processes: each stores the answers to its share in a store of its
own, and a run without a shard combines them.

    generate_orca.py --shard 1/3 …        (and 2/3, 3/3, in any order, each as often as it says that
      it waits, or all at once with --wait)
    generate_orca.py …                    asks only what no shard has asked, and writes the same
      bytes as if there had been none

A request belongs to the shard that its sha256 falls to, so that neither order nor number of shards
changes what is asked; where any store of the job has its answer already, none asks again. A request
that depends on another's answer (a response, the next epoch) can be sent once that answer is there,
whichever shard it came from.
"""

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.llm.answer_store import Store
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import Messages, ModelSpec, request_of
from bezoar.llm.stored_model import StoredModel, checked, final, keys_of

POLL_S = 1.0


class Waiting(Exception):
    """This shard has asked all it can; the rest depends on answers of other shards."""


def shard_of_text(text: str) -> tuple[int, int]:
    """Read `k/n`, 1 <= k <= n; raise `UserError` otherwise."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {text}: expected k/n with 1 <= k <= n, such as 2/8")
    return int(match[1]), int(match[2])


def store_of(job: Path, shard: tuple[int, int]) -> Path:
    """Return the store of one shard of a job."""
    number, of = shard
    return job.with_name(f"{job.stem}.shard-{number}-of-{of}{job.suffix}")


def shard_stores(store: Path) -> list[Path]:
    """Return the stores of all shards of a job that are there, whatever their number."""
    return sorted(store.parent.glob(f"{store.stem}.shard-*-of-*{store.suffix}"))


def stores_with(store: Path) -> list[Path]:
    """Return the stores that hold answers of a job: its own, if it is there, and its shards'."""
    return [*([store] if store.is_file() else []), *shard_stores(store)]


def gather(store: Path) -> None:
    """Put the answers of all shards into the job's own store."""
    for path in shard_stores(store):
        part, whole = Store(path), Store(store)
        whole.put_rows(list(part.rows()))
        part.close()
        whole.close()


def change(store: Path, shard: tuple[int, int]) -> list[tuple[str, int, int]]:
    """Return what changes when another shard of a job than `shard`, or of its second model, stores
    an answer.
    """
    found, own = [], store_of(store, shard).name.removeprefix(store.stem)
    for path in store.parent.glob(f"{store.stem}*.shard-*"):
        if own in path.name:
            continue
        with suppress(FileNotFoundError):  # SQLite's own, gone meanwhile
            facts = path.stat()
            # Journals come and go, and readers write the other, too.
            if facts.st_size and not path.name.endswith(("-journal", "-shm")):
                found.append((path.name, facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def wait_for_others(
    store: Path, shard: tuple[int, int], seen: list[tuple[str, int, int]], seconds: float
) -> bool:
    """Wait until other shards than `shard` have stored something since `seen`; say whether they
    have within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while change(store, shard) == seen:
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(POLL_S, seconds))
    return True


class ShardedModel:
    """Asks one shard's requests of a model and takes the others' answers from their stores.

    `job` is the job's own store, `shard` is (k, n); `asked_again` is as of a `StoredModel`.
    """

    def __init__(
        self,
        settings: ModelSpec,
        job: Path,
        concurrency: int,
        facts: Path | None,
        mode: str | None,
        shard: tuple[int, int],
        asked_again: set[str] | None = None,
    ) -> None:
        self.number, self.of = shard
        self.job = job
        path = store_of(job, shard)
        self.own = StoredModel(settings, path, concurrency, facts, mode, asked_again)

    @property
    def settings(self) -> ModelSpec:
        """What model it is."""
        return self.own.settings

    @property
    def mode(self) -> str:
        """How it is asked."""
        return self.own.mode

    @property
    def sent(self) -> int:
        """How many calls this shard sent."""
        return self.own.sent

    @property
    def usd(self) -> float:
        """What they were charged."""
        return self.own.usd

    def used(self) -> dict[str, float]:
        """Return what this shard's own answers are and cost."""
        return self.own.used()

    def open(self) -> None:
        """Open this shard's store."""
        self.own.open()

    def close(self) -> None:
        """Close this shard's store."""
        self.own.close()

    def answers(
        self, prompts: list[Messages], names: list[str], attempt: int, schema: dict[str, Any] | None
    ) -> list[Answer]:
        """Return one answer a prompt, in order; what any shard or the job itself has stored is not
        asked again, unless it failed. Raise `Waiting` if some are for other shards to ask.
        """
        requests = [request_of(self.settings, prompt, attempt, schema) for prompt in prompts]
        keys = keys_of(requests, names)
        found = self._from_others(set(keys))
        done = {
            key
            for key, stored in found.items()
            if self.mode == "replay" or final(stored, self.settings)
        }
        mine = [
            i
            for i, key in enumerate(keys)
            if key not in done and int(key[:8], 16) % self.of == self.number - 1
        ]
        own = self.own.answers(
            [prompts[i] for i in mine], [names[i] for i in mine], attempt, schema
        )
        answers = dict(zip(mine, own, strict=True))
        left = {key for i, key in enumerate(keys) if i not in answers}
        found |= self._from_others(left - done)  # what has come meanwhile
        answers |= {
            i: checked(found[key], self.settings)
            for i, key in enumerate(keys)
            if i not in answers and key in found
        }
        if len(answers) < len(prompts):
            raise Waiting(
                f"shard {self.number}/{self.of} waits for {len(prompts) - len(answers)} answers of"
                " other shards; run those, then this one again"
            )
        return [answers[i] for i in range(len(prompts))]

    def _from_others(self, wanted: set[str]) -> dict[str, dict[str, Any]]:
        """Return the stored answers of other shards and of the job itself, by key; a failure only
        where none of them has a text.
        """
        found: dict[str, dict[str, Any]] = {}
        for path in stores_with(self.job) if wanted else ():
            if path == self.own.path and self.mode != "replay":
                continue  # it asks what failed there once more
            other = Store(path, to_read=True)
            for key, stored in other.get_many(wanted).items():
                if key not in found or final(stored, self.settings):
                    found[key] = stored
            other.close()
        return found
