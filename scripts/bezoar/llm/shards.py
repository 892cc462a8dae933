"""One stage's requests in several processes: each asks its share into a store of its own, and a run
without a shard puts them together.

    generate_orca.py --shard 1/3 …        (and 2/3, 3/3, in any order, each as often as it says that
      it waits)
    generate_orca.py …                    asks only what no shard has asked, and writes the same
      bytes as if there had been none

A request belongs to the shard that its sha256 falls to, so that neither order nor number of shards
changes what is asked. A request that follows from another's answer (a response, the next epoch) can
be asked once that answer is there, whichever shard it is from.
"""

import re
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.llm.answer_store import Store, key_of
from bezoar.llm.client import Answer, LLMClient, request_of


class Waiting(Exception):
    """This shard has asked all it can; the rest follows from answers of other shards."""


def shard_of_text(text: str) -> tuple[int, int]:
    """Read `k/n`, 1 <= k <= n; raise `UserError` otherwise."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {text}: expected k/n with 1 <= k <= n, such as 2/8")
    return int(match[1]), int(match[2])


def shard_stores(store: Path) -> list[Path]:
    """Return the stores of all shards of a job that are there, whatever their number."""
    return sorted(store.parent.glob(f"{store.stem}.shard-*-of-*{store.suffix}"))


def gather(store: Path) -> None:
    """Put the answers of all shards into the job's own store."""
    for path in shard_stores(store):
        part, whole = Store(path), Store(store)
        whole.put_rows(list(part.rows()))
        part.close()
        whole.close()


class Shard(LLMClient):
    """A door that asks one shard's requests and takes the others' answers from their stores."""

    def __init__(
        self,
        settings: dict[str, Any],
        store: Path,
        concurrency: int,
        facts: Path | None,
        mode: str | None,
        shard: tuple[int, int],
    ) -> None:
        self.number, self.of = shard
        super().__init__(
            settings,
            store.with_name(f"{store.stem}.shard-{self.number}-of-{self.of}{store.suffix}"),
            concurrency,
            facts,
            mode,
        )
        self.job = store

    def _ask(
        self,
        prompts: list[list[dict[str, str]]],
        names: list[str],
        attempt: int,
        schema: dict[str, Any] | None,
    ) -> list[Answer]:
        keys = [key_of(request_of(self.settings, prompt, attempt, schema)) for prompt in prompts]
        mine = [i for i, key in enumerate(keys) if int(key[:8], 16) % self.of == self.number - 1]
        answers = dict(
            zip(
                mine,
                super()._ask([prompts[i] for i in mine], [names[i] for i in mine], attempt, schema),
                strict=True,
            )
        )
        found: dict[str, dict[str, Any]] = {}
        for path in [*shard_stores(self.job), *([self.job] if self.job.exists() else [])]:
            other = Store(path)
            found |= other.get_many(
                {key for i, key in enumerate(keys) if i not in answers} - found.keys()
            )
            other.close()
        answers |= {
            i: self._checked(found[key])
            for i, key in enumerate(keys)
            if i not in answers and key in found
        }
        if len(answers) < len(prompts):
            raise Waiting(
                f"shard {self.number}/{self.of} waits for {len(prompts) - len(answers)} answers of"
                " other shards; run them, then it again"
            )
        return [answers[i] for i in range(len(prompts))]
